"""What a check says, and how the files of a stored run are read: every fault is one sentence."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any, Literal, NamedTuple

State = Literal["ok", "note", "FAILED"]
MIB = 2**20
MOST = {".json": 16 * MIB, ".csv": 256 * MIB}
"""The largest files that are read, in bytes; ten thousand samples take 1 MiB. JSON takes thirty times its size in
memory where it is all brackets."""
MOST_COLUMNS, MOST_FIELDS = 256, 50_000_000
Row = list[str]


class Check(NamedTuple):
    """One line: what was checked, and how it went. A `note` says what can't be checked here, and why."""

    name: str
    state: State
    text: str


class Sheet(NamedTuple):
    """A CSV as it is written: its columns, and rows that all have as many fields."""

    columns: Row
    rows: list[Row]

    def column(self, name: str) -> Row:
        """All fields of a column. Raises ValueError when there is none."""
        if name not in self.columns:
            raise ValueError(f"there is no column {name}")
        place = self.columns.index(name)
        return [row[place] for row in self.rows]


def ok(name: str, text: str) -> Check:
    """What was checked and held."""
    return Check(name, "ok", text)


def note(name: str, text: str) -> Check:
    """What could not be checked, or is worth knowing."""
    return Check(name, "note", text)


def failed(name: str, text: str) -> Check:
    """What does not hold."""
    return Check(name, "FAILED", text)


def read_text(path: Path) -> str:
    """A text file in UTF-8. Raises ValueError with one sentence on what is wrong with it."""
    if not path.is_file():
        here = path.exists() or path.is_symlink()
        raise ValueError(f"{path.name} is {'no file (a folder, a device, a pipe or a link)' if here else 'missing'}")
    size, most = path.stat().st_size, MOST[path.suffix]
    if size > most:
        raise ValueError(f"{path.name} has {size / MIB:.0f} MiB, and at most {most // MIB} are read")
    try:
        with path.open(encoding="utf-8", newline="") as file:
            text = file.read(most)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path.name} is not UTF-8 (byte {error.start})") from error
    if (at := text.find("\0")) >= 0:
        raise ValueError(f"{path.name} line {text.count(chr(10), 0, at) + 1} has a NUL byte")
    if text.startswith("\ufeff"):
        raise ValueError(f"{path.name} starts with a byte-order mark: another program saved it")
    return text


def read_object(path: Path) -> dict[str, Any]:
    """A JSON object. Raises ValueError with one sentence."""
    text = read_text(path)
    try:
        value = json.loads(text)
    except RecursionError as error:
        raise ValueError(f"{path.name} is nested too deeply") from error
    except ValueError as error:  # of the syntax, or of a number with thousands of digits
        raise ValueError(f"{path.name} is not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path.name} holds no JSON object")
    return value


def read_sheet(path: Path) -> Sheet:
    """A CSV whose rows all have the fields of its first line. Raises ValueError with one sentence."""
    text = read_text(path)
    if not text.strip():
        raise ValueError(f"{path.name} is empty")
    if not text.endswith("\n"):
        raise ValueError(f"{path.name} ends within a line: it was cut off")
    if (count := text.partition("\n")[0].count(",") + 1) > MOST_COLUMNS:
        raise ValueError(f"{path.name} names {count} columns, and at most {MOST_COLUMNS} are read")
    if text.count(",") + text.count("\n") > MOST_FIELDS:
        raise ValueError(f"{path.name} has more than {MOST_FIELDS} fields, the most that are read")
    try:
        columns, *rows = csv.reader(text.splitlines(keepends=True), strict=True)
    except csv.Error as error:
        raise ValueError(f"{path.name} is not a readable CSV: {error}") from error
    if len(set(columns)) < len(columns):
        raise ValueError(f"{path.name} names a column twice")
    for number, row in enumerate(rows, start=2):
        if len(row) != len(columns):
            raise ValueError(f"{path.name} row {number} has {len(row)} fields, and {len(columns)} columns are named")
    return Sheet(columns, rows)


def real(text: str) -> float:
    """A field as a number, NaN where it is empty. Raises ValueError when it is no finite number."""
    if text == "":
        return math.nan
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is not finite")
    return value
