"""What the ratio of two measured quantiles says: faster, slower, same or unclear.

slower, faster: the ratio lies outside the margin, and differs from 1 at 5 % after Holm's correction over all cells.
same: the ratio's 95 % interval lies wholly inside the margin. unclear: everything else.

The margin is there because a difference that is certain and tiny is of no use to anyone; the test, because one that is
large and uncertain is none. Holm (1979) corrects because the exit code is a claim about the whole page: of a hundred
cells of two equal runs, some would lie outside their own 95 % interval. It holds however cells depend on each other,
and they do: they share blocks. `same` is not corrected: to say it wrongly misses a change, and accuses nobody.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

from scipy.stats import t as student

from reports.resample import Measured

Verdict = Literal["faster", "slower", "same", "unclear"]
LEVEL = 0.05
MARGIN = 0.03
RULE = (
    "Rule: slower or faster, where B/A lies more than {margin:g} % from 1 and differs from 1 at 5 % after Holm's "
    "correction over the {cells} cells of this page that have an interval; same, where the 95 % interval lies wholly "
    "within {margin:g} %; else unclear. Behind 'alone' stands what a cell would be without the correction. Intervals "
    "are each cell's own: blocks resampled whole, Student's t on log ratios."
)


class Ratio(NamedTuple):
    """B/A with its 95 % interval, and the two-sided p of a ratio of 1; NaN where a run has fewer than two blocks."""

    value: float
    low: float
    high: float
    p: float


def ratio_of(a: Measured, b: Measured) -> Ratio:
    """The ratio of B's quantile to A's, by Student's t on its logarithm with Welch's degrees of freedom."""
    log = math.log(b.value / a.value)
    variance = a.variance + b.variance
    if math.isnan(variance):
        return Ratio(b.value / a.value, math.nan, math.nan, math.nan)
    if variance == 0.0:  # every block says the same
        return Ratio(b.value / a.value, b.value / a.value, b.value / a.value, float(log == 0.0))
    freedom = variance**2 / sum(one.variance**2 / (one.blocks - 1) for one in (a, b))
    error = math.sqrt(variance)
    reach = float(student.ppf(1 - LEVEL / 2, freedom)) * error
    p = 2 * float(student.sf(abs(log) / error, freedom))
    return Ratio(math.exp(log), bounded(log - reach), bounded(log + reach), p)


def bounded(log: float) -> float:
    """exp without overflow: an interval from two blocks may reach very far."""
    return math.exp(min(max(log, -700.0), 700.0))


def verdict(ratio: Ratio, p: float, margin: float = MARGIN) -> Verdict:
    """The verdict on a ratio whose p, corrected or not, is given; `margin` is 0.03 for 3 %."""
    if math.isnan(p):
        return "unclear"
    inside = 1 / (1 + margin) <= ratio.value <= 1 + margin
    if not inside and p < LEVEL:
        return "slower" if ratio.value > 1 else "faster"
    if inside and 1 / (1 + margin) <= ratio.low and ratio.high <= 1 + margin:
        return "same"
    return "unclear"
