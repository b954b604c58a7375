"""A run before anything is measured: its folder, its GPU, and the locks on both."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import IO, Any, cast

from rich.console import Console

from harness.folder import (
    SETTINGS,
    all_done,
    check_folder,
    check_machine_of,
    choose_folder,
    write_settings,
)
from harness.judging import awaited
from harness.machine import lock
from harness.machine.gpu import Gpu
from harness.output import manifest
from harness.processes.interrupt import Interrupts, Outlet
from harness.processes.launch import WORKER, child_environment
from harness.settings import conditions
from harness.settings.config import RunConfig
from harness.settings.machine import check_checkpoint, check_free, check_machine, make_folder


@dataclass(frozen=True)
class Run:
    """One run under way. `worker` is the module that children execute, `started` when the user's command began.

    `held`: the locks of the run's folder and GPU, let go of at the end of `carry_out`, or with this process.
    """

    config: RunConfig
    resolved: Mapping[str, Any]
    folder: Path
    gpu: Gpu | None
    console: Console
    started: str
    worker: str = WORKER
    held: ExitStack = field(default_factory=ExitStack)
    interrupts: Interrupts = field(default_factory=Interrupts)

    def environment(self) -> dict[str, str]:
        """What the children of this run see."""
        return child_environment(self.config.device, None if self.gpu is None else self.gpu.index)

    def say(self, line: str) -> None:
        """Print one line as it is."""
        say(self.console, line)


def say(console: Console, line: str) -> None:
    """Print one line as it is."""
    console.print(line, markup=False, highlight=False, soft_wrap=True)


def begin(config: RunConfig, resolved: Mapping[str, Any], worker: str = WORKER) -> Run:
    """Check the machine and the output folder, make the folder, and lock both; waits for a GPU that another run has.

    Raises ValueError, in one sentence on what this machine or the output folder can't do; nothing was made or started.
    """
    started, settings = manifest.now(), manifest.settings(resolved)
    folder = choose_folder(config)
    check_folder(folder, settings)
    gpu, interrupts = None, Interrupts()
    with interrupts, ExitStack() as held:
        console = Console(file=cast(IO[str], Outlet(interrupts.hang_up)))
        if folder.is_dir():
            held.enter_context(lock.hold_folder(folder))
        if not all_done(folder):
            gpu, folder = _take_machine(config, folder, settings, console, held)
        elif awaited(folder):
            gpu = _take_judges_gpu(config, folder, console, held)
        return Run(config, resolved, folder, gpu, console, started, worker, held.pop_all(), interrupts)


def _take_gpu(config: RunConfig, folder: Path, console: Console, held: ExitStack) -> Gpu | None:
    """The GPU that the run uses, which no other has then; None on the CPU. Raises ValueError."""
    gpu = check_machine(config)
    if gpu is None or config.device != "cuda":
        return gpu
    held.enter_context(lock.hold_gpu(gpu, folder, config.lock, partial(say, console)))
    return check_free(config)


def _take_judges_gpu(config: RunConfig, folder: Path, console: Console, held: ExitStack) -> Gpu | None:
    """The same for the referee of a run whose blocks are all done; None, and the reason said, where it can't be had."""
    try:
        gpu = _take_gpu(config, folder, console, held)
        check_machine_of(folder, gpu, child_environment(config.device, 0))
    except ValueError as error:
        say(console, f"no referee here: {error}")
        return None
    return gpu


def _take_machine(
    config: RunConfig, folder: Path, settings: Mapping[str, Any], console: Console, held: ExitStack
) -> tuple[Gpu | None, Path]:
    """Check what is to measure, take its GPU and the folder, which are returned, and write settings.json."""
    fresh = not folder.is_dir()
    check_checkpoint(config.model)
    gpu = _take_gpu(config, folder, console, held)
    if fresh and config.output is None:
        folder = choose_folder(config)  # a run of the same second may have its name by now
    check_machine_of(folder, gpu, child_environment(config.device, 0))
    for line in conditions.before(gpu):
        say(console, f"warning: {line}")
    make_folder("output", folder)
    if fresh:
        held.enter_context(lock.hold_folder(folder))
        check_folder(folder, settings)
    if not (folder / SETTINGS).exists():
        write_settings(folder, settings)
    return gpu, folder
