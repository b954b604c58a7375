"""In a job of SLURM whose run was asked to end: whether SLURM ends the job by itself and starts it again.

A job that leaves before a preemption is over has failed, by SLURM's reckoning, and is not requeued. So the process of
such a job waits to be killed. One that nobody will end must not: it would hold its node for nothing.
"""

from __future__ import annotations

import re
import signal
import subprocess
import time

from harness.machine.placement import job

WAIT_S = 600.0
"""What SLURM may leave between its request to end and the end itself (GraceTime, KillWait)."""
ANSWER_S = 60.0


def wait_to_be_ended(code: int) -> None:
    """Wait where SLURM is about to end this job; return at once where it is not. `code`: the run's exit code."""
    if is_due(code):
        time.sleep(WAIT_S)


def is_due(code: int) -> bool:
    """Whether an end by SLURM follows the signal that `code` tells of.

    SLURM's own requests are SIGTERM. The notice before a limit (SIGUSR2) is submitit's, which requeues the job itself;
    SIGINT and SIGHUP come from a person alone. A person may send SIGTERM too (`scancel --signal=TERM`).
    """
    name = job()
    return code == 128 + signal.SIGTERM and name is not None and not _goes_on(_shown(name))


def _shown(name: str) -> str:
    """What `scontrol` says of a job; empty where it does not answer."""
    call = ["scontrol", "show", "job", "--oneliner", name]
    try:
        return subprocess.run(call, capture_output=True, text=True, check=True, timeout=ANSWER_S).stdout  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return ""


def _goes_on(shown: str) -> bool:
    """Whether the job is running as far as SLURM is concerned, and not chosen for a preemption.

    False of an empty text: a node held for minutes is the lesser harm beside a run that is not requeued.
    """
    running = re.search(r"\bJobState=RUNNING\b", shown) is not None
    return running and re.search(r"\bPreemptTime=(?!None\b|N/A\b|Unknown\b)", shown) is None
