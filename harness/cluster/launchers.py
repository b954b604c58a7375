"""The launchers that a sweep may have besides Hydra's basic one, both made of hydra-submitit-launcher and submitit.

A preempted job is checkpointed and requeued by submitit: the same combination starts again, finds its folder by its
overrides, and goes on where it was.
"""

from __future__ import annotations

import math
import os
import signal
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from subprocess import CalledProcessError
from typing import Any

from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, filter_overrides
from hydra_plugins.hydra_submitit_launcher.submitit_launcher import BaseSubmititLauncher, SlurmLauncher
from submitit.core.utils import UncompletedJobError
from submitit.local.local import LocalExecutor, LocalJob

from harness.cluster.requeue import wait_to_be_ended
from harness.cluster.slots import Slot, chosen, slots
from harness.machine.gpu import list_gpus
from harness.machine.placement import VARIABLE, Place
from harness.processes.interrupt import Interrupts
from harness.processes.leftovers import MARK, mark
from harness.processes.warden import warden
from harness.task import CODES, refuse

A_WEEK_MIN = 7 * 24 * 60
CTRL_C = 128 + signal.SIGINT
POLL_S, ASK_AGAIN_S = 0.5, 10.0
MEND = "run this where sbatch and srun are, with hydra.launcher.partition and account as the cluster knows them"
LOST = 1
"""The exit code of a run whose job ended without saying one."""


class Slurm(SlurmLauncher):
    """hydra-submitit-launcher's, which also says what it does, and passes on the exit codes of the runs."""

    def __init__(self, **params: Any) -> None:
        super().__init__(**params)
        extra = self.params.get("additional_parameters") or {}
        # sbatch knows no `--exclusive=False`: what is switched off is left out.
        self.params["additional_parameters"] = {
            key: value for key, value in extra.items() if value is not False and value is not None
        }

    def __call__(self, *arguments: Any) -> JobReturn:
        """In the job: one run. Where SLURM asked it to end, it stops at once and then waits to be ended."""
        alone = self.params["additional_parameters"].get("exclusive")
        unknown = {"runs": None, "gpus": None, "cores": None}
        os.environ[VARIABLE] = Place("slurm", None if alone else unknown).text()
        try:
            return super().__call__(*arguments)
        except SystemExit as stopped:
            if isinstance(stopped.code, int) and "SLURM_JOB_ID" in os.environ:
                wait_to_be_ended(stopped.code)
            raise

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Submit every combination as one array, and wait for all."""
        assert self.config is not None  # noqa: S101  set by Hydra
        print(
            f"{len(job_overrides)} jobs to SLURM; runs and .submitit (logs) in {self.config.hydra.sweep.dir}",
            flush=True,
        )
        try:
            returns: Sequence[JobReturn] = super().launch(job_overrides, initial_job_idx)
        except RuntimeError as error:
            if isinstance(error, UncompletedJobError) and not isinstance(error.__cause__, CalledProcessError):
                print(f"error: a job ended without a result ({_last_line(error)}); the other jobs go on", flush=True)
                raise SystemExit(LOST) from error
            remove_unused(Path(str(self.config.hydra.sweep.dir)))
            raise SystemExit(refuse(ValueError(f"SLURM took no job ({_last_line(error)}): {MEND}"))) from error
        except KeyboardInterrupt:
            print("no longer waiting; the jobs go on: scancel ends them", flush=True)
            raise SystemExit(CTRL_C) from None
        CODES.extend(one.return_value for one in returns)
        return returns


class LocalGpus(BaseSubmititLauncher):
    """One run a GPU at a time on this host, by submitit's local executor.

    hydra-submitit-launcher's submitit_local starts every job at once and gives all the same GPUs, and joblib's workers
    know neither GPUs nor requeueing. What is added here: a queue a GPU, cores for each, and a word to each run about
    its neighbours.
    """

    _EXECUTOR = "local"

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run every combination, the next one on whichever GPU is free; no run outlives this process, even killed.

        Raises:
            SystemExit: interrupted; once lets each run finish its request, twice ends them at once.
        """
        places = self._slots(job_overrides)
        waiting = deque(enumerate(job_overrides, initial_job_idx))
        running: dict[Slot, tuple[int, LocalJob[JobReturn]]] = {}
        ended: dict[int, JobReturn] = {}
        with warden(), Interrupts() as interrupts:
            try:
                while waiting or running:
                    for slot in [slot for slot in places if slot not in running][: len(waiting)]:
                        number, overrides = waiting.popleft()
                        running[slot] = number, self._start(slot, number, list(overrides))
                    time.sleep(POLL_S)
                    for slot in [slot for slot, (_, job) in running.items() if job.done()]:
                        number, job = running.pop(slot)
                        ended[number] = _result(slot, job)
            except KeyboardInterrupt:
                _stop([job for _, job in running.values()], interrupts)
                folder = self.config.hydra.sweep.dir
                print(f"interrupted; the same command with hydra.sweep.dir={folder} goes on", flush=True)
                raise SystemExit(interrupts.exit_code) from None
            finally:
                with suppress(OSError):  # submitit makes a folder of the pattern's own name, and leaves it empty
                    Path(self.params["submitit_folder"]).rmdir()
        CODES.extend(one.return_value for one in ended.values())
        return [ended[number] for number in sorted(ended)]

    def _slots(self, combinations: Sequence[Sequence[str]]) -> list[Slot]:
        """A slot for each GPU that is used: no more than there are runs. Raises SystemExit(2) where there is no room.

        A smoke run on the CPU has slots without GPUs.
        """
        assert self.config is not None  # noqa: S101  set by Hydra
        assert self.hydra_context is not None  # noqa: S101  set by Hydra
        one = self.hydra_context.config_loader.load_sweep_config(self.config, list(combinations[0]))
        here, why = list_gpus() if one.device == "cuda" else ([], "")
        try:
            return slots(chosen(self.params["gpus"], here, why, one.device)[: len(combinations)], here)
        except ValueError as error:
            remove_unused(Path(self.config.hydra.sweep.dir))
            raise SystemExit(refuse(error)) from error

    def _start(self, slot: Slot, number: int, overrides: list[str]) -> LocalJob[JobReturn]:
        executor = LocalExecutor(self.params["submitit_folder"])
        visible = {"gpus_per_node": 1, "visible_gpus": [slot.gpu]} if slot.real else {"gpus_per_node": 0}
        executor.update_parameters(timeout_min=A_WEEK_MIN, tasks_per_node=1, nodes=1, **visible)
        parameters = (overrides, "hydra.sweep.dir", number, f"job_id_for_{number}", Singleton.get_state())
        with _in(slot):
            job: LocalJob[JobReturn] = executor.submit(self, *parameters)
        said = " ".join(filter_overrides(overrides))
        cores = f"{len(slot.cores)} core{'s' if len(slot.cores) > 1 else ''}"
        print(f"GPU {slot.gpu}, {cores}: {said} (log: {job.paths.stdout})", flush=True)
        return job


