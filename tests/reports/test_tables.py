import io
import itertools
import json
import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from reports import plots
from reports.__main__ import tables_of
from reports.blockwise import with_average
from reports.latency import winner_cell
from reports.machine import machine_table
from reports.marks import listed
from reports.overview import speed_up, ties
from reports.run import SMOKE, load, told_apart
from reports.significance import Standing
from reports.table import Notes
from tests import synthetic
from tests.synthetic import Spec, invent

MANY = {
    "baseline": "Baseline",
    "cuda_graph": "CUDA Graph",
    "jit": "JIT-Only",
    "jit_cuda_graph": "JIT+CUDA",
    "vllm": "vLLM",
    "vllm_covering": "vLLM (lengths captured)",
    "transformers_compile": "Transformers (compiled)",
    "eager": "Eager (control)",
}


def texts(table):
    return [[cell.text for cell in row] for row in table.rows]


def test_the_average_and_the_winner_are_computed(full):
    table = tables_of(full)[0]
    jit = [cell.head.text for cell in table.columns].index("JIT-Only")
    wanted = full.ttft[full.ttft["case"] == "jit"]["p50_ms"].mean()
    assert texts(table)[-1][0] == "Average"
    assert texts(table)[-1][jit] == f"{wanted:.2f}"
    lowest = full.ttft.loc[full.ttft.groupby("prompt_length")["p50_ms"].idxmin()]
    titles = [full.cases[case] for case in lowest.sort_values("prompt_length")["case"]]
    assert [row[-1] for row in texts(table)[:-1]] == titles
    assert [sum(cell.bold for cell in row) for row in table.rows] == [1, 1, 1, 1]


def test_two_blocks_name_no_winner_and_say_why(tables):
    for name in ("ttft", "decode"):
        assert {row[-1].text for row in tables[name].rows} == {"–"}, name
        notes = dict(tables[name].notes.lines())
        assert all("needs 3 or more" in notes[mark] for row in tables[name].rows for mark in row[-1].marks), name
        assert not any(cell.bold for row in tables[name].rows for cell in row), name


@pytest.fixture
def three(tmp_path):
    return invent(tmp_path / "three", Spec(blocks=3))


def test_a_case_that_computes_something_else_is_marked_and_cannot_win(three):
    ttft = pd.read_csv(three / "ttft.csv")
    ttft.loc[ttft["case"] == "eager", "p50_ms"] = 0.1
    ttft.to_csv(three / "ttft.csv", index=False)
    table = tables_of(load(three))[0]
    head = next(column.head for column in table.columns if column.head.text == "Eager (control)")
    assert "†" in head.marks
    assert all(row[-1].removeprefix("tie: ").startswith("JIT+CUDA") for row in texts(table))
    assert not any("Eager" in row[-1] for row in texts(table))
    assert any(mark == "†" and "relative logit error" in text for mark, text in table.notes.lines())


@pytest.mark.parametrize("name", ["ttft", "ttft_ratio", "p99", "decode", "summary", "speedup", "equivalence"])
def test_a_missing_case_is_a_dash_with_the_reason_of_its_status(tables, name):
    table = tables[name]
    notes = dict(table.notes.lines())
    dashes = [cell for row in table.rows for cell in row if cell.text == "–" and cell.marks]
    assert dashes
    assert all(mark in notes for cell in dashes for mark in cell.marks)
    assert any("tensorrt_llm is not installed" in notes[mark] for cell in dashes for mark in cell.marks)


def test_p99_is_a_maximum_with_n_until_n_supports_it(tables, full):
    few = texts(tables["p99"])
    assert few[0][1].startswith("max ")
    assert few[0][1].endswith("(n=40)")
    assert few[0][-1] == "–"
    enough = texts(next(table for table in tables_of(full) if table.name == "p99"))
    assert all(float(value) > 0 for row in enough for value in row[1:-1])
    assert all(row[-1] in full.cases.values() or row[-1].startswith("tie: ") for row in enough)


