"""Columns and types of every CSV of a run, held against harness/schema.py.

Columns may be added at the right and are never renamed or moved. So an older file's columns are the first of today's;
which later ones it lacks is said.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import get_args

from harness import schema
from harness.stored.check import Check, Sheet, failed, note, ok, read_sheet, real

TABLES: dict[str, Sequence[str]] = {
    "status.csv": schema.STATUS,
    "samples.csv": schema.SAMPLES,
    "telemetry.csv": schema.TELEMETRY,
    "ttft.csv": schema.TTFT,
    "p99.csv": schema.P99,
    "decode.csv": schema.DECODE,
    "equivalence.csv": schema.EQUIVALENCE,
    "captures.csv": schema.CAPTURES,
    "eviction.csv": schema.EVICTION,
    "memory.csv": schema.MEMORY,
    "p99_stops.csv": schema.P99_STOPS,
    "identity.csv": schema.IDENTITY,
    "energy.csv": schema.ENERGY,
    "referee.csv": schema.REFEREE,
}
OPTIONAL = ("captures.csv", "eviction.csv", "memory.csv", "p99_stops.csv", "identity.csv", "energy.csv", "referee.csv")
"""Files of some cases or workloads only."""
SUMMARIES = ("ttft.csv", "p99.csv", "decode.csv", "equivalence.csv")
"""Files that are made when all blocks are over."""
FIRST = {
    "status.csv": 16, "samples.csv": 14, "telemetry.csv": 7, "ttft.csv": 17, "p99.csv": 10, "decode.csv": 15,
    "equivalence.csv": 9, "captures.csv": 7, "eviction.csv": 6, "memory.csv": 8, "p99_stops.csv": 6, "identity.csv": 5,
    "energy.csv": 13, "referee.csv": 9,
}  # fmt: skip
"""How many columns the first published version of each file had: none has fewer."""

WHOLE = re.compile(r"-?\d{1,19}")
TEXT = (
    "case", "state", "reason", "engine", "stage", "metric", "throttle", "identity", "modules", "sampler", "replayed",
    "kernel", "phase", "method", "pinning",
)  # fmt: skip
TRUTH = ("supported", "passed")
NUMBERS = (
    "block", "prompt_length", "context_length", "iteration", "started_ns", "token_id", "captures", "ungraphed",
    "hits", "misses", "evictions", "failures", "capturing", "n", "throttled", "context_from", "context_to", "graphs",
    "exit_code", "replays", "order", "bucket", "request", "time_ns", "kernels", "graph_launches", "count", "co_tenants",
    "coalesced", "tokens", "began_ns", "ended_ns", "given_token_id", "engine_cpu",
    "judged", "likeliest", "near_ties", "wrong", "first_wrong", *schema.EQUIVALENCE_JUDGED,
)  # fmt: skip
COUNTS = ("compared", "equal", "divergence")
"""How the names of other columns with whole numbers end."""
UNITS = ("seconds", "_ms", "_us", "_s", "_gib", "_mib", "_mhz", "_w", "_c", "_j", "_mj", "ratio_to_floor", "_error",
         "_width", "_gap", "joules", "_per_request", "_per_token")  # fmt: skip
"""How the names of columns with real numbers end."""
FILLED = (
    "case", "block", "metric", "prompt_length", "context_length", "iteration", "started_ns", "host_ms", "latency_ms",
    "token_id", "n", "p50_ms", "context_from", "context_to", "time_ns", "order", "bucket", "request",
    "judged", "likeliest", "near_ties", "wrong", "widest_gap",
)  # fmt: skip
"""Columns without an empty field; others are empty where a case or machine does not give the value."""
POSITIVE = ("host_loop_us",)
"""Columns that others are divided by."""
INFINITE = ("relative_width",)
"""Columns that may be infinite: too few requests promise no interval of P99."""
WORDS = {"state": get_args(schema.State), "metric": get_args(schema.Metric)}
WORDS_OF = {"energy.csv": {"metric": get_args(schema.Spent)}, "referee.csv": {"metric": ("ttft", "decode")}}
"""Of files in which a column has other words."""


def read_tables(folder: Path, *, whole: bool = True) -> tuple[dict[str, Sheet], list[Check]]:
    """Every CSV of the folder that can be read, and a line on each; only a `whole` run must have its summaries."""
    sheets: dict[str, Sheet] = {}
    lines: list[Check] = []
    for name in TABLES:
        if name in OPTIONAL and not (folder / name).is_file():
            continue
        if name in SUMMARIES and not whole and not (folder / name).is_file():
            lines.append(note(name, "not there yet: the run is unfinished"))
            continue
        try:
            sheet = read_sheet(folder / name)
            check_columns(name, sheet)
            check_fields(name, sheet)
        except ValueError as error:
            lines.append(failed(name, str(error)))
            continue
        sheets[name] = sheet
        lines.append(ok(name, describe(name, sheet)))
    return sheets, [*lines, *strangers(folder)]


def describe(name: str, sheet: Sheet) -> str:
    """How many rows, and which columns of today an older file lacks."""
    later = TABLES[name][len(sheet.columns) :]
    older = f"; an older file, without {', '.join(later)}" if later else ""
    untyped = [column for column in sheet.columns if not typed(column)]
    unknown = f"; no type is known for {', '.join(untyped)}" if untyped else ""
    return f"{len(sheet.rows)} rows of {len(sheet.columns)} columns{older}{unknown}"


def strangers(folder: Path) -> Iterator[Check]:
    """CSV files that no run has."""
    names = sorted(path.name for path in folder.glob("*.csv"))
    for name in names:
        if name not in TABLES:
            yield note(name, "no file of a run: nothing here reads it")


def check_columns(name: str, sheet: Sheet) -> None:
    """Raises ValueError unless the columns are the first of the schema's, as many as the oldest file has or more."""
    wanted = list(TABLES[name])
    for place, column in enumerate(sheet.columns):
        if place >= len(wanted):
            raise ValueError(f"{name} has a column '{column}' that harness/schema.py does not name")
        if column != wanted[place]:
            raise ValueError(f"{name} has '{column}' as column {place + 1}, where '{wanted[place]}' belongs")
    if len(sheet.columns) < FIRST[name]:
        raise ValueError(f"{name} has no column {wanted[len(sheet.columns)]}")