def remove_unused(sweep: Path) -> None:
    """Remove the folder of a sweep that did not begin, when it holds nothing but what Hydra wrote there."""
    if [path.name for path in sweep.glob("*")] == ["multirun.yaml"]:
        (sweep / "multirun.yaml").unlink()
        sweep.rmdir()


@contextmanager
def _in(slot: Slot) -> Iterator[None]:
    """What is started meanwhile has the slot's cores, knows its neighbours, and leaves Ctrl-C to this process."""
    cores = os.sched_getaffinity(0)
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ |= {VARIABLE: slot.place.text(), MARK: mark()}
    os.sched_setaffinity(0, slot.cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)
        del os.environ[VARIABLE], os.environ[MARK]
        signal.signal(signal.SIGINT, handler)


def _result(slot: Slot, job: LocalJob[JobReturn]) -> JobReturn:
    try:
        found = job.results()[0]
    except UncompletedJobError as error:
        print(f"GPU {slot.gpu}: the run ended without a result ({_last_line(error)})", flush=True)
        found = JobReturn(status=JobStatus.COMPLETED)
        found.return_value = LOST
    said = f": {_last_said(job)}" if found.return_value else ""
    print(f"GPU {slot.gpu}: exit code {found.return_value}: {' '.join(found.overrides or [])}{said}", flush=True)
    return found


def _last_said(job: LocalJob[JobReturn]) -> str:
    """The last line of a run that did not end well, and where the rest is."""
    lines = [line.strip() for line in (job.stderr() or job.stdout() or "").splitlines() if line.strip()]
    return f"{lines[-1][:300] if lines else 'it said nothing'} (log: {job.paths.stderr})"


def _stop(jobs: Sequence[LocalJob[JobReturn]], interrupts: Interrupts) -> None:
    """Ask every run to end until it has, behind its request in hand the first time that it hears, else at once.

    A run that is only starting up does not hear. Who asks twice here has every run asked once more without delay.
    """
    asked, hurried = -math.inf, False
    with suppress(KeyboardInterrupt), interrupts.shielded():
        while any(not job.done() for job in jobs):
            hurry = interrupts.times > 1 and not hurried
            hurried = hurried or hurry
            if hurry or time.monotonic() >= asked + ASK_AGAIN_S:
                asked = time.monotonic()
                for job in jobs:
                    if job._process is not None and not job.done():
                        job._process.send_signal(signal.SIGTERM)
            time.sleep(POLL_S)


def _last_line(error: Exception) -> str:
    said = [line.strip() for line in str(error).splitlines() if line.strip(" -")]
    return said[-1] if said else type(error).__name__
