"""Small Llamas as Transformers makes and writes them: the reference for loader and forward."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM

from cases.runtime.llama import Llama, State
from cases.runtime.plain import PlainBlocks
from cases.runtime.shape import LlamaShape, read_shape
from cases.runtime.weights import load_weights
from harness.contract import Plan, Sampling

SMALL: dict[str, Any] = {
    "vocab_size": 321,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
}
GRAPH: dict[str, Any] = {
    "buckets": "step", "step": 16, "largest": 64, "max_graphs": 8, "max_mib": None, "pinned": [], "initial": "all",
    "capture": "background", "capture_attempts": 2, "beyond": "chunks", "shared_pool": True,
    "executables": None,
    "adaptive": {"window": 512, "every": 128, "ms_per_token": 0.015, "capture_ms": 25},
}  # fmt: skip
JIT = {"backend": "torchscript", "draws": 1}


def new_model(family: str = "llama", *, theta: float = 10000.0, **changes: Any) -> Any:
    """A model of Transformers, its weights from a fixed seed and large enough that attention is far from even."""
    torch.manual_seed(5)
    kind, model = {"llama": (LlamaConfig, LlamaForCausalLM), "mistral": (MistralConfig, MistralForCausalLM)}[family]
    rope = {"rope_type": "default", "rope_theta": theta}
    config = kind(**SMALL | {"rope_parameters": rope, "initializer_range": 0.15} | changes)
    made = model(config).eval()
    with torch.no_grad():
        for name, weight in made.named_parameters():
            if "norm" in name:
                weight.uniform_(0.5, 1.5)
    return made


def save(model: Any, folder: Path, shard: str = "5GB") -> Path:
    """As a user's checkpoint: config.json and safetensors, sharded when `shard` is small."""
    model.save_pretrained(folder, safe_serialization=True, max_shard_size=shard)
    return folder


def load(folder: Path, context: int = 96) -> Llama:
    """The lean Llama over plain PyTorch, float32."""
    shape = read_shape(folder)
    weights = load_weights(folder, shape, torch.float32, "cpu")
    return Llama(shape, weights, State(shape, context, torch.float32, "cpu"), PlainBlocks(shape))


def prompt(length: int, vocabulary: int = SMALL["vocab_size"], seed: int = 0) -> list[int]:
    """Random ids, from 3 on."""
    return random.Random(f"{length}/{seed}").choices(range(3, vocabulary), k=length)


def plan(
    folder: Path | str, case: str = "x", sampling: Sampling | None = None, context: int = 96, **options: Any
) -> Plan:
    """A plan on the CPU, with the options of every lean case."""
    filled = {"graph": GRAPH, "jit": JIT} | options
    return Plan(case, str(folder), "cpu", "float32", context, sampling or Sampling(), filled)


def tiny_shape(**changes: Any) -> LlamaShape:
    """A shape of a few kilobytes."""
    values: dict[str, Any] = {
        "vocab_size": 40, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8, "max_position_embeddings": 64,
        "rope_theta": 10000.0, "rms_norm_eps": 1e-5, "tie_word_embeddings": False,
    }  # fmt: skip
    return LlamaShape(**values | changes)
