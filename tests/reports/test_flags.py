"""Samples that need a word of caution are counted under the tables that hold them."""

import re

import pandas as pd

from reports.__main__ import tables_of
from reports.run import load


def test_tokens_that_did_not_come_alone_are_counted_under_the_tables(run_dir):
    for name in ("ttft", "decode"):
        frame = pd.read_csv(run_dir / f"{name}.csv")
        frame.assign(coalesced=2 * (frame["case"] == "jit")).to_csv(run_dir / f"{name}.csv", index=False)
    found = {table.name: table for table in tables_of(load(run_dir))}
    for name in ("ttft", "decode"):
        notes = [text for _, text in found[name].notes.lines() if "before it was asked for" in text]
        assert len(notes) == 1
        assert re.search(
            r"JIT-Only (\d+ [a-z, ]+)?\d+ whose token came with others or before it was asked for", notes[0]
        )
