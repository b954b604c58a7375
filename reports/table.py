"""A table before it is text: cells with marks, footnotes, facts and the numbers behind it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

import pandas as pd

DASH = "–"
DAGGER = "†"
DOUBLE_DAGGER = "‡"


@dataclass(frozen=True)
class Cell:
    """What stands in one field; `marks` point to footnotes."""

    text: str
    marks: tuple[str, ...] = ()
    bold: bool = False


@dataclass(frozen=True)
class Column:
    """A heading, and how what stands below it is aligned; `wide` text may be wrapped."""

    head: Cell
    align: Literal["left", "right"] = "right"
    wide: bool = False


@dataclass
class Notes:
    """Footnotes in the order of their first use; the same text keeps its number."""

    numbered: list[str] = field(default_factory=list)
    daggers: dict[str, list[str]] = field(default_factory=lambda: {DAGGER: [], DOUBLE_DAGGER: []})

    def mark(self, text: str) -> str:
        """The number that points to `text`."""
        if text not in self.numbered:
            self.numbered.append(text)
        return str(self.numbered.index(text) + 1)

    def dagger(self, text: str, sign: str = DAGGER) -> str:
        """A dagger; all its texts stand under one mark."""
        if text not in self.daggers[sign]:
            self.daggers[sign].append(text)
        return sign

    def lines(self) -> list[tuple[str, str]]:
        """Mark and text of every footnote."""
        daggers = [(sign, text) for sign, texts in self.daggers.items() for text in texts]
        return daggers + [(str(i), t) for i, t in enumerate(self.numbered, 1)]


@dataclass(frozen=True)
class Table:
    """`name` is the file's stem; a rule stands above each row in `rules`; `frame` is what the .csv holds.

    What is not `shown` has a .csv and nothing else; `why_hidden` goes on after its title.
    """

    name: str
    title: str
    columns: list[Column]
    rows: list[list[Cell]]
    notes: Notes
    facts: str
    smoke: bool
    frame: pd.DataFrame
    rules: frozenset[int] = frozenset()
    shown: bool = True
    why_hidden: str = ""

    def csv(self) -> str:
        """The numbers behind the table, with a column that tells a smoke run."""
        return self.frame.assign(smoke=self.smoke).to_csv(index=False, float_format="%.9g", lineterminator="\n")


def number(value: float, digits: int = 2) -> str:
    """A figure with fixed decimals, a dash for NaN."""
    if math.isnan(value):
        return DASH
    text = f"{value:.{digits}f}"
    return (text if float(text) else text.removeprefix("-")).replace("-", "−")


def share(value: float) -> Cell:
    """A share in percent, a dash for NaN."""
    return Cell(DASH if math.isnan(value) else f"{value:.1%}")


def heads(*texts: str, wide: tuple[str, ...] = (), left: tuple[str, ...] = ()) -> list[Column]:
    """Plain headings: those in `wide` wrap, those in `wide` or `left` are set left."""
    return [Column(Cell(text), "left" if text in wide + left else "right", text in wide) for text in texts]
