"""Ranges over the processes of a case: what they are made of, and what is not told from noise."""

import math

import pandas as pd
import pytest
from matplotlib.collections import LineCollection
from matplotlib.colors import to_hex

from reports import experiments, style
from reports.blocks import blocks_table
from reports.experiments import attribution, ladder, waterfall
from reports.run import load
from tests.reports.studies import change_config
from tests.reports.test_attribution import STAND_IN, attribute, both, line, notes, samples, spoil, texts

NONE = (math.nan, math.nan)
TWICE = {"stand_in_published": (30.0, 36.0), "stand_in_sampling": (15.0, 30.0)}


def repeat(path, blocks):
    """The run with these average TTFTs in ms by case and block, in place of those it has."""
    frame = pd.read_csv(path / "samples.csv", keep_default_na=False, na_values=[""])
    rows = [row | {"block": b} for case, all_ms in blocks.items() for b, ms in enumerate(all_ms)
            for row in samples(case, ms)]  # fmt: skip
    kept = frame[~frame["case"].isin(list(blocks))]
    pd.concat([kept, pd.DataFrame(rows)]).to_csv(path / "samples.csv", index=False)
    status = pd.read_csv(path / "status.csv", dtype=str, keep_default_na=False)
    more = [status[status["case"] == c].assign(block=str(b)) for c, ms in blocks.items() for b in range(1, len(ms))]
    pd.concat([status, *more]).to_csv(path / "status.csv", index=False)
    change_config(path, cases={case: {"blocks": len(ms)} for case, ms in blocks.items()})
    return path


def rungs(path, other):
    return {rung.step.name: rung for rung in ladder.climb(load(path), other).rungs}


@pytest.fixture(scope="module")
def twice(tmp_path_factory):
    """The stand-in published and sampling in two processes, everything else in one."""
    with pytest.MonkeyPatch.context() as patch:
        return repeat(attribute(tmp_path_factory.mktemp("twice") / "run", patch=patch), TWICE)


def test_a_speed_up_goes_from_least_to_most_over_the_processes_of_both(twice):
    found = rungs(twice, "stand_in")
    assert found["published"].speedup == pytest.approx(33 / 12)  # the mean over all requests, as with one process
    assert found["published"].speedup_range == pytest.approx((30 / 12, 36 / 12))
    assert found["capture_set"].speedup_range == pytest.approx((30 / 11, 36 / 11))
    assert found["warmup"].speedup_range == pytest.approx(NONE, nan_ok=True)


def test_a_factor_has_the_range_of_the_cases_that_changed(twice):
    found = rungs(twice, "stand_in")
    assert found["capture_set"].factor_range == pytest.approx(NONE, nan_ok=True)  # the stand-in stayed: it cancels
    assert found["warmup"].factor_range == pytest.approx((21 / 36 * 11 / 10, 21 / 30 * 11 / 10))
    assert found["clock"].factor_range == pytest.approx(NONE, nan_ok=True)
    assert found["sampling"].factor_range == pytest.approx((15 / 21, 30 / 21))
    assert [found[step].factor_range.told for step in ("capture_set", "warmup", "sampling")] == [None, True, False]
    assert [rung.factor_range.told for rung in rungs(twice, "cuda_graph").values()] == [None] * 8


def test_what_stayed_cancels_though_it_has_many_processes(tmp_path, monkeypatch):
    both_sides = {"jit_cuda_graph_capture_set": (11.0, 13.2), "jit_cuda_graph_published": (12.0, 9.0)}
    path = repeat(attribute(tmp_path / "run", patch=monkeypatch), TWICE | both_sides)
    assert rungs(path, "stand_in")["capture_set"].factor_range == pytest.approx((9 / 13.2, 12 / 11))
    assert rungs(path, "stand_in")["published"].speedup_range == pytest.approx((30 / 12, 36 / 9))


def test_a_range_reaches_over_a_step_without_a_figure(tmp_path, monkeypatch):
    path = attribute(tmp_path / "run", patch=monkeypatch, failed=["cuda_graph_capture_set"])
    found = rungs(repeat(path, {"cuda_graph_published": (96.0, 120.0)}), "cuda_graph")
    assert found["capture_set"].factor_range == pytest.approx(NONE, nan_ok=True)
    assert found["warmup"].factor_range == pytest.approx((24 / 120 * 12 / 10, 24 / 96 * 12 / 10))


