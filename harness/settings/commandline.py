"""The command line as Hydra's parser sees it, with a mistake as one sentence, and flags wherever they stand."""

from __future__ import annotations

from argparse import ArgumentError, ArgumentParser, Namespace
from collections import Counter
from collections.abc import Sequence

from hydra._internal.utils import get_args_parser

COMPLETION = ("install", "uninstall", "query")


def parse(arguments: Sequence[str]) -> Namespace:
    """Hydra's flags, and under `overrides` what else is given.

    Raises:
        ValueError: a flag that Hydra does not have, or one without its value.
    """
    parser: ArgumentParser = get_args_parser()
    parser.exit_on_error = parser.allow_abbrev = False
    try:
        found, unknown = parser.parse_known_intermixed_args(list(arguments))
    except ArgumentError as error:
        raise ValueError(f"{error}: --help lists what there is") from error
    if unknown:
        raise ValueError(f"{unknown[0]} is no flag: write overrides as key=value; --help and --hydra-help list both")
    check_flags(found)
    return found


def check_flags(found: Namespace) -> None:
    """Refuse flags that Hydra would answer with a trace. Raises ValueError."""
    if found.resolve and found.cfg is None and not found.help:
        raise ValueError("--resolve says how --cfg prints: add --cfg job, or leave it out")
    if found.cfg is not None and found.multirun:
        raise ValueError("--cfg prints one configuration, and --multirun composes several: leave one of them out")
    if found.experimental_rerun is not None:
        raise ValueError("--experimental-rerun is not for this program: resume=results/NAME goes on with a run")
    if found.shell_completion and not any(one.partition("=")[0] in COMPLETION for one in found.overrides):
        raise ValueError(f"--shell-completion needs one of {', '.join(f'{one}=SHELL' for one in COMPLETION)}")


def in_order(arguments: Sequence[str]) -> list[str]:
    """The same arguments with the overrides first: Hydra's parser refuses those behind a flag that is in their middle.

    Raises ValueError as `parse` does.
    """
    overrides = list(parse(arguments).overrides)
    left = Counter(overrides)
    flags = []
    for one in arguments:
        if left[one]:
            left[one] -= 1
        else:
            flags.append(one)
    return [*overrides, *flags]
