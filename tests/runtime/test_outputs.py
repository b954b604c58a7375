"""A whole model's errors and replays on the CPU, where plain operations stand in for the kernels."""

from __future__ import annotations

import csv
import math
from functools import partial

import pytest
import torch

from cases.runtime.dynamic_ops import PlainOps
from cases.runtime.kernels import accuracy, outputs, replays
from cases.runtime.kernels.tables import write_rows
from cases.runtime.kernels.whole import (
    STEPS,
    Upcast,
    capacity,
    check_lengths,
    direct,
    exact_products,
    forced,
    graphed,
    prompt,
    upcast,
)
from cases.runtime.llama import State
from cases.runtime.plain import PlainBlocks
from cases.runtime.weights import LlamaWeights, random_weights
from harness.contract import Sampling
from tests.runtime.llamas import tiny_shape

SHAPE = tiny_shape(
    vocab_size=300, hidden_size=64, intermediate_size=96, num_attention_heads=4, num_key_value_heads=2, head_dim=16
)
LENGTHS = [3, 20]
TIMES = 7


def new_weights(dtype=torch.float32, seed=0) -> LlamaWeights:
    """Larger than the benchmark's, so that the layers of so small a model matter."""
    weights = random_weights(SHAPE, dtype, "cpu", seed)
    for layer in weights.layers:
        for tensor in (layer.qkv, layer.out, layer.gate_up, layer.down):
            tensor.mul_(10.0)
    return weights


class Halved(PlainBlocks):
    """Kernels with a fault that a test can foretell: half the logits."""

    def head(self, residual, weights, logits):
        super().head(residual, weights, logits)
        logits.mul_(0.5)


def engine(weights, kind=PlainBlocks, lengths=LENGTHS):
    return graphed(SHAPE, weights, kind(SHAPE), PlainOps(Sampling(), "cpu", SHAPE.vocab_size), lengths)


