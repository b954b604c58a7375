"""Models of a few layers, and cases with graphs on them."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cases.cuda_graph import CudaGraph
from cases.jit_cuda_graph import JitCudaGraph
from harness.contract import Case, Plan, Sampling
from tests.runtime import llamas
from tests.runtime.llamas import tiny_shape

CAPACITY = 640
GRAPH: dict[str, Any] = {**llamas.GRAPH, "largest": 512, "max_graphs": 64, "beyond": "ungraphed"}
WIDE = tiny_shape(
    vocab_size=32000, hidden_size=4096, intermediate_size=11008, num_hidden_layers=3, num_attention_heads=32,
    num_key_value_heads=32, head_dim=128, max_position_embeddings=1024,
)  # fmt: skip
GROUPED = tiny_shape(
    vocab_size=4096, hidden_size=1024, intermediate_size=2816, num_hidden_layers=4, num_attention_heads=8,
    num_key_value_heads=2, head_dim=128, max_position_embeddings=1024,
)  # fmt: skip
KINDS = [CudaGraph, JitCudaGraph]


def prompt(length: int, vocabulary: int = 4096, seed: int = 0) -> list[int]:
    return random.Random(f"{length}/{seed}").choices(range(3, vocabulary), k=length)


@contextmanager
def prepared(kind: type[Case], folder: Path, decode: str = "kv_cache", **graph: Any) -> Iterator[Any]:
    case = kind()
    options = {"graph": GRAPH | graph, "jit": {"backend": "triton", "draws": 1}, "decode": decode}
    try:
        case.prepare(Plan("x", str(folder), "cuda", "float16", CAPACITY, Sampling(), options))
        yield case
    finally:
        case.close()


def generate(case: Case, ids: list[int], count: int = 6) -> list[int]:
    return [case.prefill(ids, count), *(case.decode() for _ in range(count - 1))]


def drain(case: Any) -> None:
    case._runner.drain()
