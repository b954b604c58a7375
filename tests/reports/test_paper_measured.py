"""What was measured beside what was published: exact figures of invented runs, in the published layout."""

from __future__ import annotations

import shutil

import pandas as pd
import pytest

from reports.paper import figures, measures, published, runs, tables
from reports.paper.__main__ import main
from reports.run import SMOKE, load
from tests.reports import studies
from tests.reports.test_paper_runs import EVERY, LENGTHS, STAND_IN, UNDER_PAPER, invent_run, shared


@pytest.fixture(scope="module")
def paper():
    return published.read()


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    return runs.find(shared(tmp_path_factory))


@pytest.fixture(scope="module")
def made(paper, found):
    return {table.name: table for table in tables.tables(paper, found)}


def line(table, head, at=0):
    """The row of a table with this text in its column `at`, as a dict of headings."""
    row = next(row for row in table.rows if row[at].text == head)
    return {column.head.text: cell.text for column, cell in zip(table.columns, row, strict=True)}


def note(table, head, column, at=0):
    """The footnotes of a cell."""
    row = next(row for row in table.rows if row[at].text == head)
    cell = next(cell for place, cell in zip(table.columns, row, strict=True) if place.head.text == column)
    return [text for mark, text in table.notes.lines() if mark in cell.marks]


def sampled(tmp_path, monkeypatch, change, **more):
    """A run of the paper's protocol whose samples are changed."""
    path = invent_run(tmp_path / "run", UNDER_PAPER, monkeypatch, **more)
    samples = pd.read_csv(path / "samples.csv")
    change(samples).to_csv(path / "samples.csv", index=False)
    return path


def test_twins_stand_behind_the_published_ones_in_the_same_layout(made):
    names = list(made)
    for metric in ("ttft", "p99"):
        assert names[names.index(f"measured_{metric}") - 1] == f"paper_{metric}_draft"
    assert names[names.index("measured_against_tensorrt") - 1] == "paper_against_tensorrt_draft"
    assert names[-2:] == ["paper_combined", "measured_combined"]
    for twin in ("measured_ttft", "measured_p99"):
        heads = [column.head.text for column in made[twin].columns]
        theirs = [column.head.text for column in made[f"paper_{twin.removeprefix('measured_')}_draft"].columns]
        assert [STAND_IN if head == "TensorRT-LLM" else head for head in theirs] == heads
        assert [row[0].text for row in made[twin].rows] == [*map(str, LENGTHS), "Average"]
        assert made[twin].title.endswith(", measured under the paper's protocol")


def test_figures_stand_under_the_right_heads(made):
    assert line(made["measured_ttft"], "Average") == {
        "Prompt tokens": "Average", "Baseline": "50.00", "CUDA Graph": "100.00", "JIT-Only": "25.00",
        "JIT+CUDA": "16.00", STAND_IN: "32.00", "Winner": "JIT+CUDA",
    }  # fmt: skip
    assert line(made["measured_p99"], "400")[STAND_IN] == "21.00"
    assert "(n = 5)" in made["measured_ttft"].facts
    assert "(n = 100)" in made["measured_p99"].facts
    assert "states no P99 below n = 368" in made["measured_p99"].facts
    pair = line(made["measured_against_tensorrt"], "100")
    assert (pair["TTFT, JIT+CUDA"], pair[f"TTFT, {STAND_IN}"], pair["TTFT, speed-up"]) == ("16.00", "32.00", "2.00×")
    assert len(made["measured_combined"].rows) == 18


def test_the_stand_in_has_its_own_name_and_the_engine_its_reason(made):
    for name in ("measured_ttft", "measured_p99", "measured_against_tensorrt", "measured_combined"):
        heads = [column.head for column in made[name].columns]
        assert not any(head.text.endswith("TensorRT-LLM") for head in heads)
        (mark,) = next(head.marks for head in heads if STAND_IN in head.text)
        said = dict(made[name].notes.lines())[mark]
        assert "TensorRT-LLM: 0 of 1 blocks ended well; unavailable" in said


def test_with_the_engine_both_have_a_column(tmp_path, monkeypatch, paper):
    cases = UNDER_PAPER | {"tensorrt_llm": (8.0, 7.0)}
    run = load(invent_run(tmp_path / "run", cases, monkeypatch, missing=()))
    table = {table.name: table for table in tables.tables(paper, runs.Runs(run))}["measured_ttft"]
    row = line(table, "Average")
    assert (row["TensorRT-LLM"], row[STAND_IN], row["Winner"]) == ("8.00", "32.00", "TensorRT-LLM")
    (note_,) = [text for _, text in table.notes.lines()]
    assert "The engine itself" not in note_