def test_an_average_of_p99_that_one_case_cannot_support_says_why(full):
    """As of a run that was cut off: one case has a process less, the others' P99 stands."""
    short = full.p99["case"].eq("jit")
    lone = replace(
        full, p99=full.p99.assign(supported=full.p99["supported"] & ~short, p99_ms=full.p99["p99_ms"].mask(short))
    )
    table = next(table for table in tables_of(lone) if table.name == "summary")
    notes = dict(table.notes.lines())
    row = next(row for row in table.rows if row[0].text == lone.cases["jit"])
    assert row[2].text == "–"
    assert [notes[mark] for mark in row[2].marks] == [
        "P99 needs n of at least 368 at every length for a two-sided 95 % interval."
    ]
    assert next(row for row in table.rows if row[0].text == lone.cases["cuda_graph"])[2].text != "–"


def test_decode_ends_with_the_whole_range(tables):
    assert [row[0] for row in texts(tables["decode"])] == ["10–30", "31–60", "10–60 (whole)"]


def test_flagged_samples_are_counted_in_a_footnote(stored, tables):
    captured = stored.ttft[stored.ttft["case"] == "cuda_graph"]["captures"].sum()
    note = next(text for _, text in tables["ttft"].notes.lines() if text.startswith("Flagged"))
    assert f"{captured:.0f} with a graph captured" in note


def test_speed_up_is_the_geometric_mean_of_the_ratios(stored):
    p50 = stored.ttft.pivot(index="prompt_length", columns="case", values="p50_ms")
    wanted = math.exp(np.log(p50["baseline"] / p50["jit"]).mean())
    assert speed_up(stored, "TTFT", "jit", "baseline") == pytest.approx(wanted)
    assert speed_up(stored, "TTFT", "baseline", "jit") == pytest.approx(1 / wanted)
    assert math.isnan(speed_up(stored, "TTFT", "jit", "tensorrt_llm"))
    assert math.isnan(speed_up(stored, "P99", "jit", "baseline"))


def test_summary_figures(stored, tables):
    row = dict(zip((c.head.text for c in tables["summary"].columns), texts(tables["summary"])[0], strict=True))
    assert (row["Case"], row["Set-up (s)"], row["Peak memory (GiB)"]) == ("Baseline", "11.5", "14.8")
    cold = stored.samples[(stored.samples["case"] == "baseline") & (stored.samples["metric"] == "cold")]["host_ms"]
    assert row["Cold TTFT (ms)"] == f"{cold.median():.1f}"


def test_clocks_are_compared_request_by_request(stored, tables):
    rows = {row[0]: row[1:] for row in texts(tables["clocks"])}
    assert rows["JIT+CUDA"][2] == "0.100", "the invented server answers 0.1 ms before the client"
    assert rows["JIT-Only"][1:3] == ["–", "–"]
    timed = stored.samples[(stored.samples["metric"] == "ttft") & (stored.samples["prompt_length"] == 10)]
    lower_median = timed[timed["case"] == "jit"]["host_ms"].quantile(0.5, interpolation="lower")
    assert rows["JIT-Only"][0] == f"{lower_median:.3f}"
    notes = [text for _, text in tables["clocks"].notes.lines()]
    assert any("No server in between" in text for text in notes)
    assert any("not installed" in text for text in notes)


def test_equivalence_counts_and_verdicts(tables):
    rows = {row[0]: row[1:] for row in texts(tables["equivalence"])}
    assert rows["Baseline"][0] == "reference"
    assert rows["JIT-Only"][0] == "passed"
    assert rows["JIT-Only"][2:] == ["9 / 9", "120 / 120"]
    assert rows["Eager (control)"][0] == "FAILED"
    assert rows["TensorRT-LLM"][0] == "not compared"


def test_what_the_baseline_judged_is_counted_where_it_did(tmp_path, tables):
    heading = ["Timed ids judged", "Near-ties", "Wrong"]
    assert not set(heading) & {column.head.text for column in tables["equivalence"].columns}
    found = {table.name: table for table in tables_of(load(invent(tmp_path / "run", Spec(judged=True))))}
    assert [column.head.text for column in found["equivalence"].columns][-3:] == heading
    rows = {row[0]: row[1:] for row in texts(found["equivalence"])}
    assert rows["Baseline"][-3:] == [""] * 3
    assert rows["JIT-Only"][0] == "passed"
    assert rows["JIT-Only"][-3:] == [str(3 * 40 + 100), "5", "0"]
    assert rows["Eager (control)"][0] == "FAILED"
    assert rows["Eager (control)"][-3:] == [str(3 * 40 + 100), "5", "4"]
    assert rows["TensorRT-LLM"][-1] == "–"


