"""How TensorRT-LLM's stream becomes tokens: which came alone, which request passes the gates, by whose clock."""

from __future__ import annotations

import csv
import itertools
import os
import time
from dataclasses import replace
from pathlib import Path

import pytest

from cases.tensorrt_llm import TensorRtLlm
from harness.job import CaseJob
from harness.measure.sink import Events
from harness.processes.heed import Heed
from harness.worker import measure_block
from tests.runtime.test_tensorrt_llm import gpu
from tests.standin import RELEASES, act, stand_in

PROMPT = [5, 6, 7]
FIRST_NS, STEP_NS = 7_000_000, 5_000_000
"""What the stand-in's clock says of every request."""


@pytest.fixture(params=RELEASES)
def case(request, tiny_checkpoint):
    with stand_in(request.param):
        made = TensorRtLlm()
        made.prepare(gpu(tiny_checkpoint))
        try:
            yield made
        finally:
            made.close()


def tokens(case: TensorRtLlm, count: int) -> tuple[list[int], list[int]]:
    """The tokens of one request, and how many samples of it are marked so far after each."""
    start = case.stats().coalesced
    found, marks = [case.prefill(PROMPT, count)], []
    marks.append(case.stats().coalesced - start)
    for _ in range(count - 1):
        found.append(case.decode())
        marks.append(case.stats().coalesced - start)
    return found, marks


@pytest.mark.parametrize(
    ("behaviour", "marks"),
    [
        ({}, [0, 0, 0, 0, 0]),
        ({"closing": True}, [0, 0, 0, 0, 0]),
        ({"chunks": [1, 2]}, [0, 1, 2, 2, 2]),
        ({"chunks": [3]}, [1, 2, 3, 3, 3]),
        ({"chunks": [1, 4], "closing": True}, [0, 1, 2, 3, 4]),
        ({"chunks": [1, 0, 1]}, [0, 0, 0, 0, 0]),
        ({"early": [1]}, [0, 1, 1, 1, 1]),
        ({"early": [0]}, [1, 1, 1, 1, 1]),
        ({"early": [1, 3], "chunks": [2, 1]}, [1, 2, 3, 3, 4]),
    ],
    ids=str,
)
def test_tokens_without_a_time_of_their_own_are_marked_and_the_tokens_stay_the_same(
    case, monkeypatch, behaviour, marks
):
    expected = tokens(case, 5)[0]
    act(monkeypatch, **behaviour)
    assert tokens(case, 5) == (expected, marks)


def test_marks_of_a_request_that_was_left_are_kept(case, monkeypatch):
    act(monkeypatch, chunks=[2])
    case.prefill(PROMPT, 5)
    case.prefill(PROMPT, 5)
    assert case.stats().coalesced == 2


@pytest.mark.parametrize("behaviour", [{}, {"closing": True}, {"metrics_last": True, "closing": True}], ids=str)
def test_the_engines_clock_times_the_first_token_of_a_request_of_one(case, monkeypatch, behaviour):
    act(monkeypatch, **behaviour)
    before = case.stats().server_ns
    case.prefill(PROMPT)
    assert case.stats().server_ns - before == FIRST_NS
    assert case.stats().server_ns - before == FIRST_NS, "read twice is counted once"


def test_the_engines_clock_gives_the_mean_step_with_the_last_token(case):
    clock = [case.stats().server_ns]
    case.prefill(PROMPT, 4)
    clock.append(case.stats().server_ns)
    for _ in range(3):
        case.decode()
        clock.append(case.stats().server_ns)
    assert [after - before for before, after in itertools.pairwise(clock)] == [FIRST_NS, 0, 0, STEP_NS]


def test_without_metrics_in_the_first_chunk_a_longer_request_has_no_clock_for_it(case, monkeypatch):
    act(monkeypatch, metrics_last=True)
    case.prefill(PROMPT, 2)
    assert case.stats().server_ns == 0
    case.decode()
    assert case.stats().server_ns == STEP_NS


