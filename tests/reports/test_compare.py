"""`python -m reports compare A B`: verdicts, what is refused, what is said, and what is written."""

import math
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib import image

from reports.__main__ import main
from reports.blockwise import holm
from reports.compare.cells import cells_of
from reports.compare.forest import MOST, forest
from reports.compare.manifests import differences
from reports.run import SMOKE, load
from tests.reports import pairs
from tests.reports.pairs import CASES, WRITTEN, compare, manifest, times, verdicts
from tests.synthetic import STORED, Spec, invent

ROOT = Path(__file__).resolve().parents[2]
PUBLISHED = ROOT / "results" / "published"


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """A run of three cases in four blocks, with enough samples for a P99."""
    return pairs.invented(tmp_path_factory.mktemp("first") / "first")


@pytest.fixture
def second(first, tmp_path):
    """A copy, free to spoil."""
    return shutil.copytree(first, tmp_path / "second")


def test_a_run_against_itself_has_no_change(first, tmp_path, capsys):
    assert compare(first, first, "--to", tmp_path / "out") == 0
    found = verdicts(tmp_path / "out")
    assert set(found.values()) <= {"same", "unclear"}
    assert {key for key in found if key[0] != "Cold TTFT"} == {
        *((metric, case, length) for metric in ("TTFT", "P99") for case in CASES for length in (10, 400)),
        *(("Decode", case, start) for case in CASES for start in (10, 31)),
    }
    assert all(found["TTFT", case, 400] == "same" for case in CASES)
    assert "B against A: 0 faster, 0 slower, " in capsys.readouterr().out


def test_how_far_a_case_moved_stands_in_one_line(first, second, tmp_path, capsys):
    times(second, 1.2, length=400)
    times(second, 0.75, length=10)
    before = shutil.copytree(first, tmp_path / "before")
    manifest(before, loop_overhead_us=0.6)
    manifest(second, loop_overhead_us=0.9)
    compare(before, second, "--to", tmp_path / "out")
    moves = pd.read_csv(tmp_path / "out" / "compare_moves.csv").set_index(["metric", "case"])
    jit = moves.loc[("TTFT", "jit")]
    assert (jit["cells"], jit["lowest"], jit["highest"]) == (2, pytest.approx(0.75), pytest.approx(1.2))
    assert jit["mean"] == pytest.approx((0.75 * 1.2) ** 0.5)
    assert jit["farthest"] == pytest.approx(1 / 0.75 - 1), "a quarter less is a third away"
    assert moves.loc[("TTFT", "baseline"), "farthest"] == 0
    said = capsys.readouterr().out
    assert re.search(r"a step of the host's Python, us +0\.6 +0\.9 +B/A 1\.50", said)
    manifest(second, loop_overhead_us=0)
    compare(before, second)
    assert re.search(r"a step of the host's Python, us +0\.6 +not stated *\n", capsys.readouterr().out)