def test_a_referee_that_failed_is_said_under_the_table(run_dir):
    stored = json.loads((run_dir / "manifest.json").read_text())
    (run_dir / "manifest.json").write_text(json.dumps({**stored, "not_judged": "no verdict, exit code 3"}))
    (table,) = [table for table in tables_of(load(run_dir)) if table.name == "equivalence"]
    assert table.facts.startswith("The timed ids were not judged: no verdict, exit code 3. ")


def test_a_case_that_lost_a_block_says_so(run_dir):
    status = pd.read_csv(run_dir / "status.csv")
    lost = (status["case"] == "jit") & (status["block"] == 1)
    status.loc[lost, "state"] = "timeout"
    status["reason"] = status["reason"].astype(object)
    status.loc[lost, "reason"] = "ended after 900 s"
    status.to_csv(run_dir / "status.csv", index=False)
    notes = [text for _, text in tables_of(load(run_dir))[0].notes.lines()]
    assert "JIT-Only: 1 of 2 blocks ended well; timeout: ended after 900 s." in notes


def test_a_missing_length_takes_the_average_away(run_dir):
    ttft = pd.read_csv(run_dir / "ttft.csv")
    ttft[~((ttft["case"] == "jit") & (ttft["prompt_length"] == 400))].to_csv(run_dir / "ttft.csv", index=False)
    table = tables_of(load(run_dir))[0]
    column = [c.head.text for c in table.columns].index("JIT-Only")
    assert [row[column].text for row in table.rows][-2:] == ["–", "–"]


def test_csv_has_the_numbers_and_tells_a_smoke_run(tables, odd):
    frame = pd.read_csv(io.StringIO(tables["ttft"].csv()))
    assert not frame["smoke"].any()
    assert {"mean_ms", "p50_ms", "floor_ms", "winner", "title"} <= set(frame.columns)
    averages = frame[frame["prompt_length"] == "average"].set_index("case")
    assert averages.loc["jit", "p50_ms"] == pytest.approx(
        frame[(frame["case"] == "jit") & (frame["prompt_length"] != "average")]["p50_ms"].mean()
    )
    assert all(pd.read_csv(io.StringIO(table.csv()))["smoke"].all() for table in tables_of(odd))


def test_facts_stand_under_every_table(stored, tables):
    for table in tables.values():
        for fact in ("Invented GPU", "2026-01-02", "protocol controlled", "Llama-2-7B", "random weights"):
            assert fact in table.facts
    assert " n = 40;" in tables["ttft"].facts


def test_one_case_without_baseline_or_decode_still_has_its_tables_and_wins_over_nobody(tmp_path):
    spec = Spec(blocks=3, cases=("jit",), missing=(), wrong=(), lengths=(10,), context=10, context_ranges=())
    tables = {table.name: table for table in tables_of(load(invent(tmp_path / "run", spec)))}
    ttft = tables["ttft"]
    assert {row[-1].text for row in ttft.rows} == {"–"}
    notes = dict(ttft.notes.lines())
    assert all("fewer than two cases have a figure" in notes[mark] for row in ttft.rows for mark in row[-1].marks)
    assert not any(cell.bold for row in ttft.rows for cell in row)
    assert texts(tables["decode"])[0][1] == "–"


def test_an_average_needs_all_of_its_rows_and_no_columns_at_all():
    frame = pd.DataFrame({"a": [1.0, 2.0, 6.0], "b": [1.0, math.nan, 3.0]}, index=["10", "50", "100"])

    assert with_average(frame).loc["Average", "a"] == 3.0
    assert math.isnan(with_average(frame).loc["Average", "b"])
    assert with_average(frame, ["10", "100"]).loc["Average"].tolist() == [3.5, 2.0]
    assert list(with_average(frame[[]]).index) == ["10", "50", "100", "Average"]


