"""Tables of several runs as one: a row of each run beneath the other, with the footnotes of all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import pandas as pd

from reports.table import DAGGER, DASH, DOUBLE_DAGGER, Cell, Column, Notes, Table

MOST_ROWS = 60
"""A table of more is left to its .csv."""


@dataclass(frozen=True)
class Part:
    """A table of a run, under a label that is the second field of its rows; `own` are notes on the label.

    `owner` is what notes call the run. Several parts may have one label: a row is that of the first that has it.
    `heads` is whether the marks in the part's headings count.
    """

    label: str
    owner: str
    table: Table
    own: tuple[str, ...] = ()
    heads: bool = True

    def row(self, name: str) -> dict[str, Cell] | None:
        """A row by its first field, as cells by heading; None where there is none of this name."""
        texts = [column.head.text for column in self.table.columns]
        found = next((row for row in self.table.rows if row[0].text == name), None)
        return None if found is None else dict(zip(texts, found, strict=True))


@dataclass(frozen=True)
class Plan:
    """What the whole table is called, which rows and which columns behind the first it has, in order.

    `absent` is why a label lacks a row, and without it such a row is left out; `lacks` is why one lacks a column.
    `by` is the heading of the labels.
    """

    name: str
    title: str
    head: str
    rows: Sequence[str]
    columns: Sequence[str]
    facts: str
    absent: str = ""
    lacks: str = "{column}: not in this run."
    by: str = "GPU"


@dataclass
class Joined:
    """Notes of all parts: the same text of several runs is one note, which names them."""

    runs: set[str]
    notes: Notes = field(default_factory=Notes)
    owners: dict[str, list[str]] = field(default_factory=dict)

    def owned(self, text: str, owner: str) -> str:
        """The text, remembered as of this run."""
        owners = self.owners.setdefault(text, [])
        if owner not in owners:
            owners.append(owner)
        return text

    def mark(self, text: str, owner: str) -> str:
        """The number that points to `text` of this run."""
        return self.notes.mark(self.owned(text, owner))

    def marks(self, part: Part, marks: Sequence[str]) -> tuple[str, ...]:
        """The marks of a part's cell as those of the whole table."""
        found: list[str] = []
        for mark in marks:
            if mark in (DAGGER, DOUBLE_DAGGER):
                for text in part.table.notes.daggers[mark]:
                    self.notes.dagger(self.owned(text, part.owner), mark)
                found.append(mark)
            else:
                found.append(self.mark(part.table.notes.numbered[int(mark) - 1], part.owner))
        return tuple(dict.fromkeys(found))

    def done(self) -> Notes:
        """The notes, each with the runs that it is of, unless it is of all."""
        daggers = {sign: [self.named(text) for text in texts] for sign, texts in self.notes.daggers.items()}
        return Notes([self.named(text) for text in self.notes.numbered], daggers)

    def named(self, text: str) -> str:
        """A note with its runs before it."""
        owners = self.owners[text]
        return text if set(owners) == self.runs else f"{', '.join(owners)}: {text}"


def interleave(parts: Sequence[Part], plan: Plan) -> Table:
    """One table: for each row of the plan a line a label."""
    labels = list(dict.fromkeys(part.label for part in parts))
    joined, rows = Joined({part.owner for part in parts}), []
    head = columns_of(parts, plan, joined)
    for name in plan.rows:
        for label in labels:
            own = [part for part in parts if part.label == label]
            line = line_of(own, name, plan, joined)
            if line is not None:
                rows.append(line)
    smoke = any(part.table.smoke for part in parts)
    frame = pd.concat([part.table.frame for part in parts], ignore_index=True)
    rules = frozenset(place for place, (one, other) in enumerate(pairwise(rows), 1) if one[0].text != other[0].text)
    shown = len(rows) <= MOST_ROWS and all(part.table.shown for part in parts)
    why = f"has {len(rows)} rows, too many to read here"
    rules = rules if len(labels) > 1 else frozenset()
    return Table(plan.name, plan.title, head, rows, joined.done(), plan.facts, smoke, frame, rules, shown, why)


def columns_of(parts: Sequence[Part], plan: Plan, joined: Joined) -> list[Column]:
    """The headings, with the marks that they have in any part."""
    key = parts[0].table.columns[0]
    align = key.align if key.head.text == plan.head else "left"
    found: list[Column] = [Column(Cell(plan.head), align), Column(Cell(plan.by), "left")]
    for text in plan.columns:
        marks: list[str] = []
        like = None
        for part in parts:
            column = next((one for one in part.table.columns[1:] if one.head.text == text), None)
            like = like or column
            marks += joined.marks(part, column.head.marks) if column and part.heads else ()
        align, wide = (like.align, like.wide) if like else ("right", False)
        found.append(Column(Cell(text, tuple(dict.fromkeys(marks))), align, wide))
    return found


def line_of(parts: Sequence[Part], name: str, plan: Plan, joined: Joined) -> list[Cell] | None:
    """One line: the label with its notes, and a label's cells or dashes with the reason; None for a line left out."""
    found = [(part, row) for part in parts if (row := part.row(name)) is not None]
    if not found and not plan.absent:
        return None
    part, cells = found[0] if found else (parts[0], None)
    own = tuple(dict.fromkeys(joined.mark(text, part.owner) for text in part.own))
    first = joined.marks(part, next(iter(cells.values())).marks) if cells else ()
    return [
        Cell(name, first),
        Cell(part.label, own),
        *(field_of(part, cells, name, c, plan, joined) for c in plan.columns),
    ]


def field_of(part: Part, cells: dict[str, Cell] | None, name: str, column: str, plan: Plan, joined: Joined) -> Cell:
    """A cell of a part with the marks of the whole table, or a dash with the reason."""
    if cells is None:
        return Cell(DASH, (joined.mark(plan.absent.format(row=name), part.owner),))
    if column not in cells:
        return Cell(DASH, (joined.mark(plan.lacks.format(column=column), part.owner),))
    cell = cells[column]
    return Cell(cell.text, joined.marks(part, cell.marks), cell.bold)