def test_how_far_the_hosts_loop_moved_stands_beside_a_case_and_what_is_left_of_it(first, second, tmp_path, capsys):
    """Half the samples of the second run fall into slow spells, in which everything takes twice as long."""
    before = shutil.copytree(first, tmp_path / "before")
    times(second, 1.2, length=400)
    for folder, spell in ((before, 1.0), (second, 2.0)):
        samples = pd.read_csv(folder / "samples.csv")
        slow = np.where(samples["iteration"] % 2, spell, 1.0)
        samples["latency_ms"] *= slow
        samples["host_ms"] *= slow
        samples.assign(host_loop_us=samples["case"].map({"jit": 4.0}) * slow).to_csv(
            folder / "samples.csv", index=False
        )
    compare(before, second, "--to", tmp_path / "out")
    moves = pd.read_csv(tmp_path / "out" / "compare_moves.csv").set_index(["metric", "case"])
    jit = moves.loc[("TTFT", "jit")]
    assert jit["host"] == pytest.approx(1.5), "half of them are slow"
    assert jit["farthest"] > 0.25, "a median of two speeds lies anywhere between them"
    assert (jit["scaled"], jit["scaled_farthest"]) == (pytest.approx(1.2**0.5), pytest.approx(0.2))
    assert moves.loc[("TTFT", "baseline"), ["host", "scaled"]].isna().all(), "its loop was not timed"
    cells = pd.read_csv(tmp_path / "out" / "compare.csv").set_index(["metric", "case", "tokens_from"])
    assert cells.loc[("TTFT", "jit", 400), "scaled_ratio"] == pytest.approx(1.2)
    assert cells.loc[("P99", "jit", 10), "scaled_ratio"] == pytest.approx(1)
    low, middle, high = (cells.loc[("TTFT", "jit", 400), f"scaled_{name}"] for name in ("low", "ratio", "high"))
    assert low < middle < high < 1.4, "known over blocks, and better than the latency itself"
    assert cells.loc[("TTFT", "jit", 400), "ratio_high"] > high
    assert cells.loc[("TTFT", "baseline", 10), ["scaled_low", "scaled_high"]].isna().all()
    said = capsys.readouterr().out
    assert re.search(r"TTFT +JIT-Only +2 .* 1\.095 +20\.0 %", said)
    assert re.search(r"TTFT +Baseline +2 .* – +– +–", said)
    assert re.search(r"the host's loop beside the samples, us +4\.00 +4\.00 +B/A 1\.00", said)


def test_the_hosts_loops_of_two_runs_are_those_of_the_cases_that_both_timed(first, second, tmp_path, capsys):
    """Over all of them the quick loops of cases that A did not time would pass for a quicker host."""
    before = shutil.copytree(first, tmp_path / "before")
    for folder, loops in ((before, {"jit": 4.0}), (second, {"jit": 5.0, "baseline": 2.0, "cuda_graph": 2.0})):
        samples = pd.read_csv(folder / "samples.csv")
        samples.assign(host_loop_us=samples["case"].map(loops)).to_csv(folder / "samples.csv", index=False)
    compare(before, second)
    assert re.search(r"the host's loop beside the samples, us +4\.00 +5\.00 +B/A 1\.25", capsys.readouterr().out)


def test_a_cell_whose_loop_is_known_beside_some_samples_only_has_none(first, second, tmp_path):
    """What is left of it would be of other samples than its own ratio."""
    samples = pd.read_csv(second / "samples.csv").assign(host_loop_us=4.0)
    samples.to_csv(second / "samples.csv", index=False)
    before = shutil.copytree(second, tmp_path / "before")
    some = (samples["case"] == "jit") & (samples["prompt_length"] == 400) & (samples["iteration"] == 3)
    samples.assign(host_loop_us=samples["host_loop_us"].mask(some)).to_csv(second / "samples.csv", index=False)
    compare(before, second, "--to", tmp_path / "out")
    cells = pd.read_csv(tmp_path / "out" / "compare.csv").set_index(["metric", "case", "tokens_from"])
    assert cells.loc[("TTFT", "jit", 400), ["host_ratio", "scaled_ratio"]].isna().all()
    assert list(cells.loc[("TTFT", "jit", 10), ["host_ratio", "scaled_ratio"]]) == [1, 1]


@pytest.mark.parametrize("loop", ["0.000", "-2.5"])
def test_a_loop_that_took_no_time_is_refused(first, second, capsys, loop):
    samples = pd.read_csv(second / "samples.csv", keep_default_na=False).assign(host_loop_us="2.5")
    samples.loc[1, "host_loop_us"] = loop
    samples.to_csv(second / "samples.csv", index=False)
    assert compare(first, second) == 2
    said = f"reports: {second / 'samples.csv'} line 3: host_loop_us is '{loop}', not a positive number\n"
    assert capsys.readouterr().err == said


