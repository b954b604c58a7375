"""Summaries made again from the samples, and held against the stored ones to the printed digits."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from harness import schema
from harness.job import Job
from harness.output import equivalence
from harness.output.summary import Row, answered, decode_rows, load_floor, p99_rows, ttft_rows, write_table
from harness.stored.check import Check, Sheet, failed, note, ok, read_sheet

LAST_DIGIT = 2e-9
"""Relative: nine digits are printed, and the last may turn with the order in which a library adds."""
LOGITS = ("tokens_compared", "tokens_equal", "first_divergence", "max_relative_logit_error", "passed", "reason")
"""Columns of equivalence.csv that come from the logits in blocks/, which no published run has."""
Rows = Callable[[], Iterator[Row]]


def check_summaries(folder: Path, job: Job, sheets: Mapping[str, Sheet]) -> Iterator[Check]:
    """A line on each summary file that can be read."""
    try:
        samples, floor = answered(folder), load_floor(folder / "manifest.json")
    except (ValueError, TypeError) as error:
        yield failed("summaries", f"they can't be made again: {str(error)[:200]}")
        return
    makers: dict[str, tuple[tuple[str, ...], Rows]] = {
        "ttft.csv": (schema.TTFT, lambda: ttft_rows(job, samples, floor)),
        "p99.csv": (schema.P99, lambda: p99_rows(job, samples)),
        "decode.csv": (schema.DECODE, lambda: decode_rows(job, samples, floor)),
        "equivalence.csv": (schema.EQUIVALENCE, lambda: equivalence.rows(folder, job, samples)),
    }
    if "referee.csv" not in sheets and (folder / "referee.csv").exists():
        del makers["equivalence.csv"]  # it is made from that too, which the line on that file says can't be read
    for name, (columns, rows) in makers.items():
        if name in sheets:
            yield compared(folder, name, sheets[name], again(name, columns, rows), job.sweep.tolerance)


def again(name: str, columns: tuple[str, ...], rows: Rows) -> Sheet:
    """The file as it would be written now."""
    with tempfile.TemporaryDirectory() as aside:
        path = Path(aside) / name
        write_table(path, columns, rows())
        return read_sheet(path)


def compared(folder: Path, name: str, stored: Sheet, made: Sheet, tolerance: float) -> Check:
    """Whether the stored file says what the samples say, in all columns that can be made again."""
    title = f"{name} again"
    if len(stored.rows) != len(made.rows):
        return failed(title, f"{len(stored.rows)} rows are stored, and the samples give {len(made.rows)}")
    scores = name != "equivalence.csv" or any(folder.glob("blocks/*/scores.f32"))
    columns = [column for column in stored.columns if scores or column not in LOGITS]
    for column in columns:
        pairs = enumerate(zip(stored.column(column), made.column(column), strict=True), start=2)
        if wrong := next(((row, old, new) for row, (old, new) in pairs if not alike(old, new)), None):
            row, old, new = wrong
            return failed(title, f"row {row}: {column} is '{old[:40]}', and the samples give '{new[:40]}'")
    if not scores and (lie := unearned(stored, made)):
        return failed(title, f"row {lie}: passed is not False, and the timed ids alone are enough for that")
    if name == "equivalence.csv" and (far := too_far(stored, tolerance)):
        return failed(title, f"row {far}: passed, with a logit error above the run's tolerance of {tolerance:g}")
    if scores:
        return ok(title, f"{len(stored.rows)} rows made from the samples are the stored ones to the printed digits")
    return note(title, "the ids of timed requests are those of the samples; the logits, in blocks/, are not there")


def too_far(stored: Sheet, tolerance: float) -> int | None:
    """The first row of equivalence.csv that is stored as passed with an error above the tolerance."""
    pairs = enumerate(zip(stored.column("passed"), stored.column("max_relative_logit_error"), strict=True), start=2)
    return next((row for row, (passed, error) in pairs if passed == "True" and above(error, tolerance)), None)


def above(text: str, limit: float) -> bool:
    """Whether a field is a number above the limit."""
    try:
        return float(text) > limit
    except ValueError:
        return False


def unearned(stored: Sheet, made: Sheet) -> int | None:
    """The first row of equivalence.csv that the timed ids alone condemn, and that is not stored so."""
    pairs = enumerate(zip(stored.column("passed"), made.column("passed"), strict=True), start=2)
    return next((row for row, (old, new) in pairs if new == "False" != old), None)


def alike(old: str, new: str) -> bool:
    """Whether two fields are the same text, or the same number to the printed digits."""
    if old == new:
        return True
    try:
        return math.isclose(float(old), float(new), rel_tol=LAST_DIGIT)
    except ValueError:
        return False
