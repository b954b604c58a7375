"""Where a launcher put a run: which GPU and cores it was given, and who ran beside it. It goes into the manifest.

The launcher says it in the environment, so that it is no setting: a run that goes on elsewhere is the same run.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from typing import Any

from harness.machine.gpu import Gpu

VARIABLE = "LATENCY_PLACE"
JOB_IDS = (("SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID"), ("SLURM_JOB_ID",), ("SUBMITIT_LOCAL_JOB_ID",))


@dataclass(frozen=True)
class Place:
    """What the launcher knows. `neighbours`: runs at the same time on this host at most, the GPUs that they use and
    the cores of each; None when the host is this run's alone. A number of runs that is not known is null."""

    launcher: str
    neighbours: dict[str, Any] | None = None

    def text(self) -> str:
        """For VARIABLE."""
        return json.dumps(asdict(self))


def current() -> Place | None:
    """What the launcher of this process said, None when nobody launched it.

    Raises:
        ValueError: the variable was set by hand.
    """
    text = os.environ.get(VARIABLE)
    if text is None:
        return None
    try:
        return Place(**json.loads(text))
    except (ValueError, TypeError) as error:
        raise ValueError(f"the environment sets {VARIABLE}, which only a launcher sets: unset it") from error


def scheduled() -> bool:
    """Whether a launcher or SLURM started this process, and so chose its GPU."""
    return VARIABLE in os.environ or "SLURM_JOB_ID" in os.environ


def facts(gpu: Gpu | None, at: str) -> dict[str, Any]:
    """One attempt of a run for the manifest: launcher, job, the card by NVML, the cores that it may use."""
    place = current()
    return {
        "at": at,
        "launcher": place and place.launcher,
        "job": job(),
        "restarts": int(os.environ.get("SLURM_RESTART_COUNT", 0)),
        "visible": os.environ.get("CUDA_VISIBLE_DEVICES"),
        "gpu": None if gpu is None else {"index": gpu.index, "uuid": gpu.uuid},
        "cores": sorted(os.sched_getaffinity(0)),
    }


def job() -> str | None:
    """The scheduler's name of this job, as `squeue` shows it: 12_0 is the first of an array."""
    for names in JOB_IDS:
        if all(name in os.environ for name in names):
            return "_".join(os.environ[name] for name in names)
    return None


def neighbours() -> dict[str, Any] | None:
    """Who runs beside this run; see Place."""
    place = current()
    return place.neighbours if place else None
