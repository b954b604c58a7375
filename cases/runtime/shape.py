"""The shape of a Llama: read from a checkpoint's config.json, written to one, counted in bytes and operations.

Free of torch, so that a wrong folder is refused before anything heavy is imported.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

DTYPE_BYTES = {"float16": 2, "bfloat16": 2, "float32": 4}
ROPE_DEFAULTS = (None, "default")
WHOLE_NUMBERS = (
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "max_position_embeddings",
)  # fmt: skip
OPTIONAL_SIZES = ("num_key_value_heads", "head_dim", "sliding_window")
LARGEST = 100_000_000
"""No size of a model is larger."""
MOST_LAYERS = 1000
CODE_KEYS = ("auto_map", "trust_remote_code", "custom_pipelines")
"""Keys that name Python files to be run in the model's place: nothing here runs code that came with weights."""
LARGEST_FILE = 2**20
SWITCHES = ("tie_word_embeddings", "attention_bias", "mlp_bias")


@dataclass(frozen=True)
class LlamaShape:
    """Sizes of a Llama-like decoder, under the names of its config.json."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    max_position_embeddings: int
    rope_theta: float
    rms_norm_eps: float
    tie_word_embeddings: bool

    @property
    def query_size(self) -> int:
        """Width of all query heads together."""
        return self.num_attention_heads * self.head_dim

    @property
    def key_value_size(self) -> int:
        """Width of all key heads together, and of all value heads."""
        return self.num_key_value_heads * self.head_dim

    @property
    def layer_parameters(self) -> int:
        """Weights of the four linears of a layer."""
        attention = self.hidden_size * (2 * self.query_size + 2 * self.key_value_size)
        return attention + 3 * self.hidden_size * self.intermediate_size

    @property
    def head_parameters(self) -> int:
        """Weights of the language-model head."""
        return self.vocab_size * self.hidden_size

    def weight_bytes(self, dtype: str) -> int:
        """Bytes that one forward must read: every linear and the head, but one row of the embedding only."""
        linears = self.num_hidden_layers * self.layer_parameters + self.head_parameters
        norms = (2 * self.num_hidden_layers + 1) * self.hidden_size
        return (linears + norms) * DTYPE_BYTES[dtype]

    @property
    def flops_per_token(self) -> int:
        """Two operations a weight of the layers' linears; attention and the head of the last token are left out."""
        return 2 * self.num_hidden_layers * self.layer_parameters

    def tensors(self) -> dict[str, tuple[int, ...]]:
        """Name and shape of every tensor of a checkpoint in the Hugging Face layout."""
        hidden, inner = self.hidden_size, self.intermediate_size
        found: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (self.vocab_size, hidden)}
        for layer in range(self.num_hidden_layers):
            prefix = f"model.layers.{layer}."
            found |= {
                prefix + "input_layernorm.weight": (hidden,),
                prefix + "self_attn.q_proj.weight": (self.query_size, hidden),
                prefix + "self_attn.k_proj.weight": (self.key_value_size, hidden),
                prefix + "self_attn.v_proj.weight": (self.key_value_size, hidden),
                prefix + "self_attn.o_proj.weight": (hidden, self.query_size),
                prefix + "post_attention_layernorm.weight": (hidden,),
                prefix + "mlp.gate_proj.weight": (inner, hidden),
                prefix + "mlp.up_proj.weight": (inner, hidden),
                prefix + "mlp.down_proj.weight": (hidden, inner),
            }
        found["model.norm.weight"] = (hidden,)
        if not self.tie_word_embeddings:
            found["lm_head.weight"] = (self.vocab_size, hidden)
        return found

    def to_config(self, dtype: str) -> dict[str, Any]:
        """The config.json that Transformers, TensorRT-LLM and this package read."""
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_act": "silu",
            "attention_bias": False,
            "mlp_bias": False,
            "rope_scaling": None,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "torch_dtype": dtype,
            **{item.name: getattr(self, item.name) for item in fields(self)},
        }


