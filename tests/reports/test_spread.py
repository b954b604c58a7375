"""`python -m reports spread`: how far several machines lie apart, by pairs of them."""

import math
import re
import shutil

import pandas as pd
import pytest

from harness.output.summary import summarise
from reports.__main__ import main
from reports.run import load
from reports.spread import figure, tables
from reports.spread.figure import machines_figure
from reports.spread.hosts import hosts_figure
from reports.spread.pairs import between, pair_up, spreads
from reports.spread.tables import LETTERS, facts_of, spread_table
from tests.reports import pairs
from tests.reports.pairs import manifest, times


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return pairs.invented(tmp_path_factory.mktemp("made") / "a")


@pytest.fixture
def three(made, tmp_path):
    """The same run three times; JIT-Only takes 10 and 21 % longer at 400 tokens in the second and third."""
    runs = [shutil.copytree(made, tmp_path / name) for name in "abc"]
    for run, factor, card in zip(runs, (1.0, 1.1, 1.21), ("GPU-11111111-x", "GPU-22222222-x", ""), strict=True):
        times(run, factor, length=400)
        manifest(run, gpu__uuid=card)
    return runs


def spread(*arguments):
    return main(["spread", *map(str, arguments)])


def rows(folder):
    return pd.read_csv(folder / "spread.csv").set_index(["metric", "case"])


def test_the_closest_pair_the_middle_and_the_farthest(three, tmp_path, capsys):
    assert spread(*three, "--to", tmp_path / "out") == 0
    found = rows(tmp_path / "out").loc[("TTFT", "jit")]
    assert [found[name] for name in ("closest", "middle", "farthest")] == [pytest.approx(x) for x in (0.1, 0.1, 0.21)]
    assert found["b_ms"] / found["a_ms"] == pytest.approx(1.1**0.5), "the mean over both lengths"
    assert found["cells"] == 2
    assert rows(tmp_path / "out").loc[("TTFT", "baseline"), ["closest", "farthest"]].tolist() == [0, 0]
    assert "cold" not in {metric.lower() for metric, _ in rows(tmp_path / "out").index}
    said = capsys.readouterr().out
    assert re.search(r"A +a +\S+ \S+ +GPU-11111111 .*\n +B +b .*\n +C +c +\S+ \S+ +not stated ", said)
    assert re.search(r"TTFT +JIT-Only +2 .* 10\.0 % +10\.0 % +21\.0 % +21\.0 % *\n", said), "and as much in floors"


def test_what_the_card_explains_is_not_left_in_floors_and_what_the_host_does_not_in_loops(three, tmp_path):
    for run, factor in zip(three, (1.0, 1.1, 1.21), strict=True):
        frame = pd.read_csv(run / "ttft.csv")
        frame["floor_ms"] *= frame["prompt_length"].map({10: 1.0, 400: factor})
        frame.to_csv(run / "ttft.csv", index=False)
    hosts(three, (1.0, 1.1, 1.21))
    assert spread(*three, "--to", tmp_path / "out") == 0
    found = rows(tmp_path / "out").loc[("TTFT", "jit")]
    assert found["in_floors"] == pytest.approx(0, abs=1e-9)
    assert found["in_loops"] == pytest.approx(0.21), "the loop was slower at 10 tokens too"
    assert math.isnan(rows(tmp_path / "out").loc[("TTFT", "baseline"), "in_loops"]), "its loop was not timed"
    machines = pd.read_csv(tmp_path / "out" / "spread_machines.csv")
    assert machines["host's loop"].tolist() == [4.0, 4.4, 4.84]


def hosts(runs, factors):
    """JIT-Only's loop took 4 us times these factors, and that of no other case was timed."""
    for run, factor in zip(runs, factors, strict=True):
        samples = pd.read_csv(run / "samples.csv")
        samples.assign(host_loop_us=samples["case"].map({"jit": 4.0 * factor})).to_csv(run / "samples.csv", index=False)


