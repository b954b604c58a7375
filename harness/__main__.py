"""`python -m harness key=value ...`: compose, check everything, then run.

`validate RUN` checks a stored run instead, `summarise RUN` makes the tables of one that was killed.

Every command line is composed once up front, because Hydra's own handling of a mistake is a trace or several lines;
here it is one sentence and exit code 2. Then hydra.main composes again and does what Hydra does: --cfg, --multirun,
--info, shell completion, launchers.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

import hydra
from omegaconf import OmegaConf

from harness.output.spoken import spoken
from harness.processes.interrupt import code_of
from harness.settings import resume
from harness.settings.commandline import in_order, parse
from harness.settings.compose import CONF, Source, compose_raw, expand_sweeps, to_config
from harness.settings.helptext import help_text
from harness.settings.sentences import nearest
from harness.task import CODES, preview, refuse, run_composed, task

COMMANDS = ("validate", "summarise")


def check_command_line(arguments: Sequence[str]) -> Callable[[], None] | None:
    """Check all that needs no machine. Returns what is to be said instead of running, where only that is asked for:
    the text of --help, or the plans of dry runs, for which Hydra would make folders.

    Raises:
        ValueError: one sentence on the first mistake.
    """
    from harness.cluster import check as launchers
    from harness.settings import validate  # after --help, which needs none of it

    flags = parse(arguments)
    if flags.hydra_help or flags.shell_completion or flags.info is not None:
        return None
    source = Source.from_arguments(flags)
    launchers.check_name(flags.overrides)
    if flags.help:
        text = help_text(compose_raw(flags.overrides, source), source)
        return lambda: print(text)
    several = flags.multirun or "hydra.mode=MULTIRUN" in flags.overrides
    jobs = expand_sweeps(flags.overrides) if several else [flags.overrides]
    composed = [compose_raw(one, source) for one in jobs]
    configs = [to_config(one) for one in composed]
    if flags.cfg is None:
        for config in configs:
            validate.check(config)
    launchers.check(composed, several)
    if flags.cfg is None and all(config.dry_run for config in configs):
        own = [", ".join(key for key in job if any(key not in other for other in jobs)) for job in jobs]
        return lambda: preview(*composed, titles=own)
    return None


def go_on(arguments: Sequence[str]) -> int | None:
    """Go on with the run that `resume=` names, by its stored configuration; None where the key is not given."""
    try:
        flags = parse(arguments)
        folder = resume.asked(flags)
        if folder is None:
            return None
        composed = OmegaConf.create(resume.stored_settings(folder, flags.overrides))
    except ValueError as error:
        return refuse(error)
    return run_composed(composed)


def main() -> int:
    """0 when all went well, 1 when a case or a check failed, 2 for a user's mistake; when interrupted, 128 and the
    signal's number."""
    try:
        return obey()
    except KeyboardInterrupt as asked:
        print("interrupted before this command measured anything", file=sys.stderr)
        return code_of(asked)


def obey() -> int:
    """Do what the command line says: check or summarise a stored run, or compose and run."""
    if sys.argv[1:2] == ["validate"]:
        from harness.stored import command  # loads pandas and NVML: not for a run's --help

        return spoken(lambda: command.main(sys.argv[2:]))
    if sys.argv[1:2] == ["summarise"]:
        from harness import unfinished

        return spoken(lambda: unfinished.main(sys.argv[2:]))
    if hint := next((nearest(one, COMMANDS) for one in sys.argv[1:2] if "=" not in one), ""):
        return refuse(ValueError(f"{sys.argv[1]} is no command{hint} (a run takes key=value)"))
    code = go_on(sys.argv[1:])
    if code is not None:
        return code
    try:
        instead = check_command_line(sys.argv[1:])
        if instead is not None:
            return spoken(instead)
    except ValueError as error:
        return refuse(error)
    sys.argv[1:] = in_order(sys.argv[1:])
    hydra.main(config_path=str(CONF), config_name="config", version_base="1.3")(task)()
    return max(CODES, default=0)


if __name__ == "__main__":
    raise SystemExit(main())
