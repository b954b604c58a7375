"""Text files that may come from anywhere, read so that each fault is one sentence with the file and the line.

What is read here is data: text, JSON and CSV, never code, and nothing in it names a file to write.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

MIB = 2**20
MOST = {".json": 16 * MIB, ".csv": 256 * MIB}
"""The largest files that are read, in bytes; ten thousand samples take 1 MiB. JSON takes thirty times its size in
memory where it is all brackets."""
MOST_COLUMNS, MOST_FIELDS, LONGEST_LINE = 256, 50_000_000, MIB
"""A table of the harness has under 30 columns; its longest line holds a reason."""
LARGEST_MS, LARGEST = 1e9, 1e19
"""The largest latency (eleven days), and the largest number of any kind (the time in ns is below it)."""
MAY_BE_0 = ("std_", "gpu_", "server_")
"""How the names of columns of times begin that may be 0."""
TEXT = {
    "case", "state", "reason", "engine", "stage", "metric", "throttle", "identity", "modules", "sampler", "replayed",
    "phase", "kernel", "method", "pinning",
}  # fmt: skip
TRUTH = {"supported", "passed", "not_above_plain", "cache_equal"}
WHOLE = {
    "block", "prompt_length", "context_length", "n", "context_from", "context_to", "order", "bucket",
    "request", "tokens_compared", "tokens_equal", "timed_tokens_compared", "timed_tokens_equal",
    "judged_tokens", "judged_near_ties", "judged_wrong", "decode_judged", "decode_near_ties", "decode_wrong",
    "judged", "likeliest", "near_ties", "wrong",
}  # fmt: skip
"""Columns of counts, which are whole and not below 0."""
KEYS = {
    "ttft.csv": ["case", "prompt_length"],
    "p99.csv": ["case", "prompt_length"],
    "decode.csv": ["case", "context_from", "context_to"],
    "equivalence.csv": ["case", "prompt_length"],
    "status.csv": ["case", "block"],
    "captures.csv": ["case", "block", "order"],
    "eviction.csv": ["case", "block"],
    "memory.csv": ["case", "block", "request"],
    "energy.csv": ["case", "block", "metric", "prompt_length"],
    "referee.csv": ["case", "metric", "prompt_length"],
}
SUMMARIES = ("ttft.csv", "p99.csv", "decode.csv", "equivalence.csv")
"""What is made at a run's end; all else is written block by block."""


def read(path: Path) -> str:
    """A text file in UTF-8. Raises ValueError with one sentence when it is not there, or no file that a run has."""
    data = read_bytes(path)
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ValueError(f"{path} line {line} is not UTF-8 (byte {error.start}): no run writes such a file") from error
    if text.startswith("\ufeff"):
        raise ValueError(f"{path} starts with a byte-order mark: another program saved it, so take the run's own file")
    if (at := text.find("\0")) >= 0:
        raise ValueError(f"{path} line {text.count(chr(10), 0, at) + 1} has a NUL byte: no run writes such a file")
    return text


def read_bytes(path: Path) -> bytes:
    """What a regular file of a stated largest size holds. Raises ValueError with one sentence.

    What is larger by its size is not read at all; a size may be wrong, as in /proc, so no more is read than allowed.
    """
    if not path.is_file():
        if path.exists() or path.is_symlink():
            raise ValueError(
                f"{path} is no file (a folder, a device, a pipe or a link to nothing): a run has a file there"
            )
        raise ValueError(f"{path} is missing: {_why_missing(path)}")
    most = MOST.get(path.suffix, MOST[".json"])
    with path.open("rb") as file:
        data = file.read(most + 1) if path.stat().st_size <= most else b""
        more = bool(file.read(1))
    if more:
        raise ValueError(f"{path} has more than {most >> 20} MiB, the most that is read: no run writes so much")
    return data


def _why_missing(path: Path) -> str:
    """Why a run may lack one of its files, and what to do where it can be made."""
    if path.name in SUMMARIES and (path.parent / "samples.csv").is_file():
        made = f"python -m harness summarise {path.parent} makes them of the blocks that ended"
        return f"the run was killed before its summaries: {made}"
    return "the run did not get as far as its summaries, or this is not a run's folder"


def read_object(path: Path) -> dict[str, Any]:
    """A JSON object, its texts printable and its numbers finite. Raises ValueError with one sentence."""
    text = read(path)
    try:
        value = printable(json.loads(text, parse_float=finite, parse_constant=finite))
    except RecursionError as error:
        raise ValueError(f"{path} is nested too deeply for a file of a run") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from error
    except ValueError as error:  # a number that is not finite, or one with thousands of digits
        raise ValueError(f"{path} has a number that no run writes: {error}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path} holds no JSON object")
    return value


def finite(text: str) -> float:
    """A number of a JSON file. Raises ValueError for NaN, Infinity and what overflows."""
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:40]} is not finite")
    return value


