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


WRONG_VALUES = [
    ({"hidden_size": "abc"}, "hidden_size must be a whole number from 1 to 100000000, not 'abc'"),
    ({"vocab_size": 40.5}, "vocab_size must be a whole number from 1 to 100000000, not 40.5"),
    ({"num_hidden_layers": True}, "num_hidden_layers must be a whole number from 1 to 100000000, not True"),
    ({"num_attention_heads": 0}, "num_attention_heads must be a whole number from 1 to 100000000, not 0"),
    ({"num_key_value_heads": -1}, "num_key_value_heads must be a whole number from 1 to 100000000, not -1"),
    ({"num_attention_heads": 4, "num_key_value_heads": 3}, "num_attention_heads=4 is not divisible by num_key_value_h"),
    ({"head_dim": None, "hidden_size": 1}, "hidden_size=1 is less than the number of heads"),
    ({"max_position_embeddings": "64"}, "max_position_embeddings must be a whole number from 1 to 100000000, not '64'"),
    ({"sliding_window": "wide"}, "sliding_window must be a whole number from 1 to 100000000, not 'wide'"),
    ({"rms_norm_eps": "1e-5"}, "rms_norm_eps must be a number above 0, not '1e-5'"),
    ({"rms_norm_eps": float("nan")}, "rms_norm_eps must be a number above 0, not nan"),
    ({"rope_theta": [1]}, r"rope_theta must be a number above 0, not \[1\]"),
    ({"rope_parameters": {"rope_theta": "x"}}, "rope_theta must be a number above 0, not 'x'"),
    ({"rope_scaling": "abc"}, "rope_scaling must be an object, not 'abc'"),
    ({"rope_parameters": 7}, "rope_parameters must be an object, not 7"),
    ({"tie_word_embeddings": "no"}, "tie_word_embeddings must be true or false, not 'no'"),
    ({"hidden_size": None}, "lacks hidden_size: it is no Llama-like"),
]


@pytest.mark.parametrize(("change", "sentence"), WRONG_VALUES, ids=lambda value: str(value)[:50])
def test_a_value_that_can_be_none_is_named_with_its_file_and_key(tmp_path, change, sentence):
    (tmp_path / "config.json").write_text(json.dumps(tiny_shape().to_config("float32") | change))
    with pytest.raises(ValueError, match=f"config.json:? {sentence}") as caught:
        read_shape(tmp_path)
    assert "\n" not in str(caught.value)


def test_what_is_null_or_absent_takes_its_default(tmp_path):
    config = tiny_shape(num_key_value_heads=2).to_config("float32")
    optional = ("num_key_value_heads", "head_dim", "rope_theta", "tie_word_embeddings")
    for changed in ({**config, **dict.fromkeys(optional)}, {k: v for k, v in config.items() if k not in optional}):
        (tmp_path / "config.json").write_text(json.dumps(changed))
        assert read_shape(tmp_path) == tiny_shape(num_key_value_heads=2)
