"""`python -m reports spread`: how far several machines lie apart, by pairs of them."""

import math
import re
import shutil

import pandas as pd
import pytest

from reports.__main__ import main
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
        samples = pd.read_csv(run / "samples.csv")
        samples.assign(host_loop_us=samples["case"].map({"jit": 4.0 * factor})).to_csv(run / "samples.csv", index=False)
    assert spread(*three, "--to", tmp_path / "out") == 0
    found = rows(tmp_path / "out").loc[("TTFT", "jit")]
    assert found["in_floors"] == pytest.approx(0, abs=1e-9)
    assert found["in_loops"] == pytest.approx(0.21), "the loop was slower at 10 tokens too"
    assert math.isnan(rows(tmp_path / "out").loc[("TTFT", "baseline"), "in_loops"]), "its loop was not timed"
    machines = pd.read_csv(tmp_path / "out" / "spread_machines.csv")
    assert machines["host's loop"].tolist() == [4.0, 4.4, 4.84]


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
    assert "the runs differ in what matters (driver is 0.0 in A and 1.0 in B)" in printed.err
    assert spread(*three, "--force") == 0
    assert "The machines – FORCED: the runs differ in 1 thing that matters" in capsys.readouterr().out


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
