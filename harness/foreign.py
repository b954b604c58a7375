"""Blocks in which something else answered than the case says. Standard library only: workers ask this."""

from __future__ import annotations

import csv
from pathlib import Path

from harness.schema import CONTRADICTED


def foreign_blocks(status: Path) -> set[tuple[str, int]]:
    """Case and block of each such row of a run's status.csv; none where there is no such file yet."""
    if not status.is_file():
        return set()
    with status.open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if (row.get("identity") or "").startswith(CONTRADICTED)]
    return {(row.get("case") or "", int(row["block"])) for row in rows if (row.get("block") or "").isdecimal()}
