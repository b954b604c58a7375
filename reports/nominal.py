"""How often intervals of 95 % hold where they are so by name alone: ranges out of the tables of results/coverage.

A report says them under its own tables, so that who reads one need not know the simulation; where this repository's
results are not beside its code, it says the rest.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import pandas as pd

COVERAGE = Path(__file__).resolve().parents[1] / "results" / "coverage"
STATISTICS = {"mean": "of the mean hold in", "p50": "of P50 in", "p90": "of P90 in", "p99": "of P99 in"}


@lru_cache(maxsize=8)
def simulated(path: Path) -> pd.DataFrame:
    """A table of shares; empty where there is no such file."""
    return pd.read_csv(path) if path.is_file() else pd.DataFrame()


def between(shares: pd.Series) -> str:
    """The least and the greatest share, in whole per cent, of those that there are."""
    low, high = (f"{100 * end:.0f}" for end in (shares.min(), shares.max()))
    return f"{high} %" if low == high else f"{low} to {high} %"


def of_decode() -> str:
    """What the intervals of decode over five processes are worth; a sentence after a space."""
    found = simulated(COVERAGE / "decode_intervals.csv")
    if found.empty:
        return " Their 95 % are nominal."
    shares = [f"{words} {between(found[name])}" for name, words in STATISTICS.items()]
    return (
        f" Their 95 % are nominal: simulated with {found['blocks'].iloc[0]} processes that differ as published ones "
        f"do, those {', '.join(shares)}."
    )


def after_stopping() -> str:
    """What the exact interval of P99 is worth once it has ended the requests; a sentence after a space."""
    found = simulated(COVERAGE / "adaptive.csv")
    words = " Where the width ended them, the 95 % of the interval are nominal: it came out narrow by luck, too"
    if found.empty:
        return f"{words}."
    spiky = found["distribution"].str.startswith("spiky")
    return (
        f"{words}. Simulated, those narrow enough hold in {between(found.loc[~spiky, 'held_narrow'])} with a smooth "
        f"tail and in {between(found.loc[spiky, 'held_narrow'])} with rare spikes."
    )