def test_ttft_takes_the_first_requests_and_p99_those_behind_them(tmp_path, monkeypatch):
    def change(samples):
        here = (samples["case"] == "baseline") & (samples["metric"] == "ttft") & (samples["prompt_length"] == 50)
        samples.loc[here, "latency_ms"] = samples.loc[here, "iteration"].astype(float) + 1  # 1 to 105 ms
        return samples

    run = load(sampled(tmp_path, monkeypatch, change))
    assert measures.latencies(run, "ttft").loc[50, "baseline"] == 3.0
    assert measures.latencies(run, "p99").loc[50, "baseline"] == pytest.approx(6 + 0.99 * 99)
    assert set(measures.counts(run, "p99")) == {100}
    studies.change_config(run.path, cases={"baseline": {"procedure": {"warmup": "apart"}}})
    assert measures.latencies(load(run.path), "p99").loc[50, "baseline"] == pytest.approx(1 + 0.99 * 99)


def test_averages_and_speedups_stand_beside_the_stated_ones(made):
    row = line(made["paper_summary"], "JIT+CUDA", at=1)
    assert row["TTFT, stated"] == "15.57"
    assert (row["TTFT, paper's protocol"], row["TTFT, controlled"]) == ("16.00", "5.00")
    assert (row["P99, paper's protocol"], row["P99, controlled"]) == ("14.00", "5.00")
    own = line(made["paper_summary"], STAND_IN, at=1)
    assert (own["TTFT, stated"], own["TTFT, paper's protocol"], own["TTFT, controlled"]) == ("–", "32.00", "–")
    assert "unavailable" in note(made["paper_summary"], "TensorRT-LLM", "TTFT, controlled", at=1)[0]
    rows = made["paper_speedups"].frame.set_index(["source", "metric", "case", "over"])
    assert rows.loc[("readme", "ttft", "jit_cuda_graph", "baseline"), "paper"].item() == pytest.approx(50 / 16)
    assert rows.loc[("draft", "p99", "jit_cuda_graph", "cuda_graph"), "paper"].item() == pytest.approx(15 / 14)
    assert (
        rows.loc[("readme", "ttft", "jit_cuda_graph", "tensorrt_llm"), ["paper", "controlled"]].isna().to_numpy().all()
    )
    assert rows.loc[("", "ttft", "jit_cuda_graph", "stand_in"), "paper"].item() == 2.0
    assert [cell.text for cell in made["paper_speedups"].rows[0]][4:] == ["4.48×", "1.79×", "3.12×", "4.00×"]


def test_decode_is_of_the_case_with_every_context_captured(made, found):
    samples = measures.steps(found.paper)
    assert set(samples["case"]) == {"every_context"}
    assert set(measures.steps(found.controlled)["case"]) == {"jit_cuda_graph"}
    row = line(made["paper_decode_statistics"], "Tokens")
    assert (row["Published"], row["Measured, paper's protocol"]) == ("397 tokens", "397 tokens")
    mean = samples["latency_ms"].mean()
    assert line(made["paper_decode_statistics"], "Mean")["Measured, paper's protocol"] == f"{mean:.2f} ms"
    short = samples[samples["context_length"] <= 100]["latency_ms"].mean()
    long = samples[samples["context_length"] > 100]["latency_ms"].mean()
    assert (
        line(made["paper_decode_statistics"], "Ratio of the two")["Measured, paper's protocol"]
        == f"{long / short:.2f} x"
    )
    part = samples[samples["context_length"].between(51, 100)]["latency_ms"]
    cell = line(made["paper_decode_ranges"], "51–100")["Measured, paper's protocol (ms)"]
    assert cell == f"{part.mean():.2f} ({part.std():.2f})"
    assert f"Paper's protocol: steps of {EVERY}." in made["paper_decode_statistics"].facts


