"""A checkpoint's tensors on the device, packed the way the forward reads them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from cases.runtime.headers import IGNORED_SUFFIX, check_tensors, safetensors_files
from cases.runtime.shape import LlamaShape

SPREAD = 0.02
DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}


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
    layers: Sequence[LayerWeights]
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


def random_weights(shape: LlamaShape, dtype: torch.dtype, device: str, seed: int = 0) -> LlamaWeights:
    """Every linear and the embedding N(0, 0.02) and every norm 1, the same for the same seed on the same device."""
    weights = empty_weights(shape, dtype, device)
    generator = torch.Generator(device).manual_seed(seed)
    layers = [tensor for layer in weights.layers for tensor in vars(layer).values()]
    for tensor in (*layers, weights.embedding, weights.norm, weights.head):
        if tensor.dim() == 1:
            tensor.fill_(1.0)
        else:
            tensor.normal_(0.0, SPREAD, generator=generator)
    return weights


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


def load_weights(folder: Path, shape: LlamaShape, dtype: torch.dtype, device: str) -> LlamaWeights:
    """Read a safetensors checkpoint onto `device` in `dtype`, several files at a time.

    Raises:
        ValueError: missing, unknown or misshapen tensors, and such with NaN or infinity, by name.
    """
    check_tensors(folder, shape)
    weights = empty_weights(shape, dtype, device)
    targets = places(weights, shape)

    def read(path: Path) -> None:
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118
                if name in targets:
                    targets[name].copy_(file.get_tensor(name))
                    refuse_infinite(targets[name], name, path)

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        list(pool.map(read, safetensors_files(folder)))
    return weights


def refuse_infinite(tensor: Tensor, name: str, path: Path) -> None:
    """Raises ValueError with the tensor's name where an element is NaN or infinite, in the dtype that is computed in.

    On a GPU it reads each weight once more at the memory's speed: some hundredths of a second for a 7B model.
    """
    if not bool(torch.isfinite(tensor).all()):
        dtype = str(tensor.dtype).removeprefix("torch.")
        raise ValueError(f"{path}: {name} holds NaN or infinity in {dtype}: copy or convert the checkpoint again")


def check_finite(folder: Path, dtype: torch.dtype, device: str) -> None:
    """Read every tensor of a checkpoint through the device, one at a time. Raises ValueError naming the first that is
    not finite there: so no engine gets such a checkpoint, whichever loader it has."""
    for path in safetensors_files(folder):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118
                if not name.endswith(IGNORED_SUFFIX):
                    refuse_infinite(file.get_tensor(name).to(device=device, dtype=dtype), name, path)