def read_shape(folder: Path) -> LlamaShape:
    """The shape that `folder`/config.json states.

    Raises:
        ValueError: no such file, or a model that the lean runtime does not compute.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise ValueError(f"{folder} has no config.json: give a folder in the Hugging Face layout")
    if path.stat().st_size > LARGEST_FILE:
        raise ValueError(f"{path} is larger than 1 MiB: it is no Llama-like model's configuration")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except RecursionError as error:
        raise ValueError(f"{path} is nested too deeply for a model's configuration") from error
    except ValueError as error:  # of the syntax, the encoding, or a number with thousands of digits
        raise ValueError(f"{path} is not JSON ({error})") from error
    if not isinstance(config, dict):
        raise ValueError(f"{path} holds no JSON object: it is no Llama-like model's configuration")
    config = {key: value for key, value in config.items() if value is not None}
    check_types(config, path)
    refuse_other_models(config, path)
    heads = config["num_attention_heads"]
    rope = config.get("rope_parameters", {})
    shape = LlamaShape(
        **{key: config[key] for key in WHOLE_NUMBERS},
        num_key_value_heads=config.get("num_key_value_heads", heads),
        head_dim=config.get("head_dim", config["hidden_size"] // heads),
        rope_theta=float(config.get("rope_theta", rope.get("rope_theta", 10000.0))),
        rms_norm_eps=float(config["rms_norm_eps"]),
        tie_word_embeddings=config.get("tie_word_embeddings", False),
    )
    check_heads(shape, path)
    return shape


def check_types(config: Mapping[str, Any], path: Path) -> None:
    """Refuse values that are no sizes, numbers, switches or objects. Raises ValueError naming file and key."""
    missing = [key for key in (*WHOLE_NUMBERS, "rms_norm_eps") if key not in config]
    if missing:
        raise ValueError(f"{path} lacks {', '.join(missing)}: it is no Llama-like model's configuration")
    rope = config.get("rope_parameters", {})
    theta = rope if isinstance(rope, dict) else {}
    checks: tuple[tuple[Callable[[Any], bool], str, tuple[str, ...], Mapping[str, Any]], ...] = (
        (_is_size, f"a whole number from 1 to {LARGEST}", (*WHOLE_NUMBERS, *OPTIONAL_SIZES), config),
        (_is_positive, "a number above 0", ("rms_norm_eps", "rope_theta"), config),
        (lambda value: isinstance(value, bool), "true or false", SWITCHES, config),
        (lambda value: isinstance(value, dict), "an object", ("rope_scaling", "rope_parameters"), config),
        (_is_positive, "a number above 0", ("rope_theta",), theta),
    )
    for holds, kind, keys, values in checks:
        for key in keys:
            if key in values and not holds(values[key]):
                raise ValueError(f"{path}: {key} must be {kind}, not {shortened(values[key])}")


def shortened(value: Any) -> str:
    """A value from a file in a sentence: quoted where it is text, and never long."""
    return repr(value[:40]) if isinstance(value, str) else str(value)[:40]


def check_heads(shape: LlamaShape, path: Path) -> None:
    """Refuse numbers of heads that do not divide. Raises ValueError naming file and key."""
    if shape.num_attention_heads % shape.num_key_value_heads:
        raise ValueError(
            f"{path}: num_attention_heads={shape.num_attention_heads} is not divisible by "
            f"num_key_value_heads={shape.num_key_value_heads}"
        )
    if shape.head_dim < 1:
        raise ValueError(f"{path}: hidden_size={shape.hidden_size} is less than the number of heads")


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value <= LARGEST


def _is_positive(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < float("inf")


def refuse_other_models(config: Mapping[str, Any], path: Path) -> None:
    """Refuse what the runtime would compute wrongly or not at all. Raises ValueError with one sentence."""
    for key in CODE_KEYS:
        if key in config:
            raise ValueError(
                f"{path}: {key} asks for code that came with the weights, which is never run: remove the key"
            )
    if "quantization_config" in config:
        raise ValueError(f"{path}: quantization_config is not supported, only weights as float16, bfloat16 or float32")
    if config["num_hidden_layers"] > MOST_LAYERS:
        raise ValueError(f"{path}: num_hidden_layers={config['num_hidden_layers']} is above {MOST_LAYERS}")
    if config.get("model_type") not in ("llama", "mistral"):
        raise ValueError(f"{path}: model_type {config.get('model_type')!r} is not supported, only llama and mistral")
    scaling = config.get("rope_scaling") or config.get("rope_parameters", {})
    kind = scaling.get("rope_type", scaling.get("type"))
    if kind not in ROPE_DEFAULTS:
        raise ValueError(f"{path}: rotary scaling {kind!r} is not supported, only the plain rotary embedding")
    if config.get("hidden_act", "silu") != "silu":
        raise ValueError(f"{path}: hidden_act {config['hidden_act']!r} is not supported, only silu")
    for key in ("attention_bias", "mlp_bias"):
        if config.get(key):
            raise ValueError(f"{path}: {key} is not supported, only linears without bias")
    window = config.get("sliding_window")
    if window is not None and window < config["max_position_embeddings"]:
        raise ValueError(f"{path}: sliding-window attention ({window} tokens) is not supported; use a model without")


def shape_from(model: Mapping[str, Any]) -> LlamaShape | None:
    """The shape that a model's configuration states, or None where it leaves the shape to the checkpoint."""
    values = {item.name: model.get(item.name) for item in fields(LlamaShape)}
    missing = [name for name, value in values.items() if value is None]
    if len(missing) == len(values):
        return None
    if missing:
        raise ValueError(f"model.{missing[0]} is null: give every key of the shape, or none to take the checkpoint's")
    return LlamaShape(**values)  # type: ignore[arg-type]


def differences(stated: LlamaShape, found: LlamaShape) -> list[str]:
    """`key: stated, found` for each key in which two shapes differ."""
    return [
        f"{item.name} {getattr(stated, item.name)} in the configuration, {getattr(found, item.name)} in the checkpoint"
        for item in fields(LlamaShape)
        if getattr(stated, item.name) != getattr(found, item.name)
    ]
