"""What Hydra calls for each combination, here or in a job of a scheduler, which imports it by its name."""

from __future__ import annotations

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
    if CODES[-1] in INTERRUPTED:
        raise SystemExit(CODES[-1])
    return CODES[-1]


def run_composed(composed: DictConfig) -> int:
    """One run of a composed configuration; its exit code."""
    from harness.settings import validate

    try:
        config = to_config(composed)
        validate.check(config)
        if config.dry_run:
            return spoken(lambda: preview(config))
        from harness import run, start  # loads pandas and NVML: not for a dry run

        _place_in_sweep(config)
        begun = start.begin(config, resolved(composed))
    except ValueError as error:
        return refuse(error)
    except KeyboardInterrupt as asked:
        print("interrupted before anything was started", file=sys.stderr)
        return code_of(asked)
    return run.carry_out(begun)


def preview(*configs: RunConfig, titles: Sequence[str] = ("",)) -> None:
    """Print the plan of each run, under its title where it has one, and why this machine would refuse it where it has
    no such GPU."""
    from harness.settings import plan
    from harness.settings.machine import find_gpu

    console = Console()
    for config, title in zip(configs, titles, strict=True):
        if title:
            console.print(title, markup=False, highlight=False, soft_wrap=True)
        plan.show(config, console)
        try:
            if config.device == "cuda":
                find_gpu(config.gpu)
        except ValueError as error:
            console.print(f"not for this machine: {error}", markup=False, highlight=False, soft_wrap=True)


def _place_in_sweep(config: RunConfig) -> None:
    """A run of several has its folder in that of the sweep, named after its overrides, unless it names one itself."""
    if config.output is None and HydraConfig.get().mode == RunMode.MULTIRUN:
        config.output = str(Path(HydraConfig.get().runtime.output_dir))


def refuse(error: ValueError) -> int:
    """Tell the user what is wrong."""
    print(f"error: {error}", file=sys.stderr)
    return USERS_MISTAKE