def test_experiments_have_a_column_from_their_runs(made):
    success = line(made["paper_capture_success"], "Captured")
    assert (success["Published"], success["Measured, Shared pool"]) == ("406 lengths", "500 lengths")
    failed = line(made["paper_capture_success"], "First that failed")
    assert (failed["Measured, Shared pool"], failed["Measured, A pool each"]) == ("none", "120 tokens")
    assert line(made["paper_rolling"], "Graphs kept")["Measured, 20 graphs"] == "21 graphs"
    assert line(made["paper_coverage"], "Every 10th")["Measured: graphs"] == "50"
    assert line(made["paper_ablation"], "Native Python")["Measured: speed-up"] == "1.0"
    assert line(made["paper_ipc"], "Most")["Measured"] == "0.099 ms"
    assert line(made["paper_ipc"], "Most")["Published"] == "0.7 ms"


def test_what_was_not_measured_is_a_dash_with_the_command(paper):
    for table in tables.tables(paper, runs.Runs()):
        assert not table.smoke
        if table.name.startswith("measured_") or table.name in ("paper_summary", "paper_ipc", "paper_ablation"):
            said = " ".join(text for _, text in table.notes.lines())
            assert "Not measured yet: python -m harness" in said
            assert table.rows[0][-1].text == "–"
    assert set(figures.figures(paper, runs.Runs())) == {"paper_ttft", "paper_p99", "paper_decode"}


def test_flagged_requests_are_counted(tmp_path, monkeypatch, paper):
    def change(samples):
        ours = (samples["case"] == "cuda_graph") & (samples["prompt_length"] == 400)
        return samples.assign(ungraphed=samples["ungraphed"].where(~ours, 1))

    run = load(sampled(tmp_path, monkeypatch, change))
    table = {table.name: table for table in tables.tables(paper, runs.Runs(run))}["measured_ttft"]
    assert "Flagged requests of TTFT, all kept: CUDA Graph 5 without a graph (n = 45)." in table.facts


def test_the_measured_panel_shares_the_axes_of_the_published_ones(paper, found):
    drawn = figures.figures(paper, found)
    for name in ("paper_ttft", "paper_p99"):
        limits = {axes.get_ylim() for axes in drawn[name].axes}
        assert (len(drawn[name].axes), len(limits)) == (3, 1)
        last = {curve.get_label(): list(curve.get_ydata()) for curve in drawn[name].axes[-1].lines}
        assert STAND_IN in last
        assert "TensorRT-LLM" not in last
    assert last["JIT+CUDA"] == [14.0] * 9
    assert drawn["paper_decode"].axes[-1].get_title().endswith(EVERY)


def test_a_smoke_run_stamps_every_table_and_figure_it_is_in(tmp_path, monkeypatch, capsys):
    smoke = invent_run(tmp_path / "smoke", UNDER_PAPER, monkeypatch, smoke=True, iterations=(2, 3))
    (tmp_path / "none").mkdir()
    to = tmp_path / "to"
    assert main(["--measured", str(smoke), "--runs", str(tmp_path / "none"), "--to", str(to)]) == 0
    assert SMOKE in capsys.readouterr().out
    stamped = {path.stem for path in to.glob("*.md") if SMOKE in path.read_text()}
    twins = {"measured_ttft", "measured_p99", "measured_against_tensorrt", "measured_combined"}
    narrow = {"paper_summary", "paper_speedups", "paper_decode_statistics", "paper_decode_ranges"}
    assert stamped == {"claims", "pattern"} | twins | narrow
    assert pd.read_csv(to / "claims.csv")["smoke"].all()
    drawn = figures.figures(published.read(), runs.find(tmp_path / "none", measured=smoke))
    for figure in drawn.values():
        assert SMOKE in {text.get_text() for text in figure.axes[-1].texts}
        assert SMOKE not in {text.get_text() for text in figure.axes[0].texts}


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no pdflatex here")
def test_everything_measured_is_in_the_document(tmp_path_factory, tmp_path):
    assert main(["--runs", str(shared(tmp_path_factory)), "--to", str(tmp_path)]) == 0
    text = (tmp_path / "paper.tex").read_text()
    for name in ("claims", "measured_ttft", "measured_p99", "measured_against_tensorrt", "measured_combined"):
        assert f"\\input{{{name}.tex}}" in text
    assert (tmp_path / "paper.pdf").stat().st_size > 50_000


def test_a_run_that_is_no_run_is_one_sentence(tmp_path, capsys):
    assert main(["--measured", str(tmp_path / "no"), "--to", str(tmp_path / "to")]) == 2
    assert "there is no folder" in capsys.readouterr().err