def test_a_p99_in_loops_is_the_p99_of_latencies_each_over_its_loop(first, second, tmp_path):
    """The slowest hundredth has the host to blame in A, and itself in B."""
    before = shutil.copytree(first, tmp_path / "before")
    for folder, loop in ((before, 10.0), (second, 1.0)):
        samples = pd.read_csv(folder / "samples.csv")
        worst = (samples["metric"] == "ttft") & (samples["iteration"] % 20 == 0)
        times = np.where(samples["metric"] == "ttft", np.where(worst, 10.0, 1.0), samples["latency_ms"])
        samples.assign(latency_ms=times, host_ms=times, host_loop_us=np.where(worst, loop, 1.0)).to_csv(
            folder / "samples.csv", index=False
        )
    compare(before, second, "--to", tmp_path / "out")
    cells = pd.read_csv(tmp_path / "out" / "compare.csv").set_index(["metric", "case", "tokens_from"])
    assert list(cells.loc[("P99", "jit", 10), ["ratio", "scaled_ratio"]]) == [1, 10]
    assert list(cells.loc[("TTFT", "jit", 10), ["ratio", "scaled_ratio"]]) == [1, 1]


def test_runs_without_the_hosts_loop_have_no_column_of_it(first, second, tmp_path, capsys):
    compare(first, second)
    said = capsys.readouterr().out
    assert "Farthest" in said
    assert "In loops" not in said
    assert "loop beside the samples" not in said


def test_a_strict_gate_fails_for_an_unclear_cell(first, second, tmp_path, capsys):
    assert compare(first, second) == 0
    assert re.search(r" [1-9]\d* unclear", capsys.readouterr().out)
    assert compare(first, second, "--strict") == 1


def test_a_slower_cell_ends_the_gate_with_1(first, second, tmp_path, capsys):
    times(second, 1.2, length=400)
    assert compare(first, second, "--to", tmp_path / "out") == 1
    found = verdicts(tmp_path / "out")
    slower = {key for key, said in found.items() if said == "slower"}
    assert ("TTFT", "jit", 400) in slower
    assert slower <= {("TTFT", "jit", 400), ("P99", "jit", 400)}
    assert f"0 faster, {len(slower)} slower" in capsys.readouterr().out


def test_the_other_way_round_it_is_faster_and_the_gate_is_open(first, second, tmp_path):
    times(second, 1.2, length=400)
    assert compare(second, first, "--to", tmp_path / "out") == 0
    assert verdicts(tmp_path / "out")["TTFT", "jit", 400] == "faster"


def test_a_margin_decides_what_is_a_change(first, second):
    times(second, 1.02)
    assert compare(first, second) == 0
    assert compare(first, second, "--margin", "1") == 1


def test_the_ratio_is_of_the_medians_in_the_runs_own_tables(first, second):
    times(second, 1.5)
    a, b = load(first), load(second)
    cells = {(cell.key.metric, cell.key.case, cell.key.first, cell.key.last): cell for cell in cells_of(a, b, 0.03)}
    for row in a.ttft.itertuples():
        assert cells["TTFT", row.case, row.prompt_length, row.prompt_length].a.value == pytest.approx(row.p50_ms)
    for row in a.p99.itertuples():
        assert cells["P99", row.case, row.prompt_length, row.prompt_length].a.value == pytest.approx(row.p99_ms)
    for row in a.decode.itertuples():
        assert cells["Decode", row.case, row.context_from, row.context_to].a.value == pytest.approx(row.p50_ms)
    assert cells["TTFT", "jit", 400, 400].ratio.value == pytest.approx(1.5)