def test_no_case_at_all_has_tables_of_dashes(tmp_path):
    spec = Spec(cases=("tensorrt_llm",))
    tables = {table.name: table for table in tables_of(load(invent(tmp_path / "run", spec)))}
    assert [row[1] for row in texts(tables["ttft"])] == ["–"] * 4
    assert any("not installed" in text for _, text in tables["ttft"].notes.lines())


def spoil(run_dir, name, change):
    """Rewrite one CSV of a run."""
    frame = pd.read_csv(run_dir / f"{name}.csv")
    change(frame).to_csv(run_dir / f"{name}.csv", index=False)


def lose_blocks(run_dir, case, blocks=(0, 1)):
    def change(status):
        lost = (status["case"] == case) & status["block"].isin(blocks)
        return status.assign(
            state=status["state"].mask(lost, "timeout"), reason=status["reason"].mask(lost, "ended after 900 s")
        )

    spoil(run_dir, "status", change)


MARKED = ("ttft", "ttft_ratio", "p99", "decode", "summary", "speedup", "blocks", "clocks", "equivalence")


@pytest.mark.parametrize("blocks", [(1,), (0, 1)])
def test_a_case_with_a_lost_block_is_marked_in_every_table(run_dir, blocks):
    lose_blocks(run_dir, "jit", blocks)
    tables = {table.name: table for table in tables_of(load(run_dir))}
    wanted = f"JIT-Only: {2 - len(blocks)} of 2 blocks ended well; timeout: ended after 900 s."
    for name in MARKED:
        notes = {text: mark for mark, text in tables[name].notes.lines()}
        assert wanted in notes, name
        named = [column.head for column in tables[name].columns] + [cell for row in tables[name].rows for cell in row]
        assert any("JIT-Only" in cell.text and notes[wanted] in cell.marks for cell in named), name


def test_a_case_without_a_good_block_never_wins_nor_counts_in_a_speed_up(three):
    lose_blocks(three, "jit_cuda_graph", (0, 1, 2))
    run = load(three)
    tables = {table.name: table for table in tables_of(run)}
    assert [row[-1] for row in texts(tables["ttft"])] == ["CUDA Graph"] * 4
    assert "JIT+CUDA" not in [row[-1] for row in texts(tables["decode"])]
    summary = next(row for row in tables["summary"].rows if row[0].text == "JIT+CUDA")
    assert not any(cell.bold for cell in summary)
    assert math.isnan(speed_up(run, "TTFT", "jit_cuda_graph", "jit"))
    assert math.isnan(speed_up(run, "TTFT", "jit", "jit_cuda_graph"))
    assert speed_up(run, "TTFT", "jit", "baseline") > 1
    rows = [text.get_text() for text in drawn(run)["speedup"].axes[0].get_yticklabels()]
    assert rows[:2] == ["CUDA Graph", "JIT-Only"]
    assert "JIT+CUDA" not in rows


def drawn(run):
    return {plot.name: plot.figure for plot in plots.plots(run)}


def test_a_case_that_was_not_compared_is_marked(run_dir):
    spoil(run_dir, "equivalence", lambda frame: frame.astype({"passed": object, "reason": object}).assign(
        passed=frame["passed"].astype(object).mask(frame["case"] == "jit", np.nan),
        reason=frame["reason"].astype(object).mask(frame["case"] == "jit", "no logits"),
    ))  # fmt: skip
    table = tables_of(load(run_dir))[0]
    head = next(column.head for column in table.columns if column.head.text == "JIT-Only")
    assert "‡" in head.marks
    assert ("‡", "JIT-Only: not compared with the baseline: no logits.") in table.notes.lines()


@pytest.mark.parametrize(("judged", "verdict"), [(40, "by ids alone"), (0, "not compared")])
def test_a_case_without_logits_whose_ids_were_judged_says_so(run_dir, judged, verdict):
    spoil(run_dir, "equivalence", lambda frame: frame.astype({"passed": object}).assign(
        passed=frame["passed"].astype(object).mask(frame["case"] == "jit", np.nan), judged_tokens=judged,
        judged_near_ties=0, judged_wrong=0, decode_judged=0, decode_near_ties=0, decode_wrong=0,
    ))  # fmt: skip
    tables = {table.name: table for table in tables_of(load(run_dir))}
    assert dict(row[:2] for row in texts(tables["equivalence"]))["JIT-Only"] == verdict


