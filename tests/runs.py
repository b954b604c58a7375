"""Whole runs of fake cases under the stub worker, without the report, and what they leave."""

from __future__ import annotations

import csv
from pathlib import Path

from harness import run, start
from harness.settings.compose import Source, compose_raw, resolved, to_config

ROOT = Path(__file__).resolve().parent.parent
EXTRA = Source(extra=Path(__file__).parent / "conf")
BASE = (
    "experiment=smoke", "+case@cases.fake=fake", "+case@cases.other=fake", "cases.other.title=Other",
    "run=[fake,other]", "sweep.prompt_lengths=[10]", "sweep.ttft_iterations=3", "sweep.decode.context=20",
    "sweep.context_ranges=[[10,20]]",
)  # fmt: skip


def begin(folder: Path, *overrides: str) -> start.Run:
    """A run in `folder`, checked and not yet carried out."""
    composed = compose_raw([*BASE, f"output={folder}", *overrides], EXTRA)
    return start.begin(to_config(composed), resolved(composed), worker="tests.stub_worker")


def execute_in(folder: Path, *overrides: str) -> int:
    """Its exit code."""
    return run.carry_out(begin(folder, *overrides))


def status(folder: Path) -> dict[tuple[str, str], dict[str, str]]:
    """Rows of status.csv by case and block."""
    with (folder / "status.csv").open(newline="") as file:
        return {(row["case"], row["block"]): row for row in csv.DictReader(file)}


def samples(folder: Path, case: str) -> list[dict[str, str]]:
    """Rows of samples.csv of one case."""
    with (folder / "samples.csv").open(newline="") as file:
        return [row for row in csv.DictReader(file) if row["case"] == case]
