"""What `bench` measures of a whole model's outputs: their error against float32, and replays that should not differ."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch

from cases.runtime.kernels import accuracy, replays
from cases.runtime.kernels.tables import write_rows
from cases.runtime.kernels.whole import Graphed, graphed
from cases.runtime.shape import LlamaShape
from cases.runtime.weights import LlamaWeights, random_weights
from harness.contract import Sampling

FILES = {"accuracy.csv": accuracy.COLUMNS, "replays.csv": replays.COLUMNS}

Engine = Callable[[LlamaWeights], AbstractContextManager[Graphed]]
Say = Callable[[str], None]


def measure(
    shape: LlamaShape, weights: LlamaWeights, make: Engine, lengths: Sequence[int], times: int, say: Say, folder: Path
) -> None:
    """Both tables into `folder`: errors of the engine that `make` gives, and `times` replays of each of its graphs.

    Float32 and plain operations come first and are gone before the engine is made: of each, the logits stay.

    Raises:
        ArithmeticError: logits that are no numbers.
        RuntimeError: a forward that had no graph.
    """
    exact = accuracy.exact_logits(shape, weights, lengths)
    plain = accuracy.plain_logits(shape, weights, lengths)
    with make(weights) as engine:
        found = accuracy.graphed_logits(engine, lengths)
        errors = list(accuracy.accuracy_rows(exact, plain, found, engine.model.kernels))
        for row in errors:
            say(error_line(row))
        write_rows(folder / "accuracy.csv", accuracy.COLUMNS, errors)
        repeated = []
        for row in replays.replay_rows(engine, lengths, times):
            repeated.append(row)
            say(replay_line(row))
    write_rows(folder / "replays.csv", replays.COLUMNS, repeated)


def measure_kernels(shape: LlamaShape, dtype: str, lengths: Sequence[int], times: int, say: Say, folder: Path) -> None:
    """The same for our kernels on random weights of that shape, on a CUDA GPU."""
    # They need Triton, which machines without a GPU lack.
    from cases.runtime.kernels.blocks import TritonBlocks
    from cases.runtime.kernels.dynamic_ops import TritonOps

    kind = getattr(torch, dtype)

    def make(weights: LlamaWeights) -> AbstractContextManager[Graphed]:
        ops = TritonOps(Sampling(), "cuda", shape.vocab_size)
        return graphed(shape, weights, TritonBlocks(shape, kind), ops, lengths)

    measure(shape, random_weights(shape, kind, "cuda"), make, lengths, times, say, folder)


def forget(folder: Path) -> None:
    """Take the tables of an earlier benchmark away: beside new ones of the kernels they would seem to be theirs."""
    for name in FILES:
        (folder / name).unlink(missing_ok=True)


def error_line(row: dict[str, Any]) -> str:
    """A row for people who watch."""
    place = f"step {row['step']}" if row["step"] else "prefill"
    return (
        f"{place:<8} of {row['prompt_length']:>4} tokens: error against float32 {row['kernels_error']:.2e}, "
        f"by plain operations {row['plain_error']:.2e}"
    )


def replay_line(row: dict[str, Any]) -> str:
    """A row for people who watch."""
    place = f"{row['phase']:<8} of {row['prompt_length']:>4} tokens"
    cache = "equal" if row["cache_equal"] else "NOT EQUAL"
    return f"{place}: {row['differing']} of {row['replays']} replays differ, keys and values {cache}"
