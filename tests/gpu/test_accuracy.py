"""What the benchmark measures of a whole model's outputs, on models of a few layers."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cases.runtime.kernels import accuracy
from cases.runtime.kernels.outputs import measure_kernels
from cases.runtime.kernels.whole import STEPS
from cases.runtime.weights import LayerWeights, LlamaWeights, random_weights
from tests.runtime.llamas import tiny_shape

pytest.importorskip("triton")

pytestmark = pytest.mark.gpu

GROUPED = tiny_shape(
    vocab_size=32000, hidden_size=1024, intermediate_size=2816, num_hidden_layers=4, num_attention_heads=8,
    num_key_value_heads=4, head_dim=128, max_position_embeddings=1024,
)  # fmt: skip
SHAPES = {"grouped": GROUPED, "every head its own keys": replace(GROUPED, num_key_value_heads=8)}
LENGTHS = [1, 10, 100, 200]
REPLAYS = 500


@pytest.fixture(params=SHAPES.values(), ids=SHAPES.keys())
def shape(request):
    return request.param


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(("dtype", "bound"), [("float16", 1e-2), ("bfloat16", 6e-2)])
def test_kernels_are_near_float32_and_replays_give_the_same_bits(shape, dtype, bound, tmp_path):
    said: list[str] = []
    measure_kernels(shape, dtype, LENGTHS, REPLAYS, said.append, tmp_path)
    errors, repeated = rows_of(tmp_path / "accuracy.csv"), rows_of(tmp_path / "replays.csv")
    assert len(errors) == len(LENGTHS) * (1 + STEPS)
    for row in errors:
        assert 0 < float(row["kernels_error"]) < bound, row
        assert 0 < float(row["plain_error"]) < bound, row
        assert row["kernels"].startswith("Triton"), row
    assert [(row["phase"], int(row["prompt_length"])) for row in repeated] == [
        (phase, length) for length in LENGTHS for phase in ("prefill", "decode")
    ]
    for row in repeated:
        assert (row["replays"], row["differing"], row["cache_equal"]) == (str(REPLAYS), "0", "True"), row
    assert len(said) == len(errors) + len(repeated)


def on_cpu(weights: LlamaWeights) -> LlamaWeights:
    layers = [LayerWeights(**{name: held.cpu() for name, held in vars(layer).items()}) for layer in weights.layers]
    return LlamaWeights(weights.embedding.cpu(), layers, weights.norm.cpu(), weights.head.cpu())


def test_what_errors_are_relative_to_is_float32_even_where_products_may_be_tf32(shape):
    """On the GPU as on the CPU, which has no TF32: its products alone would be some 3e-4 off."""
    weights = random_weights(shape, torch.float16, "cuda")
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        found = accuracy.exact_logits(shape, weights, LENGTHS)
    finally:
        torch.set_float32_matmul_precision(before)
    expected = accuracy.exact_logits(shape, on_cpu(weights), LENGTHS)
    for length in LENGTHS:
        assert max(accuracy.relative_errors(found[length], expected[length])) < 5e-5, length