def test_two_runs_are_one_pair_which_is_said_once(three, tmp_path, capsys):
    assert spread(*three[:2], "--to", tmp_path / "out") == 0
    said = capsys.readouterr().out
    assert re.search(r"Metric +Case +Cells +A +B +Farthest +In floors *\n", said)
    assert "closest" not in said.lower().split("every machine beside")[0]
    assert rows(tmp_path / "out").loc[("TTFT", "jit"), ["closest", "farthest"]].tolist() == [pytest.approx(0.1)] * 2


def test_a_copy_of_a_run_is_no_second_machine(three, tmp_path, capsys):
    copy = shutil.copytree(three[0], tmp_path / "copy")
    assert spread(three[0], copy) == 2
    assert capsys.readouterr().err == f"reports: {copy} is a copy of {three[0]}: name each run once\n"


def test_what_not_all_runs_have_is_said(three, tmp_path):
    for name in ("samples", "status"):
        frame = pd.read_csv(three[1] / f"{name}.csv", keep_default_na=False)
        frame[frame["case"] != "jit"].to_csv(three[1] / f"{name}.csv", index=False)
    summarise(three[1])
    assert spread(*three, "--to", tmp_path / "out") == 0
    said = (tmp_path / "out" / "spread.md").read_text()
    assert "Left out, as not all runs have it: TTFT of JIT-Only, " in said


def test_pairs_say_whether_their_code_is_the_same(three, tmp_path):
    for run, code in zip(three, ("1" * 64, "1" * 64, "2" * 64), strict=True):
        manifest(run, code_digest=code)
    assert spread(*three, "--to", tmp_path / "out") == 0
    found = pd.read_csv(tmp_path / "out" / "spread_pairs.csv").drop_duplicates(["first", "second"])
    assert dict(zip(found["first"] + found["second"], found["code"], strict=True)) == {
        "AB": "same", "AC": "other", "BC": "other",
    }  # fmt: skip


def test_every_pair_stands_by_itself_the_closest_first(three, tmp_path, capsys):
    times(three[2], 1.2 / 1.21, length=400)
    hosts(three, (1.0, 1.1, 1.05))
    assert spread(*three, "--to", tmp_path / "out") == 0
    found = pd.read_csv(tmp_path / "out" / "spread_pairs.csv").set_index(["metric", "case"]).loc[("TTFT", "jit")]
    assert list(zip(found["first"], found["second"], strict=True)) == [("B", "C"), ("A", "B"), ("A", "C")]
    ratios, hosts_ratios = (1.2 / 1.1, 1.1, 1.2), (1.05 / 1.1, 1.1, 1.05)
    assert found["farthest"].tolist() == [pytest.approx(ratio - 1) for ratio in ratios]
    assert found["mean"].tolist() == [pytest.approx(ratio**0.5) for ratio in ratios], "one cell of two"
    assert found["host"].tolist() == [pytest.approx(ratio) for ratio in hosts_ratios]
    left = (1.2 / 1.1 * 1.1 / 1.05 - 1, 0.1, 1.2 / 1.05 - 1)
    assert found["scaled_farthest"].tolist() == [pytest.approx(share) for share in left]
    assert re.search(
        r"TTFT +JIT-Only +B–C +not stated +1\.044 +0\.955 +9\.1 % +14\.3 % +9\.1 % *\n", capsys.readouterr().out
    )