def check_fields(name: str, sheet: Sheet) -> None:
    """Raises ValueError on the first field that is not of its column's type."""
    words = WORDS | WORDS_OF.get(name, {})
    for column in sheet.columns:
        fields = sheet.column(column)
        wrong = {text: said for text in set(fields) if (said := fault(column, text, words))}
        if wrong:
            number, text = next((number, text) for number, text in enumerate(fields, start=2) if text in wrong)
            raise ValueError(f"{name} row {number}: {column} is '{text[:40]}', {wrong[text]}")


def fault(column: str, text: str, words: Mapping[str, Sequence[str]] = WORDS) -> str:
    """What is wrong with a field, empty when nothing is; `words` are the allowed ones of columns that have such."""
    if text == "":
        return "and it may not be empty" if column in FILLED else ""
    if column in INFINITE and text == "inf":
        return ""
    if column in words:
        return "" if text in words[column] else f"not one of {', '.join(words[column])}"
    if column in TRUTH:
        return "" if text in ("True", "False") else "not True or False"
    if column.endswith(COUNTS) and text.startswith("-"):
        return "below 0"
    if column in NUMBERS or column.endswith(COUNTS):
        return "" if WHOLE.fullmatch(text) else "not a whole number"
    if column.endswith(UNITS):
        try:
            value = real(text)
        except ValueError:
            return "not a finite number"
        return "not above 0" if column in POSITIVE and value <= 0 else ""
    return ""


def typed(column: str) -> bool:
    """Whether something is asked of a column's fields."""
    return column in (*TEXT, *TRUTH, *NUMBERS) or column.endswith((*COUNTS, *UNITS))