def test_a_process_that_lacks_requests_is_none_of_a_range(tmp_path, monkeypatch):
    path = repeat(attribute(tmp_path / "run", patch=monkeypatch), TWICE)

    def cut(frame):
        lost = (frame["case"] == "stand_in_published") & (frame["block"] == 1) & (frame["prompt_length"] == 400)
        frame.loc[lost & (frame["iteration"] == 2), "metric"] = "lost"

    spoil(path, cut)
    found = ladder.climb(load(path), "stand_in")
    assert found.found["stand_in_published"].blocks == (30.0,)
    assert found.rungs[0].speedup > 30 / 12
    assert found.rungs[0].speedup_range.told is None


@pytest.mark.parametrize(("ends", "told"), [((0.5, 0.99), True), ((0.9, 1.0), False), ((1.0, 2.0), False),
                                            ((0.7, 1.4), False), ((1.01, 3.0), True), (NONE, None)])  # fmt: skip
def test_what_holds_1_is_not_told_from_noise(ends, told):
    assert ladder.Span(*ends).told is told


def test_the_table_has_the_ranges_and_marks_what_is_not_told(twice):
    table = experiments.section(load(twice)).tables[1]
    assert line(table, "As published")["Speed-up"] == "2.75× (2.50–3.00)"
    assert line(table, "Cold starts apart")["Speed-up"] == "2.10×"
    assert line(table, "Same captures")["Factor"] == "×1.09"
    assert line(table, "Cold starts apart")["Factor"] == "/1.43 (/1.56 to /1.30)"
    (sampling,) = (row for row in table.rows if row[0].text == "Greedy sampling")
    assert sampling[5].text == "×1.07 (/1.40 to ×1.43)"
    assert [dict(table.notes.lines())[mark] for mark in sampling[5].marks] == [attribution.NOT_TOLD]
    assert attribution.RANGES in table.facts
    assert "requests in each of 1 or 2 processes, by the clock" in table.facts


def test_the_csv_has_the_ranges_and_whether_a_factor_is_told(twice):
    frame = experiments.section(load(twice)).tables[1].frame.set_index("step")
    ends = ["speedup_low", "speedup_high", "factor_low", "factor_high"]
    assert list(frame.loc["sampling", ends]) == pytest.approx([15 / 10.4, 30 / 10.4, 15 / 21, 30 / 21])
    assert list(frame.loc["clock", ends].isna()) == [True] * 4
    assert [frame.loc[step, "told"] for step in ("warmup", "sampling")] == [True, False]
    assert frame.loc[["published", "published, draft"], "told"].isna().all(), "there is no factor"
    assert [frame.loc[step, "told"] for step in ("capture_set", "clock")] == [True, False], "by how near 1 they are"
    assert frame.loc["published", "theirs_blocks"] == "30 36"


def test_the_stand_in_over_the_baseline_is_a_null_comparison_with_its_range(twice):
    for text in (experiments.section(load(twice)).tables[1].facts, experiments.section(load(twice)).plots[1].caption):
        assert f"Null comparison: {STAND_IN} over Baseline" in text
        assert "as published: 0.88× (0.80–0.96, told from noise; 33.00 over 37.50 ms)" in text
        assert "greedy sampling: 0.90× (0.60–1.20, not told from noise; 22.50 over 25.00 ms)." in text


@pytest.mark.parametrize(("factor", "told"), [(1.0, False), (1.049, False), (1 / 1.049, False), (1.051, True),
                                              (1 / 1.051, True), (math.nan, None)])  # fmt: skip
def test_without_a_range_a_factor_near_1_is_not_told_from_noise(factor, told):
    rung = ladder.Rung(ladder.STEPS[1], "ours", "theirs", 2.0 * factor, 2.0, "published", ladder.Span(), ladder.Span())
    assert rung.told is told


def test_a_factor_near_1_says_why_it_is_not_told(twice):
    table = experiments.section(load(twice)).tables[0]
    cells = {row[0].text: row[5] for row in table.rows if len(row) > 5}
    near = [
        name for name, cell in cells.items() if attribution.NEAR in (dict(table.notes.lines())[m] for m in cell.marks)
    ]
    assert near
    assert all(cells[name].text[1:] <= "1.05" for name in near)


