"""The referee, started behind all blocks: one child more, which asks the reference about the other cases' timed ids."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from harness import attempt
from harness.folder import check_there
from harness.job import Job, read_job
from harness.measure.referee import judged_cases
from harness.output import manifest, record
from harness.output.judged import TABLE
from harness.processes.launch import command, run_child
from harness.processes.progress import Watcher
from harness.schema import REFERENCE

if TYPE_CHECKING:  # which asks here whether a run that goes on needs a GPU
    from harness.start import Run

NO_GPU = "this machine has no GPU for it"


def judge(run: Run, job: Job, watch: Watcher) -> str:
    """Have referee.csv made where it can be and is not there; why it could not, "" where nothing went wrong.

    What goes wrong here fails nothing that was measured: the reason stands in manifest.json.
    """
    if not due(job) or (run.folder / TABLE).is_file():
        return ""
    run.interrupts.check()
    if job.device == "cuda" and run.gpu is None:
        manifest.judged(run.folder / "manifest.json", NO_GPU)
        return NO_GPU
    check_there(run.folder, [run.folder / "samples.csv"])
    watch.begin("Referee")
    entry = job.cases[REFERENCE]
    call = command(entry.python, run.worker, "judge", str(run.folder / "job.json"))
    log = run.folder / "referee.log"
    outcome = run_child(call, run.environment(), log, entry.timeout_s, watch.event, run.interrupts)
    reason = "" if outcome.state == "ok" else outcome.reason or outcome.state
    if not reason and not (run.folder / TABLE).is_file():
        reason = f"said ok, but wrote no {TABLE}"
    if reason:
        run.interrupts.check()  # what was stopped on the way is made when the run goes on
        (run.folder / TABLE).unlink(missing_ok=True)
    watch.end(f"{outcome.state} {reason}".strip(), counted=False)
    manifest.judged(run.folder / "manifest.json", reason)
    return reason


def awaited(folder: Path) -> bool:
    """Whether a run whose blocks are all done still has to be judged. Raises ValueError on a damaged job.json."""
    return not (folder / TABLE).is_file() and due(read_job(folder / "job.json", folder))


def due(job: Job) -> bool:
    """Whether there is something to judge, and a reference that answered requests of this run."""
    if not judged_cases(job):
        return False
    if not any(state(job, REFERENCE, block) == "ok" for block in range(job.blocks_of(REFERENCE))):
        return False
    pairs = [(case, block) for case, block in job.order if case in judged_cases(job)]
    stored = [attempt.stored_samples(job.block_dir(case, block) / "samples.csv") for case, block in pairs]
    return any(one["ttft"] or one["decode"] for one in stored)


def state(job: Job, case: str, block: int) -> str:
    """How a block ended, "" where it did not."""
    row = record.read_verdict(job, case, block)
    return "" if row is None else str(row["state"])
