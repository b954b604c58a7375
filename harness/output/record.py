"""What the parent writes: verdicts, status.csv and samples.csv. Everything is written aside and renamed."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

from harness.disk import sync_files, whole_lines, write_aside, write_json
from harness.job import Job
from harness.measure import energy
from harness.processes.launch import Outcome
from harness.schema import CAPTURES, ENERGY, EVICTION, IDENTITY, MEMORY, P99_STOPS, SAMPLES, STATUS

Conditions = Callable[[int], Mapping[str, str]]
"""From a time in nanoseconds to the machine's state at it, the columns of schema.SAMPLES_STATE."""

MemoryUsed = Callable[[int], str]
"""From a time in nanoseconds to the MiB that the device had in use, empty where nobody looked."""


class Observer(Protocol):
    """Who looked at the machine while a block ran; see harness.machine.telemetry."""

    def state(self, time_ns: int) -> Mapping[str, str]:
        """See Conditions."""

    def memory_used(self, time_ns: int) -> str:
        """See MemoryUsed."""

    def energy_j(self, time_ns: int) -> float | None:
        """The card's energy counter in joules, None where nobody looked."""


DONE = ("ok", "unsupported", "unavailable")
NOT_HERE = ("unsupported", "unavailable")
BAD = ("failed", "timeout")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. Raises ValueError, with the path, on anything else."""
    try:
        value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no JSON ({error}): it is not as the harness wrote it") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path} holds no JSON object: it is not as the harness wrote it")
    return value


def verdict_row(case: str, block: int, outcome: Outcome) -> dict[str, Any]:
    """The row of status.csv for one block; a column that the worker did not fill is empty."""
    known = {**outcome.payload, **asdict(outcome), "case": case, "block": block}
    return {column: "" if known.get(column) is None else known[column] for column in STATUS}


def read_verdict(job: Job, case: str, block: int) -> dict[str, Any] | None:
    """The recorded row of a block, None when the block is not over. Raises ValueError for what is no row of it."""
    path = job.block_dir(case, block) / "verdict.json"
    if not path.is_file():
        return None
    row = read_json(path)
    if set(row) != set(STATUS) or (row["case"], row["block"]) != (case, block):
        raise ValueError(f"{path} is no row of {case} block {block}: it is not as the harness wrote it")
    return row


def record_block(job: Job, row: dict[str, Any], observer: Observer) -> None:
    """Put a block's row and samples on record, and the run's status.csv and samples.csv with them."""
    folder = job.block_dir(row["case"], row["block"])
    folder.mkdir(parents=True, exist_ok=True)
    join_conditions(folder / "samples.csv", observer.state)
    join_memory(folder / "memory.csv", observer.memory_used)
    join_energy(folder / "energy.csv", observer.energy_j)
    sync_files(folder)
    write_json(folder / "verdict.json", row)
    rebuild(job)


def rebuild(job: Job) -> None:
    """Make the run's tables from those of the blocks that are over."""
    write_status(job)
    merge(job, "samples.csv", SAMPLES)
    merge_present(job)


def verdicts(job: Job, but: tuple[str, int]) -> list[Path]:
    """The verdicts that there are, each with its block's samples, if it has any; not those of block `but`."""
    folders = [job.block_dir(*pair) for pair in job.order if pair != but]
    both = [folder / name for folder in folders for name in ("verdict.json", "samples.csv")]
    return [path for path in both if path.is_file() and path.with_name("verdict.json").is_file()]


def join_memory(path: Path, memory_used: MemoryUsed) -> None:
    """Fill what the device had in use into a block's readings of memory."""
    if path.is_file():
        rows = whole_rows(path)
        for row in rows:
            row["device_used_mib"] = memory_used(int(row["time_ns"]))
        write_aside(path, _csv_text(MEMORY, rows))


def join_conditions(path: Path, conditions: Conditions) -> None:
    """Fill the machine's state into a block's samples."""
    if path.is_file():
        rows = whole_rows(path)
        for row in rows:
            row.update(conditions(int(row["started_ns"])))
        write_aside(path, _csv_text(SAMPLES, rows))


def join_energy(path: Path, energy_j: Callable[[int], float | None]) -> None:
    """Fill the joules into a block's spans of energy."""
    if path.is_file():
        write_aside(path, _csv_text(ENERGY, energy.filled(whole_rows(path), energy_j)))


def whole_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a table that a worker wrote; an unfinished last line is left out."""
    text = whole_lines(path.read_text(encoding="utf-8"))
    return list(csv.DictReader(io.StringIO(text, newline="")))


def write_status(job: Job) -> None:
    """status.csv from the verdicts so far, in the order of the plan."""
    rows = [row for case, block in job.order if (row := read_verdict(job, case, block)) is not None]
    write_aside(Path(job.run_dir) / "status.csv", _csv_text(STATUS, rows))


def merge_present(job: Job) -> None:
    """The tables that only some cases or workloads give, as far as any block has them."""
    tables = {"captures.csv": CAPTURES, "eviction.csv": EVICTION, "memory.csv": MEMORY, "p99_stops.csv": P99_STOPS,
              "identity.csv": IDENTITY, "energy.csv": ENERGY}  # fmt: skip
    for name, columns in tables.items():
        if any((job.block_dir(case, block) / name).is_file() for case, block in job.order):
            merge(job, name, columns)


def merge(job: Job, name: str, columns: Sequence[str]) -> None:
    """One table of the run from those of every block that is over, in the order of the plan."""
    parts = [",".join(columns) + "\n"]
    for case, block in job.order:
        path = job.block_dir(case, block) / name
        if path.is_file() and read_verdict(job, case, block) is not None:
            _, _, rows = path.read_text(encoding="utf-8").partition("\n")
            parts.append(rows)
    write_aside(Path(job.run_dir) / name, "".join(parts))


def _csv_text(columns: Sequence[str], rows: Sequence[dict[str, Any]]) -> str:
    buffer = io.StringIO(newline="")
    writer = csv.DictWriter(buffer, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()