def test_the_verdict_is_the_corrected_one(first, second, monkeypatch):
    times(second, 1.2)
    a, b = load(first), load(second)
    cells = cells_of(a, b, 0.03)
    assert [cell.p for cell in cells] == holm([cell.ratio.p for cell in cells]).tolist()
    assert any(cell.verdict == "slower" for cell in cells)
    monkeypatch.setattr("reports.compare.cells.holm", lambda ps: [1.0] * len(ps))
    assert not any(cell.verdict == "slower" for cell in cells_of(a, b, 0.03))
    assert any(cell.alone == "slower" for cell in cells_of(a, b, 0.03))


def test_ttft_is_taken_over_its_own_iterations(first, second, tmp_path):
    for name in ("one", "other"):
        shutil.copytree(first, tmp_path / name)
        manifest(tmp_path / name, config__sweep__ttft_iterations=50)
    cells = cells_of(load(tmp_path / "one"), load(tmp_path / "other"), 0.03)
    assert {cell.a.n for cell in cells if cell.key.metric == "TTFT"} == {50 * 4}
    assert {cell.a.n for cell in cells if cell.key.metric == "P99"} == {100 * 4}


def test_nothing_hangs_on_luck(first, second, tmp_path):
    times(second, 1.1)
    for name in ("one", "other"):
        compare(first, second, "--to", tmp_path / name)
    for file in [*WRITTEN, "compare.png", "compare.pdf"]:
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "other" / file).read_bytes()


def test_runs_with_a_pytorch_without_cuda_are_alike_however_they_say_it(first, second, tmp_path):
    manifest(first, versions__cuda="None")
    manifest(second, versions__cuda="")
    assert compare(first, second, "--to", tmp_path / "to") == 0


UNLIKE = {
    "GPU": ({"gpu__name": "Another"}, "GPU is Invented GPU in A and Another in B"),
    "power limit": ({"gpu__power_limit_w": 500.0}, "power limit (W) is 700.0 in A and 500.0 in B"),
    "driver": ({"gpu__driver": "1.0"}, "driver is 0.0 in A and 1.0 in B"),
    "torch": ({"versions__torch": "9"}, "torch is 0.0 (invented) in A and 9 in B"),
    "CUDA": ({"versions__cuda": "13.9"}, "CUDA is not stated in A and 13.9 in B"),
    "weights": ({"model__digest": "2" * 64}, "digest of the weights is 000000000000 in A and 222222222222 in B"),
    "dtype": ({"model__dtype": "bfloat16"}, "dtype is float16 in A and bfloat16 in B"),
    "protocol": ({"protocol": "paper"}, "protocol is controlled in A and paper in B"),
    "prompts": ({"prompt_digest": "3" * 64}, "digest of the prompts is 111111111111 in A and 333333333333 in B"),
    "smoke": ({"smoke": True}, "smoke run is false in A and true in B"),
    "sweep": ({"config__sweep__pause_ms": 5}, "sweep.pause_ms is not stated in A and 5 in B"),
    "warm-up": ({"config__sweep__warmup_iterations": 77}, "sweep.warmup_iterations is "),
    "requests": ({"config__sweep__ttft_iterations": 77}, "sweep.ttft_iterations is 100 in A and 77 in B"),
    "requests for P99": ({"config__sweep__p99_iterations": 77}, "sweep.p99_iterations is 100 in A and 77 in B"),
    "lengths": ({"config__sweep__prompt_lengths": [10]}, "sweep.prompt_lengths is [10, 400] in A and [10] in B"),
    "decode's context": ({"config__sweep__decode__context": 77}, "sweep.decode.context is "),
    "decode's prompt": ({"config__sweep__decode__prompt_length": 7}, "sweep.decode.prompt_length is "),
    "workload": ({"config__sweep__workload": "stream"}, "sweep.workload is "),
    "clock": ({"config__protocol": {"clock": "server"}}, "protocol.clock is client in A and server in B"),
    "rehearse": ({"config__protocol": {"rehearse": True}}, "protocol.rehearse is not stated in A and true in B"),
    "pinning": ({"config__protocol": {"pinning": "quickest"}}, "protocol.pinning is none in A and quickest in B"),
    "procedure": ({"config__cases__jit__procedure": {"prompt": "sentence"}}, "jit.procedure.prompt is random in A"),
    "option": ({"config__cases__jit__decode": "recompute"}, "cases.jit.procedure.decode is kv_cache in A"),
}  # fmt: skip


