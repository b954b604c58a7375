"""Padding and choosing: plain PyTorch against TorchScript, and the sampler against its distribution."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from scipy.stats import chisquare

from cases.runtime.dynamic_ops import DynamicOps, PlainOps, penalised, sample_by_tensors, sample_index
from cases.runtime.llama import TOKENS, State
from cases.runtime.scripted import ScriptedOps
from harness.contract import Sampling
from tests.runtime.llamas import tiny_shape

VOCABULARY = tiny_shape().vocab_size
CAPACITY = 48
DRAWS = 20_000
SAMPLERS = [(1.0, 0, 1.0), (0.5, 0, 1.0), (2.0, 7, 1.0), (1.0, 0, 0.8), (1.3, 12, 0.6)]


def new_ops(kind: type[DynamicOps], sampling: Sampling | None = None) -> DynamicOps:
    ops = kind(sampling or Sampling(), "cpu", VOCABULARY)
    ops.compile()
    return ops


def new_state(fill: int = 99) -> State:
    state = State(tiny_shape(), CAPACITY, torch.float32, "cpu")
    state.words.fill_(fill)
    return state


def noise(seed: int) -> torch.Tensor:
    return torch.empty(VOCABULARY).exponential_(generator=torch.Generator().manual_seed(seed))


def logits(seed: int = 0, spread: float = 2.0) -> torch.Tensor:
    return torch.randn(VOCABULARY, generator=torch.Generator().manual_seed(seed)) * spread


@pytest.mark.parametrize("kind", [PlainOps, ScriptedOps])
@pytest.mark.parametrize(("length", "count"), [(1, 1), (1, 16), (15, 16), (16, 16), (17, 32), (48, 48)])
def test_a_prompt_is_padded_with_zeros_and_nothing_behind_is_touched(kind, length, count):
    state = new_state()
    ids = list(range(3, 3 + length))
    new_ops(kind).load_prompt(ids, count, state)
    expected = [0, length - 1, *ids, *[0] * (count - length), *[99] * (CAPACITY - count)]
    assert state.words.tolist() == expected
    assert state.words.dtype == torch.int64


@pytest.mark.parametrize("kind", [PlainOps, ScriptedOps])
def test_a_choice_makes_the_state_ready_for_the_next_token(kind):
    state, ops = new_state(), new_ops(kind)
    ops.load_prompt([5, 6, 7], 16, state)
    rest = state.words[TOKENS + 1 :].clone()
    for position, token in ((3, 31), (4, 2), (5, 39)):
        state.logits.zero_()[token] = 1.0
        ops.choose(state)
        assert ops.host_token.item() == token
        assert state.words[: TOKENS + 1].tolist() == [position, 0, token]
        assert torch.equal(state.words[TOKENS + 1 :], rest)


@pytest.mark.parametrize("kind", [PlainOps, ScriptedOps])
def test_of_equal_logits_the_lowest_id_is_chosen(kind):
    state, ops = new_state(), new_ops(kind)
    ops.load_prompt([5], 1, state)
    state.logits.fill_(-1.0)
    state.logits[[9, 4, 30]] = 2.5
    ops.choose(state)
    assert ops.host_token.item() == 4


@pytest.mark.parametrize(("temperature", "top_k", "top_p"), SAMPLERS)
def test_plain_and_torchscript_draw_the_same_from_the_same_noise(temperature, top_k, top_p):
    scripted = new_ops(ScriptedOps)._sample  # type: ignore[attr-defined]
    drawn = []
    for seed in range(60):
        plain = sample_index(logits(seed), noise(seed), temperature, top_k, top_p)
        assert plain.shape == (1,)
        assert torch.equal(scripted(logits(seed), noise(seed), temperature, top_k, top_p), plain)
        drawn.append(plain.item())
    assert len(set(drawn)) > 10


def expected_distribution(values: torch.Tensor, temperature: float, top_k: int, top_p: float) -> torch.Tensor:
    """Written the long way: a sorted list, cut after k, then cut behind the first p of what is left."""
    ranked = sorted(
        ((value / temperature, token) for token, value in enumerate(values.double().tolist())), reverse=True
    )
    ranked = ranked[:top_k] if top_k else ranked
    shares = torch.tensor([score for score, _ in ranked], dtype=torch.float64).softmax(0).tolist()
    kept: dict[int, float] = {}
    mass = 0.0
    for share, (_, token) in zip(shares, ranked, strict=True):
        if mass >= top_p:
            break
        kept[token] = share
        mass += share
    return torch.tensor([kept.get(token, 0.0) / mass for token in range(len(values))], dtype=torch.float64)


@pytest.mark.parametrize(("temperature", "top_k", "top_p"), SAMPLERS)
def test_draws_follow_the_distribution_and_excluded_ids_are_never_drawn(temperature, top_k, top_p):
    values = logits(4, spread=1.0)
    expected = expected_distribution(values, temperature, top_k, top_p)
    generator = torch.Generator().manual_seed(1)
    counts = torch.zeros(VOCABULARY, dtype=torch.int64)
    for _ in range(DRAWS):
        race = torch.empty(VOCABULARY).exponential_(generator=generator)
        counts[sample_index(values, race, temperature, top_k, top_p)] += 1
    assert counts[expected == 0].sum() == 0
    allowed = expected > 0
    assert allowed.sum() < VOCABULARY or (top_k, top_p) == (0, 1.0)
    assert chisquare(counts[allowed].numpy(), (expected[allowed] * DRAWS).numpy()).pvalue > 1e-3


@pytest.mark.parametrize(("top_k", "top_p"), [(1, 1.0), (0, 1e-6), (5, 1e-6)])
def test_the_narrowest_sampler_is_greedy(top_k, top_p):
    for seed in range(30):
        assert sample_index(logits(seed), noise(seed), 1.0, top_k, top_p).item() == logits(seed).argmax().item()


def test_top_k_beyond_the_vocabulary_is_all_of_it():
    for seed in range(30):
        one, other = (sample_index(logits(seed), noise(seed), 1.0, top_k, 1.0) for top_k in (0, 10 * VOCABULARY))
        assert torch.equal(one, other)


@pytest.mark.parametrize("kind", [PlainOps, ScriptedOps])
def test_a_request_repeats_and_a_step_does_not(kind):
    def draws(seed: int) -> list[Any]:
        ops, state = new_ops(kind, Sampling("sample", temperature=1.5, seed=seed)), new_state()
        found = []
        for _ in range(2):
            ops.reseed()
            ops.load_prompt([5], 1, state)
            sequence = []
            for _ in range(12):
                state.logits.copy_(logits(1, spread=0.5))
                ops.choose(state)
                sequence.append(ops.host_token.item())
            found.append(sequence)
        return found

    first, again = draws(3)
    assert first == again
    assert len(set(first)) > 1
    assert draws(4)[0] != first


def test_plain_and_torchscript_give_the_same_request():
    sampling = Sampling("sample", temperature=1.2, top_k=20, top_p=0.9, seed=8)
    found = []
    for kind in (PlainOps, ScriptedOps):
        ops, state = new_ops(kind, sampling), new_state()
        ops.reseed()
        ops.load_prompt([5, 9], 16, state)
        sequence = []
        for step in range(20):
            state.logits.copy_(logits(step))
            ops.choose(state)
            sequence.append((ops.host_token.item(), *state.words[:3].tolist()))
        found.append(sequence)
    assert found[0] == found[1]


@pytest.mark.parametrize("kind", [PlainOps, ScriptedOps])
def test_a_part_of_a_prompt_is_loaded_at_its_position(kind):
    state = new_state()
    new_ops(kind).load_prompt([5, 6, 7], 8, state, 16)
    assert state.words.tolist() == [16, 2, 5, 6, 7, *[0] * 5, *[99] * (CAPACITY - 8)]


def by_tensors(seed: int, temperature: float, top_k: int, top_p: float) -> torch.Tensor:
    knobs, rank = torch.tensor([temperature, top_p]), torch.tensor([min(top_k, VOCABULARY) - 1])
    return sample_by_tensors(logits(seed), noise(seed), knobs, rank, top_k > 0, top_p < 1.0)


@pytest.mark.parametrize(("temperature", "top_k", "top_p"), [*SAMPLERS, (1.0, 1, 1.0), (1.1, 10 * VOCABULARY, 0.9)])
def test_parameters_on_the_device_draw_the_same(temperature, top_k, top_p):
    for seed in range(60):
        plain = sample_index(logits(seed), noise(seed), temperature, top_k, top_p)
        assert torch.equal(by_tensors(seed, temperature, top_k, top_p), plain)


def test_parameters_on_the_device_need_one_compiled_form_for_each_pair_of_cuts():
    compiled = []

    def count(module: Any, example: Any) -> Any:
        compiled.append(1)
        return module.forward

    function = torch.compile(sample_by_tensors, dynamic=False, backend=count)
    for temperature in (0.5, 0.7, 1.0, 1.9):
        for top_k, top_p in ((0, 1.0), (3, 1.0), (9, 1.0), (0, 0.5), (0, 0.9), (4, 0.9), (5, 0.3)):
            knobs, rank = torch.tensor([temperature, top_p]), torch.tensor([top_k - 1])
            found = function(logits(1), noise(2), knobs, rank, top_k > 0, top_p < 1.0)
            assert torch.equal(found, sample_index(logits(1), noise(2), temperature, top_k, top_p))
    assert len(compiled) == 4


@pytest.mark.parametrize(
    ("sampling", "sentence"),
    [
        (Sampling("beam"), "sampling.strategy must be greedy or sample, not 'beam'"),  # type: ignore[arg-type]
        (Sampling("sample", temperature=0.0), "sampling.temperature must be a number from 1e-06 on, not 0.0"),
        (Sampling("sample", temperature=1e-46), "sampling.temperature must be a number from 1e-06 on, not 1e-46"),
        (Sampling("sample", temperature=-1.0), "sampling.temperature must be a number from 1e-06 on, not -1.0"),
        (Sampling("sample", temperature=float("nan")), "sampling.temperature must be a number from 1e-06 on, not nan"),
        (Sampling("sample", top_k=-1), "sampling.top_k must be a whole number of at least 0, where 0 is off, not -1"),
        (Sampling("sample", top_p=0.0), "sampling.top_p must be above 0 and at most 1, where 1 is off, not 0.0"),
        (Sampling("sample", top_p=1.1), "sampling.top_p must be above 0 and at most 1, where 1 is off, not 1.1"),
        (Sampling("sample", seed=-1), "sampling.seed must be a whole number from 0 to 2^63 - 1, not -1"),
        (
            Sampling(repetition_penalty=0.0),
            "sampling.repetition_penalty must be a finite number above 0, where 1 is off, not 0.0",
        ),
    ],
)
def test_values_outside_their_ranges_are_refused(sampling, sentence):
    ops = new_ops(PlainOps)
    with pytest.raises(ValueError) as raised:
        ops.use(sampling, new_state())
    assert str(raised.value) == sentence
    assert ops.sampling == Sampling()


@pytest.mark.parametrize("kind", [PlainOps, ScriptedOps])
def test_another_sampling_holds_from_the_next_request_on(kind):
    wanted = Sampling("sample", temperature=1, top_k=9, seed=5)  # type: ignore[arg-type]  a whole number will do
    ops, state = new_ops(kind), new_state()
    ops.load_prompt([5], 1, state)
    state.logits.copy_(logits(3))
    ops.use(wanted, state)
    ops.choose(state)
    assert ops.host_token.item() == logits(3).argmax()
    found = []
    for begun in (new_ops(kind, wanted), ops):
        begun.reseed()
        begun.load_prompt([5], 1, state)
        tokens = []
        for step in range(12):
            state.logits.copy_(logits(step))
            begun.choose(state)
            tokens.append(begun.host_token.item())
        found.append(tokens)
    assert found[0] == found[1]
    assert found[0] != [int(logits(step).argmax()) for step in range(12)]


@pytest.mark.parametrize("kind", [PlainOps, ScriptedOps])
def test_a_repetition_penalty_is_that_of_transformers(kind):
    from transformers import RepetitionPenaltyLogitsProcessor

    ops, state = new_ops(kind, Sampling(repetition_penalty=1.7)), new_state()
    ops.reseed()
    ids = [3, 5, 3, 8]
    ops.meet(ids)
    ops.load_prompt(ids, 4, state)
    state.logits.copy_(torch.randn(VOCABULARY, generator=torch.Generator().manual_seed(1)))
    state.logits[[3, 9]] = torch.tensor([6.0, 5.0])
    expected = RepetitionPenaltyLogitsProcessor(1.7)(torch.tensor([ids]), state.logits[None].clone())[0]
    assert torch.equal(penalised(state.logits, ops._seen, 1.7), expected)
    ops.choose(state)
    assert int(ops.host_token) == int(expected.argmax()) == 9, "without the penalty 3 is the likeliest"
    ops.choose(state)
    assert int(ops.host_token) != 9, "what was chosen is part of the sequence"
    ops.reseed()
    assert not ops._seen.any(), "another request knows nothing of it"


@pytest.mark.parametrize("kind", [PlainOps, ScriptedOps])
def test_the_last_of_several_draws_counts(kind):
    sampling = Sampling("sample", temperature=1.5, seed=4)
    drawn = []
    for draws in (1, 2):
        ops, state = new_ops(kind, sampling), new_state()
        ops.draws = draws
        state.logits.copy_(torch.randn(VOCABULARY, generator=torch.Generator().manual_seed(2)))
        ops.reseed()
        tokens = []
        for _ in range(20):
            ops.choose(state)
            tokens.append(int(ops.host_token))
        drawn.append(tokens)
    assert drawn[1][:10] == drawn[0][1:20:2], "every second one of a generator that goes on"
