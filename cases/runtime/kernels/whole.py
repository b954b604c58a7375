"""A whole model on one device, as the measurements of its outputs need it: direct in any precision, or from graphs."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import overload

import torch

from cases.runtime.buckets import GraphOptions
from cases.runtime.capture import CudaCapture, EagerCapture
from cases.runtime.dynamic_ops import DynamicOps, PlainOps
from cases.runtime.graph_runner import GraphRunner
from cases.runtime.lean import warm_kernels
from cases.runtime.llama import Blocks, Llama, State
from cases.runtime.plain import PlainBlocks
from cases.runtime.runner import DirectRunner
from cases.runtime.session import Session
from cases.runtime.shape import LlamaShape
from cases.runtime.weights import LayerWeights, LlamaWeights
from harness.contract import Sampling

STEPS = 4
"""Decode steps behind each prompt, their tokens given."""

BUCKET = 16
LEAST_CAPACITY = 512


class Upcast(Sequence[LayerWeights]):
    """Layers in float32, each made when it is read: a whole model of them may not fit beside its own dtype."""

    def __init__(self, layers: Sequence[LayerWeights]) -> None:
        self._layers = layers

    def __len__(self) -> int:
        return len(self._layers)

    @overload
    def __getitem__(self, place: int) -> LayerWeights: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[LayerWeights]: ...
    def __getitem__(self, place: int | slice) -> LayerWeights | Sequence[LayerWeights]:
        """One layer in float32, or several that are made later."""
        if isinstance(place, slice):
            return Upcast(self._layers[place])
        return LayerWeights(**{name: tensor.float() for name, tensor in vars(self._layers[place]).items()})


def upcast(weights: LlamaWeights) -> LlamaWeights:
    """The same numbers in float32."""
    embedding = weights.embedding.float()
    head = embedding if weights.head is weights.embedding else weights.head.float()
    return LlamaWeights(embedding, Upcast(weights.layers), weights.norm.float(), head)


@contextmanager
def exact_products() -> Iterator[None]:
    """Products of float32 numbers in float32, not in TF32. The setting is the process's."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def capacity(lengths: Sequence[int]) -> int:
    """Positions of the KV cache for the longest prompt and its steps, in whole buckets."""
    return max(LEAST_CAPACITY, -(-(max(lengths) + STEPS) // BUCKET) * BUCKET)


def check_lengths(shape: LlamaShape, lengths: Sequence[int]) -> None:
    """Refuse prompts that the model has no positions for. Raises ValueError with one sentence."""
    most = shape.max_position_embeddings - STEPS
    if max(lengths) > most:
        raise ValueError(
            f"--lengths holds {max(lengths)}, but with {STEPS} steps behind it this model has positions for prompts "
            f"of at most {most} tokens: leave it out"
        )


def prompt(length: int, vocabulary: int) -> list[int]:
    """Random ids, the same for the same length and vocabulary."""
    return random.Random(f"prompt/{length}").choices(range(vocabulary), k=length)


def forced(length: int, vocabulary: int) -> list[int]:
    """The ids of the steps behind the prompt of that length."""
    return random.Random(f"forced/{length}").choices(range(vocabulary), k=STEPS)


def new_state(shape: LlamaShape, weights: LlamaWeights, lengths: Sequence[int]) -> State:
    """A state in the dtype and on the device of the weights."""
    return State(shape, capacity(lengths), weights.norm.dtype, weights.norm.device.type)


def direct(shape: LlamaShape, weights: LlamaWeights, lengths: Sequence[int]) -> Session:
    """Plain operations in the dtype of the weights, without graphs and without padding."""
    device = weights.norm.device.type
    model = Llama(shape, weights, new_state(shape, weights, lengths), PlainBlocks(shape))
    return Session(model, DirectRunner(model), PlainOps(Sampling(), device, shape.vocab_size), device)


@dataclass(frozen=True)
class Graphed:
    """A model behind a pool of graphs, as a case has it."""

    model: Llama
    ops: DynamicOps
    runner: GraphRunner
    session: Session

    def check(self) -> None:
        """Raises RuntimeError when a forward had to go without its graph: it is not what was to be measured."""
        if missed := self.runner.stats().ungraphed:
            why = [record.reason for record in self.runner.captured() if record.reason]
            raise RuntimeError(f"{missed} forwards ran without a graph: {why[-1] if why else 'it was not captured'}")


@contextmanager
def graphed(
    shape: LlamaShape, weights: LlamaWeights, blocks: Blocks, ops: DynamicOps, lengths: Sequence[int]
) -> Iterator[Graphed]:
    """`blocks` and `ops` with the decode graph and one for each length's bucket; on the CPU replayed eagerly."""
    device = weights.norm.device.type
    model = Llama(shape, weights, new_state(shape, weights, lengths), blocks)
    ops.compile()
    capture = CudaCapture() if device == "cuda" else EagerCapture()
    runner = GraphRunner(model, graph_options(lengths), capture, ops.pull)
    try:
        session = Session(model, runner, ops, device)
        warm_kernels(model, ops)
        runner.capture()
        yield Graphed(model, ops, runner, session)
    finally:
        runner.close()


def graph_options(lengths: Sequence[int]) -> GraphOptions:
    """As the cases with graphs have them, but only the buckets of these lengths are captured."""
    edges = sorted({-(-length // BUCKET) * BUCKET for length in lengths})
    return GraphOptions(
        buckets="step", step=BUCKET, largest=capacity(lengths), max_graphs=max(50, len(edges)), max_mib=None,
        pinned=[], initial=edges, capture="blocking", capture_attempts=2, beyond="chunks", shared_pool=True,
        executables=None, adaptive={"window": 512, "every": 128, "ms_per_token": 0.015, "capture_ms": 25},
    )  # fmt: skip