def test_a_case_whose_processor_was_slow_throughout_is_held_against_the_runs_quickest(run_dir):
    loops = {"baseline": 2.0, "cuda_graph": 2.0, "jit": 4.0, "jit_cuda_graph": 2.5, "eager": 2.7}
    spoil(run_dir, "samples", lambda frame: frame.assign(host_loop_us=frame["case"].map(loops)))
    found = {row[0]: row[-2:] for row in texts(machine_table(load(run_dir)))}
    assert found["JIT-Only"] == ["4.00", "100 %"]
    assert (found["JIT+CUDA"], found["Eager (control)"]) == (["2.50", "0 %"], ["2.70", "100 %"])


def test_on_which_cpus_a_cases_threads_were_kept_is_said_where_the_run_tells(run_dir):
    plain = machine_table(load(run_dir))
    assert [column.head.text for column in plain.columns][-1] != "Kept on"
    words = {"baseline": "quickest of 16 CPUs, {} moves in 40 looks", "jit": "none: 2 CPUs are here, and 4 are needed"}
    spoil(run_dir, "status", lambda frame: frame.assign(
        pinning=[words.get(case, "").format(3 + 4 * block) for case, block in frame[["case", "block"]].to_numpy()]
    ))  # fmt: skip
    table = machine_table(load(run_dir))
    found = {row[0]: row[-1] for row in texts(table)}
    assert [column.head.text for column in table.columns][-1] == "Kept on"
    assert found["Baseline"] == "quickest of 16, 3 to 7 moves"
    assert found["JIT-Only"] == "none: 2 CPUs are here, and 4 are needed"
    assert found["CUDA Graph"] == "–"
    assert "Kept on: among how many CPUs" in table.facts


def counted(n, why):
    return f"quickest of 16, 3 moves; {n} {'block' if n == 1 else 'blocks'} {why}"


def test_blocks_whose_threads_were_not_kept_are_counted_beside_those_that_were(run_dir):
    words = ["quickest of 16 CPUs, 3 moves in 4 looks", "none: 2 CPUs are here, and 4 are needed"]
    gone = "quickest of 16 CPUs, 3 moves in 4 looks, stopped: [Errno 22] Invalid argument"
    spoil(run_dir, "status", lambda frame: frame.assign(
        pinning=[gone if case == "jit" else words[block > 0] for case, block in frame[["case", "block"]].to_numpy()]
    ))  # fmt: skip
    blocks = load(run_dir).status.groupby("case").size()
    found = {row[0]: row[-1] for row in texts(machine_table(load(run_dir)))}
    assert found["Baseline"] == counted(blocks["baseline"] - 1, words[1])
    assert found["JIT-Only"] == counted(blocks["jit"], "stopped: [Errno 22] Invalid argument")


def test_titles_that_hold_commas_are_told_apart(tmp_path):
    titles = {"baseline": "Baseline", "jit": "JIT, alone", "jit_cuda_graph": "JIT, and graphs"}
    run = load(invent(tmp_path / "run", Spec(cases=tuple(titles), titles=titles, missing=(), wrong=(), blocks=3)))
    assert listed(["A", "B"]) == "A, B"
    leaders = Standing("jit", ("jit_cuda_graph",), ())
    assert winner_cell(run, leaders, Notes()).text == "tie: JIT, alone; JIT, and graphs"
    words = ties(run, {"ttft_ms": leaders, "decode_ms": leaders})
    both = "JIT, alone; JIT, and graphs"
    assert words.endswith(f"Ties: Avg TTFT: {both}. Decode: {both}.")


def test_a_case_that_equivalence_does_not_name_is_marked(run_dir):
    spoil(run_dir, "equivalence", lambda frame: frame[frame["case"] != "jit"])
    notes = dict(tables_of(load(run_dir))[0].notes.lines())
    assert notes["‡"] == "JIT-Only: not compared with the baseline: equivalence.csv has no row of it."


