"""A checkpoint's tensors on the device, packed the way the forward reads them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from cases.runtime.checkpoint import safetensors_files
from cases.runtime.shape import LlamaShape

IGNORED_SUFFIX = ".rotary_emb.inv_freq"
"""Old exports store this constant; it is computed here."""


@dataclass(frozen=True)
class LayerWeights:
    """One decoder layer. Linears are [out features, in features]."""

    attention_norm: Tensor
    qkv: Tensor
    """[(heads + 2 * key-value heads) * head_dim, hidden]: queries, then keys, then values."""
    out: Tensor
    mlp_norm: Tensor
    gate_up: Tensor
    """[2 * intermediate, hidden]: gate rows, then up rows."""
    down: Tensor


@dataclass(frozen=True)
class LlamaWeights:
    """All weights of a Llama on one device in one dtype."""

    embedding: Tensor
    layers: list[LayerWeights]
    norm: Tensor
    head: Tensor


def empty_weights(shape: LlamaShape, dtype: torch.dtype, device: str) -> LlamaWeights:
    """Allocate, and leave to be filled."""

    def new(*size: int) -> Tensor:
        return torch.empty(*size, dtype=dtype, device=device)

    hidden, inner = shape.hidden_size, shape.intermediate_size
    layers = [
        LayerWeights(
            attention_norm=new(hidden),
            qkv=new(shape.query_size + 2 * shape.key_value_size, hidden),
            out=new(hidden, shape.query_size),
            mlp_norm=new(hidden),
            gate_up=new(2 * inner, hidden),
            down=new(hidden, inner),
        )
        for _ in range(shape.num_hidden_layers)
    ]
    embedding = new(shape.vocab_size, hidden)
    head = embedding if shape.tie_word_embeddings else new(shape.vocab_size, hidden)
    return LlamaWeights(embedding, layers, new(hidden), head)


def places(weights: LlamaWeights, shape: LlamaShape) -> dict[str, Tensor]:
    """Where each tensor of the checkpoint goes: views into the packed weights, by the checkpoint's names."""
    queries, keys, inner = shape.query_size, shape.key_value_size, shape.intermediate_size
    found = {"model.embed_tokens.weight": weights.embedding, "model.norm.weight": weights.norm}
    if not shape.tie_word_embeddings:
        found["lm_head.weight"] = weights.head
    for number, layer in enumerate(weights.layers):
        prefix = f"model.layers.{number}."
        found |= {
            prefix + "input_layernorm.weight": layer.attention_norm,
            prefix + "self_attn.q_proj.weight": layer.qkv[:queries],
            prefix + "self_attn.k_proj.weight": layer.qkv[queries : queries + keys],
            prefix + "self_attn.v_proj.weight": layer.qkv[queries + keys :],
            prefix + "self_attn.o_proj.weight": layer.out,
            prefix + "post_attention_layernorm.weight": layer.mlp_norm,
            prefix + "mlp.gate_proj.weight": layer.gate_up[:inner],
            prefix + "mlp.up_proj.weight": layer.gate_up[inner:],
            prefix + "mlp.down_proj.weight": layer.down,
        }
    return found


def named_slices(files: list[Path]) -> Iterator[tuple[str, Any]]:
    """Every tensor of the files, not yet read."""
    for path in files:
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118  the handle is no mapping
                yield name, file.get_slice(name)


def check_tensors(folder: Path, files: list[Path], wanted: dict[str, Tensor], shape: LlamaShape) -> None:
    """Compare names and shapes before anything is copied. Raises ValueError naming the first tensors at fault."""
    found = {name: tuple(view.get_shape()) for name, view in named_slices(files) if not name.endswith(IGNORED_SUFFIX)}
    if shape.tie_word_embeddings:
        found.pop("lm_head.weight", None)
    for word, names in (("lacks", wanted.keys() - found.keys()), ("has unknown", found.keys() - wanted.keys())):
        if names:
            first = ", ".join(sorted(names)[:3])
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            raise ValueError(f"checkpoint {folder} {word} tensors: {first}{more}")
    for name, size in found.items():
        if size != tuple(wanted[name].shape):
            raise ValueError(
                f"checkpoint {folder}: {name} has shape {list(size)}, config.json asks for {list(wanted[name].shape)}"
            )


def load_weights(folder: Path, shape: LlamaShape, dtype: torch.dtype, device: str) -> LlamaWeights:
    """Read a safetensors checkpoint onto `device` in `dtype`, several files at a time.

    Raises:
        ValueError: missing, unknown or misshapen tensors, by name.
    """
    files = safetensors_files(folder)
    weights = empty_weights(shape, dtype, device)
    targets = places(weights, shape)
    check_tensors(folder, files, targets, shape)

    def read(path: Path) -> None:
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118
                if name in targets:
                    targets[name].copy_(file.get_tensor(name))

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        list(pool.map(read, files))
    return weights