def rows_of(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


# Errors


def test_an_error_is_relative_to_each_row():
    expected = torch.tensor([[3.0, 4.0], [0.0, 2.0]]).double()
    found = torch.tensor([[3.0, 4.0], [1.0, 2.0]]).double()
    assert accuracy.relative_errors(found, expected) == [0.0, 0.5]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_logits_that_are_no_numbers_have_no_error(bad):
    good = torch.ones(1, 2)
    for found, expected in ((good * bad, good), (good, good * bad)):
        with pytest.raises(ArithmeticError, match="infinities or NaN"):
            accuracy.relative_errors(found, expected)


def test_rows_are_by_length_and_step_and_say_who_is_nearer():
    expected = {length: torch.ones(1 + STEPS, 4).double() for length in LENGTHS}
    near = {length: rows * 1.25 for length, rows in expected.items()}
    far = {length: rows * 1.5 for length, rows in expected.items()}
    rows = list(accuracy.accuracy_rows(expected, far, near, "x"))
    assert [(row["prompt_length"], row["step"]) for row in rows] == [(n, step) for n in LENGTHS for step in range(5)]
    assert {(row["kernels_error"], row["plain_error"], row["not_above_plain"]) for row in rows} == {(0.25, 0.5, True)}
    assert not any(row["not_above_plain"] for row in accuracy.accuracy_rows(expected, near, far, "x"))
    assert all(row["not_above_plain"] for row in accuracy.accuracy_rows(expected, near, near, "x"))


def test_float32_upcast_from_a_lower_dtype_is_float32_on_the_same_numbers():
    low = new_weights(torch.bfloat16)
    wide = upcast(low)
    assert isinstance(wide.layers, Upcast)
    assert isinstance(wide.layers[:1], Upcast)
    assert len(wide.layers) == len(low.layers)
    whole = LlamaWeights(wide.embedding, list(wide.layers), wide.norm, wide.head)
    assert torch.equal(whole.layers[1].down, low.layers[1].down.float())
    expected = accuracy.plain_logits(SHAPE, whole, LENGTHS)
    found = accuracy.exact_logits(SHAPE, low, LENGTHS)
    assert all(torch.equal(found[length], expected[length]) for length in LENGTHS)


def test_a_tied_head_stays_tied():
    shape = tiny_shape(tie_word_embeddings=True)
    wide = upcast(random_weights(shape, torch.bfloat16, "cpu"))
    assert wide.head is wide.embedding


def test_given_tokens_are_followed_and_not_the_chosen_ones():
    """Every row is that of one forward over the prompt and the tokens given so far."""
    weights = new_weights()
    found = accuracy.plain_logits(SHAPE, weights, LENGTHS)
    for length in LENGTHS:
        ids = prompt(length, SHAPE.vocab_size) + forced(length, SHAPE.vocab_size)
        for step in range(1 + STEPS):
            [row] = direct(SHAPE, weights, [length + STEPS]).score(ids[: length + step], [])
            whole = torch.frombuffer(row, dtype=torch.float32).double()
            assert accuracy.relative_errors(found[length][step : step + 1], whole.unsqueeze(0))[0] < 1e-5


def test_plain_operations_through_padded_buckets_are_as_exact_as_direct_ones():
    weights = new_weights(torch.bfloat16)
    exact = accuracy.exact_logits(SHAPE, weights, LENGTHS)
    plain = accuracy.plain_logits(SHAPE, weights, LENGTHS)
    with engine(weights) as made:
        found = accuracy.graphed_logits(made, LENGTHS)
        assert made.runner.stats().replays == len(LENGTHS) * (1 + STEPS)
        assert {record.bucket for record in made.runner.captured()} == {0, 16, 32}
    for row in accuracy.accuracy_rows(exact, plain, found, "x"):
        assert 1e-4 < row["plain_error"] < 3e-2
        assert 1e-4 < row["kernels_error"] < 3e-2


def test_a_forward_without_its_graph_is_an_error(monkeypatch):
    with engine(new_weights()) as made:
        made.runner.evict()
        monkeypatch.setattr(made.runner, "_capture_warm", fails)
        with pytest.raises(RuntimeError, match=r"forwards ran without a graph: .*no memory"):
            accuracy.graphed_logits(made, LENGTHS)


def fails(bucket):
    raise RuntimeError("no memory")


def test_the_setting_for_products_is_given_back():
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        with exact_products():
            assert torch.get_float32_matmul_precision() == "highest"
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision(before)


# Replays


def new_state() -> State:
    return State(SHAPE, 32, torch.float32, "cpu")


class Scripted:
    """A replay that writes the next of some logits, and a line of keys."""

    def __init__(self, state: State, logits: list[float], keys: list[float]) -> None:
        self.state, self.logits, self.keys, self.count = state, logits, keys, 0

    def __call__(self) -> None:
        at = self.count
        self.count += 1
        if not math.isnan(self.logits[at]):
            self.state.logits.fill_(1.0)
            self.state.logits[5] = self.logits[at]
        if not math.isnan(self.keys[at]):
            self.state.keys[0, 0, 3].fill_(self.keys[at])


@pytest.mark.parametrize(
    ("logits", "keys", "differing", "equal"),
    [
        ([2.0, 2.0, 2.0, 2.0], [1.0] * 4, 0, True),
        ([2.0, 2.5, 2.0, 2.5], [1.0] * 4, 2, True),
        ([0.0, -0.0, 0.0, 0.0], [1.0] * 4, 1, True),
        ([2.0, math.nan, 2.0, math.nan], [1.0] * 4, 2, True),
        ([2.0] * 4, [1.0, 9.0, 9.0, 1.0], 0, True),
        ([2.0] * 4, [1.0, 1.0, 1.0, 9.0], 0, False),
        ([2.0] * 4, [1.0, 1.0, 1.0, math.nan], 0, False),
    ],
    ids=["equal", "two differ", "a zero's sign", "unwritten logits", "between", "other keys", "unwritten keys"],
)
def test_replays_are_counted_and_the_cache_is_compared_at_the_end(logits, keys, differing, equal):
    state = new_state()
    replay = Scripted(state, logits, keys)
    assert replays.compare(replay, state, 4) == (differing, equal)
    assert replay.count == 4


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_one_bit_of_any_dtype_is_seen(dtype):
    one = torch.ones(3, dtype=dtype)
    other = torch.nextafter(one.float(), one.float() * 2) if dtype is torch.float32 else one + torch.finfo(dtype).eps
    assert (replays.bits(one) != replays.bits(other.to(dtype))).all()


def test_nothing_is_compared_with_a_replay_that_writes_nothing():
    with pytest.raises(ArithmeticError, match="nothing to compare with"):
        replays.compare(lambda: None, new_state(), 3)


def test_prefill_and_the_step_behind_it_are_replayed_at_each_length():
    with engine(new_weights()) as made:
        before = made.runner.stats().replays
        rows = list(replays.replay_rows(made, LENGTHS, TIMES))
        assert made.runner.stats().replays - before == 2 * len(LENGTHS) * TIMES
    assert [(row["phase"], row["prompt_length"], row["rows"]) for row in rows] == [
        ("prefill", 3, 16), ("decode", 3, 1), ("prefill", 20, 32), ("decode", 20, 1),
    ]  # fmt: skip
    assert all(row["replays"] == TIMES and row["differing"] == 0 and row["cache_equal"] for row in rows)


class Drifting(PlainBlocks):
    """Kernels whose logits, keys and values are never twice the same."""

    drift = 0.0

    def head(self, residual, weights, logits):
        super().head(residual, weights, logits)
        self.drift += 1.0
        logits[7] += self.drift

    def _cache(self, residual, layer, state, number):
        found = super()._cache(residual, layer, state, number)
        state.keys[number] += self.drift
        return found


def test_kernels_that_drift_are_found():
    with engine(new_weights(), Drifting) as made:
        rows = list(replays.replay_rows(made, LENGTHS, TIMES))
    assert all(row["differing"] == TIMES - 1 and not row["cache_equal"] for row in rows)


# Both, into files


def test_both_tables_are_written_and_every_row_is_said(tmp_path):
    said: list[str] = []
    make = partial(engine, kind=Halved)
    outputs.measure(SHAPE, new_weights(torch.bfloat16), make, LENGTHS, TIMES, said.append, tmp_path)
    errors, repeated = rows_of(tmp_path / "accuracy.csv"), rows_of(tmp_path / "replays.csv")
    assert [tuple(rows[0]) for rows in (errors, repeated)] == [accuracy.COLUMNS, replays.COLUMNS]
    assert (len(errors), len(repeated)) == (len(LENGTHS) * (1 + STEPS), 2 * len(LENGTHS))
    for row in errors:
        assert float(row["kernels_error"]) == pytest.approx(0.5, abs=0.02)
        assert float(row["plain_error"]) < 0.03
        assert row["not_above_plain"] == "False"
        assert row["kernels"] == "plain PyTorch"
    assert {(row["replays"], row["differing"], row["cache_equal"]) for row in repeated} == {("7", "0", "True")}
    assert len(said) == len(errors) + len(repeated)
    assert said[0].startswith("prefill  of    3 tokens: error against float32 5.0")
    assert said[-1] == "decode   of   20 tokens: 0 of 7 replays differ, keys and values equal"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["accuracy.csv", "replays.csv"]
    outputs.forget(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_table_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "x.csv"
    write_rows(path, ("a", "b"), [{"a": 1, "b": 2}])
    with pytest.raises(ValueError, match="fields not in fieldnames"):
        write_rows(path, ("a", "b"), [{"a": 3, "b": 4}, {"a": 5, "c": 6}])
    assert path.read_text() == "a,b\n1,2\n"


def test_prompts_that_the_model_has_no_positions_for_are_refused():
    check_lengths(SHAPE, [60])
    with pytest.raises(ValueError, match=r"--lengths holds 61, but with 4 steps .* at most 60 tokens"):
        check_lengths(SHAPE, [3, 61])


def test_the_cache_holds_the_longest_prompt_and_its_steps_in_whole_buckets():
    assert [capacity(lengths) for lengths in ([10], [508, 3], [509], [1000])] == [512, 512, 528, 1008]


def test_random_weights_repeat_and_are_as_a_random_checkpoint_has_them():
    first, again, other = (random_weights(SHAPE, torch.float16, "cpu", seed) for seed in (1, 1, 2))
    assert torch.equal(first.layers[1].down, again.layers[1].down)
    assert not torch.equal(first.layers[1].down, other.layers[1].down)
    assert not torch.equal(first.layers[0].down, first.layers[1].down)
    assert first.layers[0].mlp_norm.eq(1).all()
    assert first.head.float().std().item() == pytest.approx(0.02, rel=0.05)