def test_block_medians_are_those_of_the_samples(stored, tables):
    table = tables["blocks"]
    own = stored.samples[(stored.samples["case"] == "jit") & (stored.samples["block"] == 1)]
    by_length = own[own["metric"] == "ttft"].groupby("prompt_length")["host_ms"]
    wanted = by_length.quantile(0.5, interpolation="lower").mean()
    row = next(row for row in texts(table) if row[:2] == ["TTFT", "JIT-Only"])
    assert row[3] == f"{wanted:.2f}"
    assert [column.head.text for column in table.columns][2:4] == ["Block 0 (ms)", "Block 1 (ms)"]


def test_captions_say_what_averages_and_intervals_are(tables):
    assert "mean of the medians over lengths" in tables["ttft"].facts
    assert "mean over lengths of the medians" in tables["summary"].facts
    assert "mean over lengths of each length's P99" in tables["p99"].facts
    assert all("independent, pooled over blocks" in tables[name].facts for name in ("ttft", "p99"))
    assert "the number of tokens before it" in tables["decode"].facts


def test_a_power_capped_decode_says_that_it_runs_back_to_back(run_dir):
    spoil(run_dir, "samples", lambda frame: frame.assign(throttle="sw_power_cap"))
    spoil(run_dir, "decode", lambda frame: frame.assign(throttled=frame["n"]))
    tables = {table.name: table for table in tables_of(load(run_dir))}
    assert any("Decode runs back to back" in text for _, text in tables["decode"].notes.lines())
    assert not any("back to back" in text for _, text in tables["ttft"].notes.lines())


def test_figures_name_the_cases_without_a_curve_and_their_n(stored):
    for plot in plots.plots(stored):
        assert "for want of" in plot.caption, plot.name
        assert "TensorRT-LLM" in plot.caption, plot.name
    speedup = next(plot for plot in plots.plots(stored) if plot.name == "speedup")
    assert "n = 40 a length (TTFT), 40 a length (P99), 100 (decode)." in speedup.caption


def test_figures_list_cases_in_the_order_of_the_tables(full):
    names = [text.get_text() for text in drawn(full)["ttft_ecdf"].legends[0].get_texts()]
    assert names == list(full.cases.values())


def test_speed_ups_have_a_panel_a_metric_and_a_row_a_case_with_its_figure(full):
    figure = drawn(full)["speedup"]
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["TTFT", "P99", "Decode"]
    others = [case for case in full.cases if case != "baseline"]
    for axes, metric in zip(figure.axes, ("TTFT", "P99", "Decode"), strict=True):
        wanted = [speed_up(full, metric, case, "baseline") for case in others]
        assert [bar.get_width() for bar in axes.patches] == pytest.approx(wanted, nan_ok=True)
        assert [text.get_text() for text in axes.texts] == [f"{ratio:.2f}×" for ratio in wanted]


LONG = {case: f"{title}, with a name of its own that fills more than three lines" for case, title in MANY.items()}


@pytest.mark.parametrize("smoke", [False, True])
@pytest.mark.parametrize(("titles", "baseline_ms"), [(MANY, 24.0), (LONG, 24.0), (MANY, 5e4)])
def test_no_figure_beside_a_bar_of_many_cases_covers_another_or_leaves_the_picture(
    tmp_path, monkeypatch, titles, baseline_ms, smoke
):
    monkeypatch.setitem(synthetic.LATENCY, "baseline", baseline_ms)
    spec = Spec(cases=tuple(MANY), titles=titles, missing=(), wrong=(), blocks=3, iterations=130, smoke=smoke)
    figure = drawn(load(invent(tmp_path / "run", spec)))["speedup"]
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    words = [text for axes in figure.axes for text in (*axes.texts, *axes.get_yticklabels()) if text.get_text()]
    boxes = [text.get_window_extent() for text in (*words, *figure.texts) if text.get_text() != SMOKE]
    assert len(boxes) >= 4 * (len(MANY) - 1)
    assert not [(a, b) for a, b in itertools.combinations(boxes, 2) if a.overlaps(b)]
    width, height = canvas.get_width_height()
    assert all(box.x0 >= 0 and box.x1 <= width and box.y0 >= 0 and box.y1 <= height for box in boxes)
    starts = [axes.get_window_extent().x0 for axes in figure.axes]
    for axes, after in zip(figure.axes, [*starts[1:], width], strict=True):
        assert all(text.get_window_extent().x1 < after for text in axes.texts if text.get_text() != SMOKE)