def printable(value: Any) -> Any:
    """A JSON value whose texts hold no character that a terminal or a reader's eye would obey.

    Control characters, marks that turn the direction of writing and halves of surrogate pairs become U+FFFD.
    """
    if isinstance(value, str):
        return value if value.isprintable() else "".join(map(shown, value))
    if isinstance(value, list):
        return [printable(one) for one in value]
    if isinstance(value, dict):
        return {printable(key): printable(one) for key, one in value.items()}
    return value


def shown(letter: str) -> str:
    """A character as it may be shown: a line's end and a tab stay what they are, in one kind."""
    return letter if letter.isprintable() or letter in "\n\t" else "\ufffd"


def load_table(path: Path, columns: Sequence[str], text: Collection[str] = TEXT) -> pd.DataFrame:
    """A CSV with these columns, numbers as float with NaN for empty. Raises ValueError with one sentence."""
    content = read(path)
    check_size(content, path)
    try:
        frame = pd.read_csv(io.StringIO(content), dtype=str, keep_default_na=False)
    except (pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise ValueError(f"{path} is not a readable CSV: {' '.join(str(error).split())}") from error
    if lost := [column for column in columns if column not in frame]:
        raise ValueError(f"{path} has no column {', '.join(lost)}")
    check_rows(content, path)
    for column in frame.columns:
        if column in text:
            frame[column] = frame[column].map(printable)
        else:
            frame[column] = truths(frame[column], path) if column in TRUTH else numbers(frame[column], path)
    keys = [key for key in KEYS.get(path.name, []) if key in frame]
    if keys and (twice := frame.duplicated(keys)).any():
        line = twice.tolist().index(True) + 2
        raise ValueError(f"{path} line {line}: there are two rows with the same {', '.join(keys)}")
    return frame


def check_size(content: str, path: Path) -> None:
    """Refuse what would fill the memory, before it is taken apart. Raises ValueError with one sentence."""
    first = content.partition("\n")[0]
    if (count := first.count(",") + 1) > MOST_COLUMNS:
        raise ValueError(f"{path} names {count} columns, and at most {MOST_COLUMNS} are read: no run writes so many")
    if content.count(",") + content.count("\n") > MOST_FIELDS:
        raise ValueError(f"{path} has more than {MOST_FIELDS} fields, the most that are read")
    for number, line in enumerate(io.StringIO(content, newline="\n"), start=1):
        if len(line) > LONGEST_LINE:
            raise ValueError(f"{path} line {number} has {len(line)} characters, and at most {LONGEST_LINE} are read")


def check_rows(content: str, path: Path) -> None:
    """Every row has a field for each column, each column a name of its own. Raises ValueError with one sentence."""
    rows = csv.reader(io.StringIO(content, newline=""), strict=True)
    try:
        names = next(rows, [])
        if twice := [name for name, count in Counter(names).items() if count > 1]:
            raise ValueError(f"{path} names the column '{printable(twice[0])[:40]}' twice")
        for row in rows:
            if len(row) != len(names):
                raise ValueError(
                    f"{path} line {rows.line_num} has {len(row)} fields, and the first line names {len(names)} columns"
                )
    except csv.Error as error:
        raise ValueError(f"{path} line {rows.line_num} is not a readable CSV: {error}") from error
    if not content.endswith("\n"):
        raise ValueError(f"{path} ends within a line: it was cut off")


def truths(column: pd.Series, path: Path) -> pd.Series:
    """True, False, or None where the field is empty. Raises ValueError with one sentence on any other text."""
    if len(bad := column[~column.isin(["True", "False", ""])]):
        raise at(path, bad, "not True or False")
    return column.map({"True": True, "False": False, "": None}).astype(object)


def numbers(column: pd.Series, path: Path) -> pd.Series:
    """Floats, NaN for empty. Raises ValueError with one sentence on the first field that the column can't have."""
    found = pd.to_numeric(column.where(column != ""), errors="coerce").astype(float)
    name = str(column.name)
    faults = [(found.isna() & ~column.str.lower().isin(["", "nan"]), "not a number")]
    most = LARGEST_MS if name.endswith("_ms") else LARGEST
    faults += [(found.abs() > most, f"beyond {most:g}, the largest that is read")]
    if name.endswith("_ms") or name == "host_loop_us":
        faults += [(found < 0 if name.startswith(MAY_BE_0) else found <= 0, "not a positive number")]
    if name in WHOLE:
        faults += [((found < 0) | (found % 1 > 0), "not a whole number from 0 on")]
    for wrong, said in faults:
        if wrong.any():
            raise at(path, column[wrong], said)
    return found


def at(path: Path, bad: pd.Series, said: str) -> ValueError:
    """The fault of a column's first bad field, with its line."""
    return ValueError(f"{path} line {int(bad.index[0]) + 2}: {bad.name} is '{printable(bad.iloc[0])[:40]}', {said}")
