"""What must hold of a run's folder: at any moment, and once a run that met a fault has gone on to its end."""

from __future__ import annotations

import csv
import json
from pathlib import Path

from harness import schema
from harness.stored.command import validate

GROWING = ("samples.csv", "telemetry.csv", "memory.csv")
KEYS = ("case", "block", "metric", "prompt_length", "context_length", "iteration", "token_id")


def samples(folder: Path) -> list[tuple[str, ...]]:
    """Which samples samples.csv holds, in its order."""
    with (folder / "samples.csv").open(newline="") as file:
        return [tuple(row[key] for key in KEYS) for row in csv.DictReader(file)]


def assert_whole_or_absent(folder: Path) -> None:
    """Every file under its name is whole. Only those that grow in place may end within a line, in a block at work."""
    for path in folder.rglob("*"):
        at_work = not path.with_name("verdict.json").exists() or "attempt-" in str(path)
        if path.suffix == ".json":
            assert isinstance(json.loads(path.read_text()), dict)
        elif path.suffix == ".csv" and not (path.name in GROWING and (at_work or path.parent == folder)):
            assert path.read_text().endswith("\n"), path
    merged = folder / "samples.csv"
    if merged.exists():
        assert merged.read_text().startswith(",".join(schema.SAMPLES) + "\n")
        assert merged.read_text().endswith("\n")


def assert_complete(folder: Path, expected: list[tuple[str, ...]]) -> None:
    """Every sample of the plan once, in its order, and nothing that `harness validate` finds wrong."""
    assert samples(folder) == expected
    assert [line for line in validate(folder) if line.state == "FAILED"] == []
    assert [path for path in folder.rglob("*.part") if "attempt-" not in str(path)] == []
