"""What reading the card beside a case costs it: with readings against without, beside the same against itself."""

from __future__ import annotations

from reports.experiments import aa
from reports.experiments.section import Section
from reports.run import Run

TITLE = "The cost of the telemetry"
TEXT = (
    "One case three times, in turns: with the card read beside it, once more so, and with nothing read. The first "
    "two differ by chance alone, and how far they lie apart is the scale; the telemetry costs something if the third "
    "is faster than both, by more than chance: ratios below 1 whose intervals leave 1 out."
)


def section(run: Run) -> Section:
    """The tables and the figure of the experiment."""
    return Section(TITLE, TEXT, aa.tables(run, "telemetry"), [aa.plot(run, "telemetry", TITLE)])
