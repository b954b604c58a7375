"""How far a whole model's logits are from those in float32: by our kernels, and by plain operations in the same dtype.

All three read the same weights and the same tokens: a prompt, and then given ones, so that none follows another path.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from cases.runtime.kernels.whole import Graphed, direct, exact_products, forced, prompt, upcast
from cases.runtime.session import Session
from cases.runtime.shape import LlamaShape
from cases.runtime.weights import LlamaWeights

COLUMNS = ("prompt_length", "step", "kernels_error", "plain_error", "not_above_plain", "kernels")

Logits = Mapping[int, Tensor]
"""By prompt length, float64 [1 + steps, vocabulary] on the CPU: after the prompt, and after each given token."""


def relative_errors(found: Tensor, expected: Tensor) -> list[float]:
    """||found - expected|| / ||expected|| of each row. Raises ArithmeticError for logits that are no numbers."""
    if not (torch.isfinite(found).all() and torch.isfinite(expected).all()):
        raise ArithmeticError("the logits hold infinities or NaN: an error relative to them says nothing")
    return [float(error) for error in (found - expected).norm(dim=1) / expected.norm(dim=1)]


def logits(session: Session, shape: LlamaShape, lengths: Sequence[int]) -> Logits:
    """What a session answers to the prompts and to the tokens behind them."""
    vocabulary = shape.vocab_size
    found = {}
    for length in lengths:
        rows = session.score(prompt(length, vocabulary), forced(length, vocabulary))
        found[length] = torch.stack([torch.frombuffer(row, dtype=torch.float32) for row in rows]).double()
    return found


def exact_logits(shape: LlamaShape, weights: LlamaWeights, lengths: Sequence[int]) -> Logits:
    """By plain operations in float32."""
    with exact_products():
        return logits(direct(shape, upcast(weights), lengths), shape, lengths)


def plain_logits(shape: LlamaShape, weights: LlamaWeights, lengths: Sequence[int]) -> Logits:
    """By plain operations in the dtype of the weights."""
    return logits(direct(shape, weights, lengths), shape, lengths)


def graphed_logits(engine: Graphed, lengths: Sequence[int]) -> Logits:
    """By the engine's kernels, every forward from a graph. Raises RuntimeError when one was not."""
    found = logits(engine.session, engine.model.shape, lengths)
    engine.check()
    return found


def accuracy_rows(exact: Logits, plain: Logits, kernels: Logits, name: str) -> Iterator[dict[str, Any]]:
    """A row for each prompt length and step, 0 for the prefill; `name` says whose kernels answered."""
    for length, expected in exact.items():
        errors = zip(relative_errors(kernels[length], expected), relative_errors(plain[length], expected), strict=True)
        for step, (ours, theirs) in enumerate(errors):
            yield {
                "prompt_length": length, "step": step, "kernels_error": ours, "plain_error": theirs,
                "not_above_plain": ours <= theirs, "kernels": name,
            }  # fmt: skip