GATES = [
    ({"reused": 3}, "the engine reused 3 blocks of its KV cache, which it was told not to"),
    ({"more_iterations": 1}, "2 tokens took 3 iterations of the engine: one a token is what is measured"),
    ({"more_iterations": -1}, "2 tokens took 1 iterations of the engine"),
    ({"uncounted": True}, "the engine counted no iterations of the request"),
    ({"no_metrics": True}, "the engine gave no request_perf_metrics, which it was asked for"),
]


@pytest.mark.parametrize(("behaviour", "sentence"), GATES)
def test_a_gate_that_is_not_passed_fails_the_request_with_its_reason(case, monkeypatch, behaviour, sentence):
    act(monkeypatch, **behaviour, metrics_last=True)
    case.prefill(PROMPT, 2)
    case.stats()
    case.decode()
    with pytest.raises(RuntimeError, match=sentence):
        case.stats()


@pytest.mark.parametrize(("behaviour", "sentence"), GATES[:1])
def test_reused_blocks_fail_a_request_at_its_first_token(case, monkeypatch, behaviour, sentence):
    act(monkeypatch, **behaviour)
    case.prefill(PROMPT, 2)
    with pytest.raises(RuntimeError, match=sentence):
        case.stats()


def test_a_request_that_nobody_looked_at_is_held_to_the_gates_before_the_next(case, monkeypatch):
    act(monkeypatch, more_iterations=2)
    case.prefill(PROMPT)
    with pytest.raises(RuntimeError, match="1 tokens took 3 iterations"):
        case.prefill(PROMPT)


@pytest.mark.parametrize("closing", [False, True])
def test_a_stream_that_ends_early_fails(case, monkeypatch, closing):
    act(monkeypatch, stops_after=1, closing=closing)
    case.prefill(PROMPT, 3)
    with pytest.raises(RuntimeError, match=r"^the stream ended after 1 tokens of 3$"):
        case.decode()


def test_decode_behind_the_last_token_is_refused(case):
    case.prefill(PROMPT)
    with pytest.raises(RuntimeError, match="comes before decode"):
        case.decode()


def test_what_was_left_is_aborted_before_the_next_request(case):
    case.prefill(PROMPT, 5)
    left = case._stream.request
    whole = case.prefill(PROMPT, 1)
    assert (left.aborted(), left.finished, left.outputs[0].finish_reason) == (True, True, "cancelled")
    assert whole == case.prefill(PROMPT, 3)


def test_a_block_of_the_loop_has_every_sample_marked_or_not_and_the_engines_clock(
    make_job, tiny_checkpoint, monkeypatch
):
    """Chunks 1 and 3 of a decode sequence hold two tokens: of five steps four are marked, and none of TTFT."""
    act(monkeypatch, chunks=[1, 2, 1, 2])
    options = gpu("x").options
    entry = CaseJob("TensorRT-LLM", "cases.tensorrt_llm.TensorRtLlm", "inproc", None, 60, dict(options))
    job = replace(make_job(), device="cuda", checkpoint=tiny_checkpoint, cases={"tensorrt_llm": entry})
    with stand_in("1.1.0"), Path(os.devnull).open("w") as nowhere:
        verdict = measure_block(job, "tensorrt_llm", 0, Events(os.dup(nowhere.fileno())), time.monotonic_ns(), Heed())
    assert (verdict["state"], verdict["reason"]) == ("ok", "")
    assert verdict["engine"].startswith("tensorrt_llm 1.1.0 LLM, backend pytorch")
    with (job.block_dir("tensorrt_llm", 0) / "samples.csv").open() as file:
        rows = list(csv.DictReader(file))
    decode = [row for row in rows if row["metric"] == "decode"]
    assert [row["coalesced"] for row in decode] == ["1", "1", "0", "1", "1"] * 2
    assert [row["server_ms"] for row in decode] == ["", "", "", "", "5.000000"] * 2
    timed = [row for row in rows if row["metric"] == "ttft"]
    assert len(timed) == 4 * 3
    assert {(row["coalesced"], row["server_ms"]) for row in timed} == {("0", "7.000000")}