@pytest.mark.parametrize("kind", UNLIKE)
def test_unlike_runs_are_refused_and_forced_with_a_word(first, second, tmp_path, capsys, kind):
    changes, said = UNLIKE[kind]
    manifest(second, **changes)
    assert compare(first, second) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("reports: the runs differ in what matters (")
    assert printed.err.count("\n") == 1
    assert said in printed.err
    assert compare(first, second, "--force", "--to", tmp_path / "out") == 0
    head = "FORCED: the runs differ in 1 thing that matters"
    assert capsys.readouterr().out.splitlines()[0].endswith(f"Compared runs – {head}")
    assert all(head in (tmp_path / "out" / name).read_text() for name in ("compare.md", "compare_runs.md"))
    assert said.split(" is ")[0].replace("_", "\\_") in (tmp_path / "out" / "compare_runs.md").read_text()


def test_a_change_of_the_code_or_of_an_option_is_said_and_compared(first, second):
    manifest(second, code_digest="4" * 64, config__cases__jit__jit={"backend": "triton"}, config__seed=7)
    found = {one.what: one for one in differences(load(first), load(second))}
    assert set(found) == {"code", "cases.jit.jit", "seed"} | set()
    assert not any(one.matters for one in found.values())
    assert compare(first, second) == 0


def test_threads_kept_in_one_run_only_matter_where_both_were_to_keep_them(first, second):
    few, kept = "none: 2 CPUs are here, and 4 are needed", "quickest of 16 CPUs, {} moves in 9 looks"
    for run, words in ((first, [kept] * 4), (second, [kept, kept, few, few])):
        frame = pd.read_csv(run / "status.csv", keep_default_na=False)
        frame["pinning"] = [
            words[block].format(block) if case == "jit" else kept for case, block in frame[["case", "block"]].to_numpy()
        ]
        frame.to_csv(run / "status.csv", index=False)
    found = {one.what: one for one in differences(load(first), load(second))}
    assert set(found) == {"cases.jit, threads"}
    (only,) = found.values()
    assert (only.a, only.b, only.matters) == ("kept on quick CPUs", f"kept on quick CPUs; {few}", True)
    manifest(second, config__protocol={"pinning": "quickest"})
    assert "cases.jit, threads" not in {one.what for one in differences(load(first), load(second))}, "told already"


def test_what_ran_beside_is_said_in_the_run_and_in_the_comparison(first, second):
    manifest(first, placements=[{"cores": [0, 1, 2, 3]}, {"cores": None}])
    manifest(second, neighbours={"runs": 1, "gpus": [1], "cores": [[4, 5]]}, placements=[{"cores": [0, 1]}])
    beside = "measured beside up to 1 other run on the same host, on CPU cores of their own"
    assert beside in load(second).facts()
    found = {one.what: one for one in differences(load(first), load(second))}
    assert (found["beside it"].a, found["beside it"].b, found["beside it"].matters) == ("nothing", beside, False)
    assert (found["CPU cores"].a, found["CPU cores"].b, found["CPU cores"].matters) == ("4", "2", False)


def test_cases_of_one_run_only_and_those_that_failed_are_said(first, tmp_path, capsys):
    spec = Spec(cases=("baseline", "jit", "eager"), missing=("jit",), wrong=("eager",), lengths=(10, 400), blocks=4,
                iterations=100)  # fmt: skip
    other = invent(tmp_path / "other", spec)
    assert compare(first, other, "--to", tmp_path / "out") == 1
    out = capsys.readouterr().out
    assert "CUDA Graph is not in B." in out
    assert "Eager (control) is not in A." in out
    assert "B: JIT-Only: 0 of 4 blocks ended well; unavailable: package tensorrt_llm is not installed" in out
    assert "3 not compared" in out.splitlines()[-1]
    assert {key[1] for key, said in verdicts(tmp_path / "out").items() if said == ""} == {"jit", "cuda_graph", "eager"}