def test_more_pairs_than_can_be_read_are_in_the_csv_alone(three, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(tables, "MOST", 3)
    assert spread(*three, "--to", tmp_path / "out") == 0
    assert re.search(r"Every machine beside every other has \d+ rows, too many to read here", capsys.readouterr().out)
    assert [path.suffix for path in (tmp_path / "out").glob("spread_pairs.*")] == [".csv"]


def test_the_cases_that_are_named_are_told_alone(three, tmp_path, capsys):
    assert spread(*three, "--cases", "jit", "baseline", "--to", tmp_path / "out") == 0
    assert set(rows(tmp_path / "out").index.get_level_values("case")) == {"baseline", "jit"}
    assert set(pd.read_csv(tmp_path / "out" / "spread_pairs.csv")["case"]) == {"baseline", "jit"}
    capsys.readouterr()
    assert spread(*three, "--cases", "jti") == 2
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == (
        "", "reports: these runs have no cells of the case 'jti' in common: choose among baseline, cuda_graph, jit\n"
    )  # fmt: skip


def test_runs_behind_the_cases_are_none(three, capsys):
    assert spread("--cases", "jit", *three) == 2
    said = "reports: --cases takes every word behind it, and no run is left: name the runs before it\n"
    assert capsys.readouterr().err == said


def test_a_case_on_the_dashed_line_is_slower_by_as_much_as_its_host(three):
    hosts(three, (1.1, 1.0, 1.1))
    runs = [load(path) for path in three]
    plot = hosts_figure(between(pair_up(runs)), runs)
    axes = plot.figure.axes[0]
    (marks,) = [line.get_xydata() for line in axes.lines if line.get_linestyle() == "None"]
    mean = math.log(1.1) / 2
    wanted = [(math.log(1.1), -mean), (0.0, 2 * mean), (math.log(1.1), mean)]
    assert sorted(map(tuple, marks)) == [pytest.approx(point) for point in sorted(wanted)], "B's host is the quicker"
    (low, high), (left, right) = axes.get_ylim(), axes.get_xlim()
    assert all(left <= x <= right and low <= y <= high for x, y in marks)
    box = axes.get_position()
    width, height = plot.figure.get_size_inches()
    assert (high - low) / (box.height * height) == pytest.approx((right - left) / (box.width * width)), "one scale"
    assert [text.get_text() for text in plot.figure.legends[0].get_texts()] == ["JIT-Only"]


def test_without_the_hosts_loop_there_is_no_figure_of_hosts(three, tmp_path):
    runs = [load(path) for path in three]
    assert hosts_figure(between(pair_up(runs)), runs).reason == "a run did not time the host's loop"
    assert spread(*three, "--to", tmp_path) == 0
    assert not (tmp_path / "spread_hosts.png").exists()
    assert "Host" not in (tmp_path / "spread_pairs.md").read_text().splitlines()[2]


def test_cells_that_one_run_lacks_are_left_out(three, tmp_path):
    for name in ("samples", "ttft", "p99"):
        frame = pd.read_csv(three[1] / f"{name}.csv", keep_default_na=False)
        gone = (frame["case"] == "jit") & (frame["prompt_length"] == 400)
        gone &= (frame["metric"] == "ttft") if name == "samples" else True
        frame[~gone].to_csv(three[1] / f"{name}.csv", index=False)
    assert spread(*three, "--to", tmp_path / "out") == 0
    found = rows(tmp_path / "out")
    assert found.loc[("TTFT", "jit"), ["cells", "farthest"]].tolist() == [1, 0]
    assert found.loc[("TTFT", "baseline"), "cells"] == 2


def test_runs_that_differ_in_what_matters_are_refused_and_forced_with_a_word(three, capsys):
    manifest(three[2], gpu__driver="1.0")
    assert spread(*three) == 2
    printed = capsys.readouterr()
    assert (printed.out, printed.err.count("\n")) == ("", 1)
    assert "a (A) and c (B): the runs differ in what matters (driver is 0.0 in A and 1.0 in B)" in printed.err
    assert spread(*three, "--force") == 0
    assert "The machines – FORCED: the runs differ in 1 thing that matters" in capsys.readouterr().out


def drawn(three, metric="TTFT"):
    """The panel of a metric, and the x and y of each machine's marks in it."""
    runs = [load(path) for path in three]
    paired = pair_up(runs)
    plot = machines_figure(paired, runs, spread_table(runs, spreads(paired, between(paired)), ""))
    axes = next(axes for axes in plot.figure.axes if axes.get_title().startswith(metric))
    marks = [line.get_data() for line in axes.lines if line.get_linestyle() == "None"]
    return plot, axes, marks


def test_each_machine_has_a_mark_for_each_cell_where_it_lies_over_the_mean(three):
    plot, axes, marks = drawn(three)
    names = [text.get_text() for text in axes.texts]
    assert names == ["Baseline", "CUDA Graph", "JIT-Only"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["10", "400"] * 3
    place = 2 * names.index("JIT-Only") + 1
    mean = (1.1 * 1.21) ** (1 / 3)
    for (across, down), factor in zip(marks, (1.0, 1.1, 1.21), strict=True):
        assert across[place] == pytest.approx(math.log(factor / mean))
        assert across[place - 1] == pytest.approx(0, abs=1e-12)
        assert list(down) == sorted(down), "downwards, none above another"
        assert list(down) == list(axes.get_yticks())
    low, high = axes.get_xlim()
    assert low < math.log(1 / mean), "no mark lies outside"
    assert high > math.log(1.21 / mean)
    legend = [text.get_text() for text in plot.figure.legends[0].get_texts()]
    assert legend == ["A  a", "B  b", "C  c"]


def test_the_figure_says_what_the_runs_are_and_from_when_to_when(three, tmp_path):
    manifest(three[1], started="2026-01-05T00:00:00+00:00")
    assert spread(*three, "--to", tmp_path / "out") == 0
    assert {path.suffix for path in (tmp_path / "out").glob("spread.*")} == {".csv", ".md", ".tex", ".png", ".pdf"}
    plot, *_ = drawn(three)
    title, *lines = (text.get_text() for text in plot.figure.texts)
    said = " ".join([title, *reversed(lines)])
    assert "3 runs, Invented GPU; 2026-01-02 to 2026-01-05; protocol controlled" in plot.caption
    assert all(word in said for word in ("How far the machines lie apart", "Band: 3 % to both sides", "2026-01-05"))


def test_what_is_to_be_known_of_one_run_stands_under_the_table_with_its_letter(three):
    manifest(three[1], warnings=["persistence mode is off"])
    said = facts_of([load(run) for run in three])
    assert said.endswith(" B: warned before the run: persistence mode is off.")


def test_no_two_machines_look_alike():
    looks = [tuple(look.values()) for look in figure.marks(len(LETTERS))]
    assert len(set(looks)) == 26


def test_more_cells_than_a_figure_can_show_are_said_and_the_old_figure_goes(three, tmp_path, monkeypatch):
    assert spread(*three, "--to", tmp_path) == 0
    monkeypatch.setattr(figure, "MOST", 3)
    assert drawn_reason(three).endswith("cells are more than a figure can show")
    assert spread(*three, "--to", tmp_path) == 0
    assert not (tmp_path / "spread.png").exists()


def drawn_reason(three):
    runs = [load(path) for path in three]
    paired = pair_up(runs)
    return machines_figure(paired, runs, spread_table(runs, spreads(paired, between(paired)), "")).reason


def test_a_smoke_run_is_stamped_in_each_panel(three):
    for run in three:
        manifest(run, smoke=True)
    plot, *_ = drawn(three)
    assert all(any("SMOKE" in text.get_text() for text in axes.texts) for axes in plot.figure.axes)


@pytest.mark.parametrize(
    ("which", "options", "sentence"),
    [
        ([0], [], "runs to set side by side: 1; name two or more"),
        ([0, 1, 0], [], "is named twice: name each run once"),
        ([0, 1], ["--to", "0"], "is the folder of a run, whose files stay as they are"),
        ([0, 1], ["--to", "file"], "is a file: give a folder"),
    ],
)
def test_mistakes_are_one_sentence(three, tmp_path, capsys, which, options, sentence):
    (tmp_path / "file").touch()
    options = [three[0] if text == "0" else tmp_path / text if text == "file" else text for text in options]
    assert spread(*(three[place] for place in which), *options) == 2
    printed = capsys.readouterr()
    assert (printed.out, printed.err.count("\n")) == ("", 1)
    assert sentence in printed.err
