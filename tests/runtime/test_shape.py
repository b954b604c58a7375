"""The shape: what is counted from it, and configurations that are refused."""

from __future__ import annotations

import json

import pytest
import torch

from cases.runtime.shape import read_shape
from tests.runtime.llamas import tiny_shape


def test_bytes_and_operations_are_those_of_the_published_shape():
    """Llama-2-7B: 6.74e9 parameters, of which the embedding's 131 million are not read."""
    shape = tiny_shape(
        vocab_size=32000, hidden_size=4096, intermediate_size=11008, num_hidden_layers=32, num_attention_heads=32,
        num_key_value_heads=32, head_dim=128,
    )  # fmt: skip
    total = sum(torch.Size(size).numel() for size in shape.tensors().values())
    assert total == 6_738_415_616
    assert shape.weight_bytes("float16") == 2 * (total - 32000 * 4096)
    assert shape.flops_per_token == 2 * 32 * (4 * 4096**2 + 3 * 4096 * 11008)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, "rotary scaling 'llama3' is not supported"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "rotary scaling 'linear' is not supported"),
        ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4, "factor": 8.0}}, "rotary scaling 'yarn' is not"),
        ({"sliding_window": 32}, r"sliding-window attention \(32 tokens\) is not supported"),
        ({"attention_bias": True}, "attention_bias is not supported"),
        ({"mlp_bias": True}, "mlp_bias is not supported"),
        ({"hidden_act": "gelu"}, "hidden_act 'gelu' is not supported, only silu"),
        ({"model_type": "gpt2"}, "model_type 'gpt2' is not supported, only llama and mistral"),
    ],
)
def test_what_would_be_computed_wrongly_is_refused(tmp_path, change, sentence):
    config = tiny_shape().to_config("float32")
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert read_shape(tmp_path) == tiny_shape()
    (tmp_path / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(ValueError, match=sentence):
        read_shape(tmp_path)
