"""What Hydra calls for each combination, here or in a job of a scheduler, which imports it by its name."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig
from rich.console import Console

from harness.output.spoken import spoken
from harness.processes.interrupt import PREEMPTION, SIGNALS, code_of
from harness.settings.compose import resolved, to_config
from harness.settings.config import RunConfig

USERS_MISTAKE = 2
INTERRUPTED = {128 + number for number in (*SIGNALS, PREEMPTION)}
"""Exit codes of a run that was asked to end."""
CODES: list[int] = []
"""The exit code of each run so far, in the process that the user started; launchers add those of their jobs."""


def task(composed: DictConfig) -> int:
    """One run; its exit code. Raises SystemExit when it was interrupted: of several runs the rest does not start."""
    CODES.append(run_composed(composed))
    in_sweep = HydraConfig.get().mode == RunMode.MULTIRUN
    if in_sweep and CODES[-1] == USERS_MISTAKE:
        _remove_unused(Path(HydraConfig.get().runtime.output_dir))
    if CODES[-1] in INTERRUPTED:
        if in_sweep:
            again = f"the same command with hydra.sweep.dir={HydraConfig.get().sweep.dir} goes on"
            print(f"the runs behind it did not begin: {again}", flush=True)
        raise SystemExit(CODES[-1])
    return CODES[-1]


def run_composed(composed: DictConfig) -> int:
    """One run of a composed configuration; its exit code."""
    from harness.settings import validate

    try:
        config = to_config(composed)
        validate.check(config)
        if config.dry_run:
            return spoken(lambda: preview(composed))
        from harness import run, start  # loads pandas and NVML: not for a dry run

        _place_in_sweep(config)
        begun = start.begin(config, resolved(composed))
    except ValueError as error:
        return refuse(error)
    except KeyboardInterrupt as asked:
        print("interrupted before anything was started", file=sys.stderr)
        return code_of(asked)
    return run.carry_out(begun)


def preview(*composed: DictConfig, titles: Sequence[str] = ("",)) -> None:
    """Print the plan of each run, under its title where it has one, and why this machine would refuse it where it
    would.

    Raises:
        ValueError: an output folder that this run may not have, as the run itself would say.
    """
    from harness import folder  # loads pandas: not for a run's --help
    from harness.output.manifest import settings
    from harness.settings import plan
    from harness.settings.machine import check_named

    console = Console()
    for one, title in zip(composed, titles, strict=True):
        config = to_config(one)
        if config.output is not None:
            folder.check_folder(folder.choose_folder(config), settings(resolved(one)))
        if title:
            console.print(title, markup=False, highlight=False, soft_wrap=True)
        plan.show(config, console, folder.done_of(config))
        try:
            check_named(config)
        except ValueError as error:
            console.print(f"not for this machine: {error}", markup=False, highlight=False, soft_wrap=True)


def _place_in_sweep(config: RunConfig) -> None:
    """A run of several has its folder in that of the sweep, named after its overrides, unless it names one itself."""
    if config.output is None and HydraConfig.get().mode == RunMode.MULTIRUN:
        config.output = str(Path(HydraConfig.get().runtime.output_dir))


def _remove_unused(folder: Path) -> None:
    """Remove the folder that Hydra made for a run of a sweep, where it was refused and left nothing but its lock."""
    from harness.folder import NOTHING_YET

    if folder.is_dir() and {path.name for path in folder.iterdir()} <= NOTHING_YET:
        shutil.rmtree(folder)


def refuse(error: ValueError) -> int:
    """Tell the user what is wrong."""
    print(f"error: {error}", file=sys.stderr)
    return USERS_MISTAKE