@pytest.mark.parametrize("cases", [tuple(MANY), ("baseline", "jit"), ("baseline", "jit_cuda_graph", "vllm")])
def test_the_watermark_of_a_smoke_run_lies_above_its_bars(tmp_path, cases):
    spec = Spec(cases=cases, titles={case: MANY[case] for case in cases}, missing=(), wrong=(), smoke=True)
    figure = drawn(load(invent(tmp_path / "run", spec)))["speedup"]
    FigureCanvasAgg(figure).draw()
    for axes in figure.axes:
        stamp = next(text for text in axes.texts if text.get_text() == SMOKE).get_window_extent()
        assert all(bar.get_window_extent().y1 < stamp.y0 for bar in axes.patches)


@pytest.mark.parametrize("lengths", [1, 2, 4, 5, 9, 11])
def test_panels_of_the_distribution_without_a_length_are_not_drawn(tmp_path, lengths):
    run = load(invent(tmp_path / "run", Spec(lengths=tuple(range(10, 10 + 10 * lengths, 10)))))
    axes = drawn(run)["ttft_ecdf"].axes
    shown = [one for one in axes if one.get_visible()]
    assert len(shown) == min(lengths, 9)
    assert all(one.lines for one in shown)
    lowest = [one for one in shown if not any(other.get_position().y1 < one.get_position().y0 for other in shown
              if other.get_position().x0 == one.get_position().x0)]  # fmt: skip
    assert all(any(tick.get_visible() for tick in one.get_xticklabels()) for one in lowest)


def test_clock_footnotes_are_not_repeated(tables):
    notes = [text for _, text in tables["clocks"].notes.lines()]
    assert sum("No server in between" in text for text in notes) == 1


def test_a_run_of_before_the_later_columns_is_read(run_dir):
    later = ["hits", "misses", "evictions", "failures", "capturing"]
    spoil(run_dir, "samples", lambda frame: frame.drop(columns=later, errors="ignore"))
    assert load(run_dir).samples[later].eq(0).all(axis=None)


def test_cases_of_one_title_are_told_apart():
    titles = {"a": "One", "b": "Two", "c": "One"}
    assert told_apart(titles) == {"a": "One [a]", "b": "Two", "c": "One [c]"}


ONE, OTHER = {"gpu_uuid": "GPU-1", "read_bandwidth_tb_s": 4.61}, {"gpu_uuid": "GPU-2", "read_bandwidth_tb_s": 4.69}


@pytest.mark.parametrize(
    ("attempts", "said"),
    [
        ([ONE], ""),
        ([ONE, ONE], ""),
        ([{"gpu_uuid": None}], ""),
        ([ONE, OTHER], "begun on one card and gone on on another of its kind, which read 4.61 and 4.69 TB/s"),
        ([ONE, {**OTHER, "read_bandwidth_tb_s": 4.612}], "begun on one card and gone on on another of its kind"),
        ([ONE, OTHER, {**ONE, "read_bandwidth_tb_s": 4.62}],
         "begun on one card and gone on on another of its kind, which read 4.61 and 4.69 TB/s"),
        ([ONE, OTHER, {"gpu_uuid": "GPU-3"}],
         "begun on one card and gone on on others of its kind, which read 4.61 and 4.69 TB/s"),
    ],
)  # fmt: skip
def test_a_run_that_went_on_on_another_card_says_so_under_every_table(tmp_path, attempts, said):
    path = invent(tmp_path / "run", Spec())
    stored = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps({**stored, "attempts": attempts}))
    run = load(path)
    assert all(("gone on on" in table.facts) == bool(said) and said in table.facts for table in tables_of(run))


def test_an_interrupted_run_says_so_under_every_table(tmp_path):
    path = invent(tmp_path / "run", Spec())
    assert load(path).unfinished == ""
    status = pd.read_csv(path / "status.csv")
    status[:-1].to_csv(path / "status.csv", index=False)
    run = load(path)
    assert run.unfinished == f"interrupted: {len(status) - 1} of {len(status)} blocks"
    assert all(run.unfinished in table.facts for table in tables_of(run))
