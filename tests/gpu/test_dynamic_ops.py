"""Padding and choosing by Triton against plain Python."""

from __future__ import annotations

import pytest
import torch

from cases.runtime.dynamic_ops import PlainOps, sample_index
from cases.runtime.llama import State
from harness.contract import Sampling
from tests.gpu.support import randn
from tests.runtime.llamas import tiny_shape

pytest.importorskip("triton")

from cases.runtime.kernels.dynamic_ops import TritonOps

pytestmark = pytest.mark.gpu

CAPACITY = 640
VOCABULARIES = [1000, 8192, 8193, 32000, 128256]


def new_ops(vocabulary: int = 1000, sampling: Sampling | None = None) -> TritonOps:
    ops = TritonOps(sampling or Sampling(), "cuda", vocabulary)
    ops.compile()
    return ops


def new_state(vocabulary: int = 1000) -> State:
    state = State(tiny_shape(vocab_size=vocabulary), CAPACITY, torch.float16, "cuda")
    state.words.fill_(99)
    state.logits.fill_(float("nan"))
    return state


@pytest.mark.parametrize(
    ("length", "count"),
    [(1, 1), (1, 16), (16, 16), (17, 32), (255, 256), (256, 256), (257, 272), (300, 512), (512, 512), (640, 640)],
)
def test_a_prompt_is_padded_with_zeros_and_nothing_behind_is_touched(length, count):
    ops, state = new_ops(), new_state()
    ops.load_prompt([7] * CAPACITY, CAPACITY, state)
    torch.cuda.synchronize()
    state.words.fill_(99)
    ids = list(range(3, 3 + length))
    ops.load_prompt(ids, count, state)
    assert state.words.tolist() == [0, length - 1, *ids, *[0] * (count - length), *[99] * (CAPACITY - count)]


def test_the_part_on_the_device_may_be_captured_once_for_all_prompts_of_a_bucket():
    ops, state = new_ops(), new_state()
    ops.load_prompt([1], 32, state)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        ops.pull(32, state)
    for length, start in ((1, 0), (20, 0), (32, 16), (5, 3)):
        ids = list(range(100, 100 + length))
        ops.stage(ids, 32, state, start)
        graph.replay()
        assert state.words.tolist()[:34] == [start, length - 1, *ids, *[0] * (32 - length)]


def choose(ops: TritonOps, state: State) -> int:
    ops.host_token.fill_(-1)
    ops.choose(state)
    torch.cuda.synchronize()
    return int(ops.host_token.item())


@pytest.mark.parametrize("vocabulary", VOCABULARIES)
def test_the_highest_logit_is_chosen_and_the_state_made_ready(vocabulary):
    ops, state = new_ops(vocabulary), new_state(vocabulary)
    ops.load_prompt([5, 6, 7], 16, state)
    for step, place in enumerate((0, vocabulary - 1, vocabulary // 2, min(8191, vocabulary - 2), 1)):
        state.logits.copy_(randn(vocabulary) - 50)
        state.logits[place] = -30.0
        assert choose(ops, state) == place
        assert state.words[:4].tolist() == [3 + step, 0, place, 6]


@pytest.mark.parametrize("vocabulary", VOCABULARIES)
def test_of_equal_logits_the_lowest_id_is_chosen(vocabulary):
    ops, state = new_ops(vocabulary), new_state(vocabulary)
    ops.load_prompt([5], 1, state)
    for tied in ([vocabulary - 1, 17], [vocabulary - 1, vocabulary // 2, 999], [0, vocabulary - 1], [999, 998]):
        state.logits.fill_(-3.0)
        state.logits[torch.tensor(tied, device="cuda")] = 2.5
        assert choose(ops, state) == min(tied)
    state.logits.zero_()
    assert choose(ops, state) == 0


def test_random_logits_with_natural_ties():
    """Clamped, so that hundreds of logits share the maximum."""
    ops, state = new_ops(32000), new_state(32000)
    ops.load_prompt([5], 1, state)
    for _ in range(50):
        state.logits.copy_(randn(32000).clamp(max=2.0))
        expected = (state.logits == state.logits.max()).nonzero()[0].item()
        assert choose(ops, state) == expected


SAMPLERS = [(1.0, 0, 1.0), (0.7, 50, 1.0), (1.3, 0, 0.8), (1.0, 40, 0.9)]


@pytest.mark.parametrize(("temperature", "top_k", "top_p"), SAMPLERS)
def test_the_compiled_sampler_draws_what_the_plain_one_draws(temperature, top_k, top_p):
    """From the same noise, but for near-ties: the compiler may round otherwise."""
    ops = new_ops(1000, Sampling("sample", temperature, top_k, top_p, seed=1))
    drawn = set()
    equal = 0
    for _ in range(100):
        logits = randn(1000, scale=2.0)
        noise = torch.empty(1000, device="cuda").exponential_()
        token = ops._sample(logits, noise, temperature, top_k, top_p)
        assert token.shape == (1,)
        equal += torch.equal(token, sample_index(logits, noise, temperature, top_k, top_p))
        drawn.add(token.item())
    assert equal >= 99
    assert len(drawn) > 50


def test_a_sampled_request_repeats_and_is_the_plain_one():
    sampling = Sampling("sample", temperature=1.5, top_k=100, top_p=0.95, seed=3)
    rows = [randn(1000) for _ in range(16)]
    found = []
    for ops in (new_ops(1000, sampling), PlainOps(sampling, "cuda", 1000)):
        for _ in range(2):
            state = new_state()
            ops.reseed()
            ops.load_prompt([5, 6], 16, state)
            tokens = []
            for row in rows:
                state.logits.copy_(row)
                ops.choose(state)
                torch.cuda.synchronize()
                tokens.append(int(ops.host_token.item()))
            assert state.words[:3].tolist() == [2 + len(rows) - 1, 0, tokens[-1]]
            found.append(tokens)
    assert found[0] == found[1] == found[2] == found[3]
    assert len(set(found[0])) > 5
