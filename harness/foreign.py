"""Blocks in which something else answered than the case says. Standard library only: workers ask this."""

from __future__ import annotations

import csv
from pathlib import Path

from harness.schema import CONTRADICTED

NEEDED = {"case", "block", "identity"}


def foreign_blocks(status: Path) -> set[tuple[str, int]]:
    """Case and block of each such row of a run's status.csv; none where there is no such file yet, or an older one.

    Raises:
        ValueError: the file can't be read as a table.
    """
    if not status.is_file():
        return set()
    with status.open(encoding="utf-8", newline="") as file:
        table = csv.DictReader(file)
        try:
            if not set(table.fieldnames or ()) >= NEEDED:
                return set()
            rows = [row for row in table if (row["identity"] or "").startswith(CONTRADICTED)]
        except csv.Error as error:
            raise ValueError(f"{status} is not a readable table: {error}") from error
    return {(row["case"], int(row["block"])) for row in rows}