def test_the_card_is_said_and_whether_it_is_the_same_one(first, second, tmp_path):
    assert not row_of(first, second, tmp_path, "card"), "a run of before says none"
    manifest(first, gpu__uuid="GPU-1")
    manifest(second, gpu__uuid="GPU-1")
    assert row_of(first, second, tmp_path, "card") == ["GPU-1", "GPU-1", "same card"]
    manifest(second, attempts=[{"gpu_uuid": "GPU-1"}, {"gpu_uuid": "GPU-2"}])
    assert row_of(first, second, tmp_path, "card") == ["GPU-1", "GPU-1, then GPU-2", "another card"]


def row_of(first, second, folder, what):
    """A row of compare_runs.csv, empty where there is none."""
    compare(first, second, "--to", folder / "rows")
    frame = pd.read_csv(folder / "rows" / "compare_runs.csv", keep_default_na=False)
    return next((list(row)[1:4] for row in frame.itertuples(index=False) if row[0] == what), [])


def test_an_unfinished_run_and_a_lost_block_are_said(first, second, capsys):
    status = (second / "status.csv").read_text().splitlines(keepends=True)
    (second / "status.csv").write_text("".join(status[:-1]))
    assert compare(second, second) == 0, "what A lost too, B did not lose"
    assert compare(second, first) == 0
    capsys.readouterr()
    assert compare(first, second) == 1
    out = capsys.readouterr().out
    assert "interrupted: 11 of 12 blocks" in out
    assert "B: CUDA Graph: 3 of 4 blocks ended well; the run ended before the others." in out


@pytest.mark.parametrize(("before", "now", "code"), [(1, 1, 0), (1, 2, 1), (2, 1, 0), (1, 4, 1), (4, 4, 0)])
def test_who_lost_a_block_before_may_not_lose_more(first, tmp_path, capsys, before, now, code):
    a, b = (shutil.copytree(first, tmp_path / name) for name in "ab")
    for run, count in ((a, before), (b, now)):
        status = pd.read_csv(run / "status.csv", keep_default_na=False)
        lost = (status["case"] == "jit") & (status["block"] < count)
        status.loc[lost, ["state", "reason"]] = ["failed", "out of memory"]
        status.to_csv(run / "status.csv", index=False)
    assert compare(a, b) == code
    said = f"Fails in B: JIT-Only: {4 - now} of 4 blocks ended well; failed: out of memory."
    assert (said in " ".join(capsys.readouterr().out.split())) == bool(code)


def test_a_power_limit_that_one_run_does_not_state_is_said_and_refuses_nothing(first, second):
    manifest(second, gpu__power_limit_w=None)
    (found,) = differences(load(first), load(second))
    assert (found.what, found.a, found.b, found.matters) == ("power limit (W)", "700.0", "not stated", False)
    assert compare(first, second) == 0


def test_a_case_that_computes_something_else_in_b_alone_is_no_open_gate(first, second, capsys):
    frame = pd.read_csv(second / "equivalence.csv", keep_default_na=False)
    frame.loc[frame["case"] == "jit", ["passed", "reason"]] = [False, "other ids"]
    frame.to_csv(second / "equivalence.csv", index=False)
    assert compare(first, second) == 1
    last = " ".join(capsys.readouterr().out.split())
    assert "Fails in B: JIT-Only, against the baseline: other ids (at 10 tokens)." in last
    assert compare(second, second) == 0