def test_one_process_a_case_has_no_ranges_and_says_so(tmp_path, monkeypatch):
    path = attribute(tmp_path / "run", patch=monkeypatch)
    change_config(path, cases={"stand_in_published": {"blocks": None}})
    tables, pictures = both(path)
    for table, axes in zip(tables, pictures, strict=True):
        assert attribution.NO_RANGES in table.facts
        assert attribution.NOT_TOLD not in notes(table)
        assert not whiskers(axes)


def whiskers(axes):
    """Place and ends of every whisker."""
    found = [part for part in axes.collections if isinstance(part, LineCollection)]
    return [tuple(segment.flatten()) for part in found for segment in part.get_segments()]


def test_a_range_is_a_whisker_beside_the_end_of_its_bar(twice):
    (_, axes) = both(twice)[1]
    aside = waterfall.WHISKER * waterfall.WIDTH
    places = {0: (30 / 12, 36 / 12), 1: (30 / 11, 36 / 11), 4: (15 / 10.4, 30 / 10.4), 5: (1.5, 3), 6: (5, 10)}
    places |= {7: (15 / 4, 30 / 4), 8: (15 / 4, 30 / 4)}  # the last step, and the controlled ratio whole
    wanted = [(place + aside, low, place + aside, high) for place, (low, high) in places.items()]
    assert [value for one in whiskers(axes) for value in one] == pytest.approx([v for one in wanted for v in one])
    assert axes.get_ylim()[0] < 1 < 10 < axes.get_ylim()[1]


def test_a_bar_that_is_not_told_from_noise_is_light_grey_with_a_key(twice):
    (_, axes) = both(twice)[1]
    grey = [bar for bar in axes.patches if not bar.get_hatch() and to_hex(bar.get_facecolor()) == style.UNTOLD]
    assert [bar.get_x() + bar.get_width() / 2 for bar in grey] == pytest.approx([3, 4, 5]), "two are near 1"
    assert "not told from noise" in [key.get_text() for key in axes.get_legend().texts]
    assert {text.get_color() for text in axes.texts if text.get_text().strip() == "×1.07"} == {style.FAINT}
    assert "×1.07" in "".join(texts(axes))


@pytest.mark.parametrize(("far", "smoke"), [(1.02, False), (1.5, True), (6.0, True)])
def test_no_whisker_hides_words_nor_do_words_hide_each_other(tmp_path, monkeypatch, far, smoke):
    path = attribute(tmp_path / "run", patch=monkeypatch, smoke=smoke)
    cases = [case for case in load(path).cases if case != "tensorrt_llm"]
    ms = {case: load(path).samples.query("case == @case and metric == 'ttft'")["latency_ms"].min() for case in cases}
    repeat(path, {case: (value, far * value) for case, value in ms.items()})
    for axes in both(path)[1]:
        axes.figure.canvas.draw()
        shown = [text for text in [*axes.texts, *axes.get_xticklabels(), *axes.figure.texts] if text.get_text()]
        boxes = [text.get_window_extent().shrunk(0.98, 0.9) for text in shown]
        assert not [(i, j) for i in range(len(boxes)) for j in range(i) if boxes[i].overlaps(boxes[j])]
        lines = [axes.transData.transform([(x, low), (x, high)]) for x, low, _, high in whiskers(axes)]
        assert len(lines) >= 9
        for (x, low), (_, high) in lines:
            assert not [box for box in boxes if box.x0 < x < box.x1 and box.y0 < high and low < box.y1]
        (low, high), ends = axes.get_ylim(), [end for whisker in whiskers(axes) for end in whisker[1::2]]
        assert low < min(ends) < max(ends) < high
        keys = axes.get_legend().get_window_extent()
        assert axes.figure.bbox.x0 <= keys.x0 < keys.x1 <= axes.figure.bbox.x1


def test_blocks_that_were_not_planned_for_a_case_are_no_loss(twice):
    run = load(twice)
    table = blocks_table(run)
    row = next(row for row in table.rows if row[1].text == run.cases["stand_in_warmup"] and row[2].text == "21.00")
    assert [dict(table.notes.lines())[mark] for mark in row[3].marks] == ["1 block planned for this case."]
    assert not run.lost_blocks("stand_in_warmup")
    assert not run.lost_blocks("stand_in_published")
    assert (run.blocks("stand_in_published"), run.blocks("stand_in_warmup")) == (2, 1)
