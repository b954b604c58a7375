"""`python -m harness key=value ...`: compose, check everything, then run; `validate RUN` checks a stored run instead.

Every command line is composed once up front, because Hydra's own handling of a mistake is a trace or several lines;
here it is one sentence and exit code 2. Then hydra.main composes again and does what Hydra does: --cfg, --multirun,
--info, shell completion, launchers.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence
from contextlib import suppress

import hydra
from hydra._internal.utils import get_args_parser
from omegaconf import DictConfig
from rich.console import Console

from harness.compose import CONF, Source, compose_raw, expand_sweeps, resolved, to_config
from harness.helptext import help_text

USERS_MISTAKE = 2
INTERRUPTED = {128 + number: number.name for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)}


def check_command_line(arguments: Sequence[str]) -> str | None:
    """Check all that needs no machine. Returns the text of --help when that was asked for.

    Raises:
        ValueError: one sentence on the first mistake.
    """
    from harness import validate  # after --help, which needs none of it

    flags = get_args_parser().parse_args(list(arguments))
    if flags.hydra_help or flags.shell_completion or flags.info is not None:
        return None
    source = Source.from_arguments(flags)
    if flags.help:
        return help_text(compose_raw(flags.overrides, source), source)
    for overrides in expand_sweeps(flags.overrides) if flags.multirun else [flags.overrides]:
        config = to_config(compose_raw(overrides, source))
        if flags.cfg is None:
            validate.check(config)
    return None


def run_composed(composed: DictConfig) -> int:
    """One run of a composed configuration; its exit code."""
    from harness import plan, validate

    try:
        config = to_config(composed)
        validate.check(config)
        if config.dry_run:
            plan.show(config, Console())
            return 0
        from harness import run  # loads pandas and NVML: not for a dry run

        begun = run.begin(config, resolved(composed))
    except ValueError as error:
        return refuse(error)
    return run.carry_out(begun)


def refuse(error: ValueError) -> int:
    """Tell the user what is wrong."""
    print(f"error: {error}", file=sys.stderr)
    return USERS_MISTAKE


def main() -> int:
    """0 when all went well, 1 when a case or a check failed, 2 for a user's mistake; when interrupted, 128 and the
    signal's number."""
    try:
        return obey()
    except KeyboardInterrupt:
        print("interrupted before anything was measured", file=sys.stderr)
        return 128 + signal.SIGINT


def obey() -> int:
    """Do what the command line says: check a stored run, or compose and run."""
    if sys.argv[1:2] == ["validate"]:
        from harness.stored import command  # loads pandas and NVML: not for a run's --help

        return command.main(sys.argv[2:])
    codes: list[int] = []

    def task(composed: DictConfig) -> None:
        codes.append(run_composed(composed))
        if codes[-1] in INTERRUPTED:
            raise SystemExit(codes[-1])  # of several runs (--multirun) the rest is not started either

    try:
        text = check_command_line(sys.argv[1:])
    except ValueError as error:
        return refuse(error)
    if text is not None:
        with suppress(BrokenPipeError):  # whoever reads the help may have seen enough
            print(text, flush=True)
        return 0
    hydra.main(config_path=str(CONF), config_name="config", version_base="1.3")(task)()
    return max(codes, default=0)


if __name__ == "__main__":
    raise SystemExit(main())