def test_too_few_samples_for_a_p99_are_said(first, second, capsys):
    frame = pd.read_csv(second / "p99.csv").assign(supported=False)
    frame.to_csv(second / "p99.csv", index=False)
    assert compare(first, second) == 0
    out = capsys.readouterr().out
    assert "P99: 6 of the TTFT cells have too few samples for one in A or B." in out
    assert "\n P99 " not in out


def test_one_block_gives_no_interval(tmp_path, capsys):
    run = invent(tmp_path / "run", Spec(cases=("baseline",), missing=(), wrong=(), blocks=1))
    slow = shutil.copytree(run, tmp_path / "slow")
    times(slow, 3.0, case="baseline")
    assert compare(run, slow) == 0
    out = capsys.readouterr().out
    assert "One block in A and B: how far blocks lie apart is not known, so there is no interval." in out
    assert "0 faster, 0 slower, 0 same" in out


def test_runs_without_a_common_case_are_no_open_gate(first, tmp_path, capsys):
    other = invent(tmp_path / "other", Spec(cases=("eager",), missing=(), wrong=(), lengths=(10, 400), blocks=4))
    assert compare(first, other, "--force") == 2
    assert "have no samples of the same case: there is nothing to compare" in capsys.readouterr().err


def test_a_smoke_run_is_stamped(tmp_path, capsys):
    run = invent(tmp_path / "run", Spec(cases=("baseline",), missing=(), wrong=(), smoke=True))
    assert compare(run, run, "--to", tmp_path / "out") == 0
    assert SMOKE in capsys.readouterr().out
    assert SMOKE in (tmp_path / "out" / "compare.md").read_text()


def test_a_run_from_before_latency_ms_is_compared_by_the_clients_clock(first, second):
    frame = pd.read_csv(second / "samples.csv", keep_default_na=False).drop(columns=["latency_ms", "capturing"])
    frame.to_csv(second / "samples.csv", index=False)
    assert compare(first, second) == 0


def test_the_figure_has_a_point_a_cell_and_is_not_blank(first, second, tmp_path):
    times(second, 1.2)
    compare(first, second, "--to", tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == WRITTEN | {"compare.png", "compare.pdf"}
    pixels = image.imread(tmp_path / "out" / "compare.png")
    assert np.ptp(pixels[..., :3]) > 0.5
    cells = cells_of(load(first), load(second), 0.03)
    plot = forest(cells, "title", "facts", False, 0.03)
    points = [line for axes in plot.figure.axes for line in axes.lines if line.get_marker() in ("o", "x")]
    assert len(points) == sum(not math.isnan(cell.ratio.value) for cell in cells)
    drawn = {round(float(line.get_xdata()[0]), 9) for line in points}
    assert drawn == {round(math.log(cell.ratio.value), 9) for cell in cells}


def test_every_metric_has_a_float_of_its_own(first, tmp_path):
    compare(first, first, "--to", tmp_path / "out")
    text = (tmp_path / "out" / "compare.tex").read_text()
    assert [line[19:-1] for line in text.splitlines() if line.startswith("\\label")] == [
        "ttft",
        "p99",
        "decode",
        "cold-ttft",
    ]
    assert text.count(r"\toprule") == 4
    assert "[U+" not in text


def test_too_many_cells_for_a_figure_are_said(first, second):
    cells = cells_of(load(first), load(second), 0.03) * MOST
    plot = forest(cells, "title", "facts", False, 0.03)
    assert plot.figure is None
    assert "more than a figure can show" in plot.reason


def test_the_stored_runs_compare(capsys):
    """Two published runs of unlike age, and the exit code of the command itself."""
    call = [
        sys.executable,
        "-m",
        "reports",
        "compare",
        PUBLISHED / "h200-2026-11-21",
        PUBLISHED / "h200-2026-11-21-default",
    ]
    done = subprocess.run(call, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "104 cells of this page" in done.stdout
    assert main(["compare", str(PUBLISHED / "h200-2026-11-21-paper"), str(STORED)]) == 2
    assert "the runs differ in what matters" in capsys.readouterr().err
