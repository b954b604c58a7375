"""Whether the published pattern is seen where it is, and explained where it is not, on invented runs."""

from __future__ import annotations

import pandas as pd

from reports.paper import pattern, runs
from reports.run import load
from tests.reports.test_paper_runs import UNDER_PAPER, invent_run


def found(tmp_path, monkeypatch, **changes):
    path = invent_run(tmp_path / "run", UNDER_PAPER | changes, monkeypatch) or tmp_path / "run"
    return path, load(path)


def test_captures_inside_and_a_growing_step_are_seen_with_their_figures(tmp_path, monkeypatch):
    _, run = found(tmp_path, monkeypatch, cuda_graph=(100.0, 14.5))
    captures, tails, _, growth = pattern.parts(run)
    assert (captures.measured, captures.shows, captures.why) == ("6.25 to 6.25 times", True, "")
    assert (tails.measured, tails.shows, tails.why) == ("at most 3.6 % apart", True, "")
    assert growth.shows
    assert growth.measured == "1.98 times over contexts 10 to 406, 8.09 to 16.03 ms"


def test_what_does_not_show_says_where_and_why(tmp_path, monkeypatch):
    path, run = found(tmp_path, monkeypatch, cuda_graph=(20.0, 16.0))
    captures, tails, *_ = pattern.parts(run)
    assert (captures.shows, captures.measured) == (False, "1.25 to 1.25 times")
    assert captures.why == (
        "Below the bar at 100, 150, 200, 250, 300, 350, 400 tokens: "
        "0 of the 35 requests of CUDA Graph hold a capture there."
    )
    assert (tails.shows, tails.measured) == (False, "at most 14.3 % apart")
    assert tails.why.endswith("CUDA Graph is the slower by 14.3 % in the median and by 14.3 % in P99.")
    samples = pd.read_csv(path / "samples.csv")
    own = (samples["case"] == "cuda_graph") & (samples["metric"] == "ttft")
    samples.loc[own, "latency_ms"] = 14.0
    samples.loc[own & (samples["iteration"] >= 100), "latency_ms"] = 20.0
    samples.to_csv(path / "samples.csv", index=False)
    why = pattern.alike(load(path)).why
    assert why.endswith("CUDA Graph is the slower by 0.0 % in the median and by 42.9 % in P99.")


def test_a_run_that_is_not_there_or_lacks_a_case_shows_neither_way(tmp_path, monkeypatch):
    table = pattern.pattern_table(runs.find(tmp_path / "none"))
    assert [row[-1].text for row in table.rows] == ["\N{EN DASH}"] * 4
    assert "experiment=paper" in table.notes.numbered[0]
    cases = {case: value for case, value in UNDER_PAPER.items() if case != "cuda_graph"}
    run = load(invent_run(tmp_path / "run", cases, monkeypatch, missing=("cuda_graph",)) or tmp_path / "run")
    captures, tails, _, growth = pattern.parts(run)
    assert (captures.shows, tails.shows, growth.shows) == (None, None, True)


def test_a_step_that_hardly_grows_does_not_show(tmp_path, monkeypatch):
    path, _ = found(tmp_path, monkeypatch)
    samples = pd.read_csv(path / "samples.csv")
    steps = samples["metric"] == "decode"
    samples.loc[steps, "latency_ms"] = 10 * (1 + 0.2 * samples["context_length"] / 400)
    samples.to_csv(path / "samples.csv", index=False)
    part = pattern.growing(load(path))
    assert part.shows is False
    assert part.measured.endswith("10.07 to 12.01 ms")
    assert part.why == "JIT+CUDA: all 397 steps had a graph."
    samples.loc[steps, "ungraphed"] = 1
    samples.to_csv(path / "samples.csv", index=False)
    assert pattern.growing(load(path)).why.startswith("JIT+CUDA: 397 of 397 steps ran without a graph, and 0 beside")
