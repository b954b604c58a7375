"""Pieces of the sentences on mistakes in a configuration."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from omegaconf.errors import ValidationError


def wrong_type(error: ValidationError) -> str:
    """What is wrong with a value's type."""
    line = first_line(error)
    if "is not a ListConfig" in line:
        return "a list is needed, written [a,b]"
    return line[:1].lower() + line[1:]


def first_line(error: BaseException) -> str:
    """The first line of an error, or its kind where it says nothing."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].rstrip(".")


def detail(text: str) -> str:
    """The line on what can't be read in an override, of those that Hydra writes."""
    lines = [line for line in text.splitlines() if not line.startswith(("See https", "Error parsing"))]
    return lines[0] if lines else "syntax"


def known_parent(key: str, base: Sequence[str]) -> str:
    """The longest beginning of a dotted key that is one in `base` too; empty when there is none."""
    parts = key.split(".")[:-1]
    while parts and not any(name.startswith(".".join(parts) + ".") for name in base):
        parts.pop()
    return ".".join(parts)


def children(parent: str, base: Sequence[str]) -> list[str]:
    """What may stand behind a key, in the order of `base`."""
    start = parent + "."
    return list(dict.fromkeys(name[len(start) :].split(".")[0] for name in base if name.startswith(start)))


def nearest(word: str, allowed: Sequence[str]) -> str:
    """`; did you mean 'X'?` when one of `allowed` is close to `word`, else an empty text."""
    close = difflib.get_close_matches(word, allowed, n=1)
    return f"; did you mean '{close[0]}'?" if close else ""
