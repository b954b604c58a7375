"""What other blocks of a case have measured already, for a block that decides how much more is wanted.

Standard library only, like `adaptive`, which it serves.
"""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from harness.foreign import foreign_blocks
from harness.job import Job

WRITTEN = ("p99_stops.csv", "verdict.json")


class Earlier(NamedTuple):
    """`latencies`: nanoseconds by prompt length, of the case's other blocks that have their requests; `left`: how many
    blocks have none yet and are still to come, this one among them."""

    latencies: Mapping[int, Sequence[int]]
    left: int


def before(job: Job, case: str, block: int) -> Earlier:
    """What a block of a run with p99_iterations=auto finds when it begins.

    A block has its requests once it wrote why they ended (p99_stops.csv) and how it ended itself: one without a verdict
    is measured anew. One before this in the order that never got
    there failed, and its turn is over; one behind it may have them already, where the run was resumed. What another
    engine answered is in no table, and so it is nothing here.
    """
    turns = [number for name, number in job.order if name == case]
    foreign = {number for name, number in foreign_blocks(Path(job.run_dir) / "status.csv") if name == case}
    others = [number for number in turns if number != block and number not in foreign]
    done = {number for number in others if all((job.block_dir(case, number) / name).is_file() for name in WRITTEN)}
    found: dict[int, list[int]] = defaultdict(list)
    column = "server_ms" if job.cases[case].clock == "server" else "host_ms"
    for number in sorted(done):
        with (job.block_dir(case, number) / "samples.csv").open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                if row["metric"] == "ttft":
                    found[int(row["prompt_length"])].append(round(float(row[column] or row["host_ms"]) * 1e6))
    return Earlier(found, 1 + sum(number not in done for number in turns[turns.index(block) + 1 :]))
