"""Whether a graph gives the same bits every time: replayed thousands of times from one state."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cases.runtime.kernels.whole import Graphed, prompt
from cases.runtime.llama import State

COLUMNS = ("phase", "prompt_length", "rows", "replays", "differing", "cache_equal", "kernels")
BITS = {2: torch.int16, 4: torch.int32}


class Found(NamedTuple):
    """How many replays had a bit of the logits unlike the first's; whether keys and values were equal at the end."""

    differing: int
    cache_equal: bool


def bits(numbers: Tensor) -> Tensor:
    """The same memory as whole numbers, in which NaN equals itself and 0 is not -0."""
    return numbers.view(BITS[numbers.element_size()])


def compare(replay: Callable[[], None], state: State, times: int) -> Found:
    """`times` replays, the host waiting for none.

    A replay must leave the state's words as they are. NaN stands in the logits before each, and before the last the
    cache is as it was before the first, so that what a replay leaves unwritten counts as differing.
    Raises ArithmeticError when the first replay's logits are no numbers.
    """
    cache = (state.keys, state.values)
    before = [held.clone() for held in cache]
    state.logits.fill_(float("nan"))
    replay()
    logits, *after = (held.clone() for held in (state.logits, *cache))
    if not torch.isfinite(logits).all():
        raise ArithmeticError("the first replay left infinities or NaN in the logits: there is nothing to compare with")
    differing = torch.zeros((), dtype=torch.int64, device=logits.device)
    for number in range(2, times + 1):
        if number == times:
            for held, was in zip(cache, before, strict=True):
                held.copy_(was)
        state.logits.fill_(float("nan"))
        replay()
        differing += (bits(state.logits) != bits(logits)).any()
    equal = all(torch.equal(bits(held), bits(then)) for held, then in zip(cache, after, strict=True))
    return Found(int(differing.item()), equal)


def replay_rows(engine: Graphed, lengths: Sequence[int], times: int) -> Iterator[dict[str, Any]]:
    """For each prompt length the prefill's graph, and that of the decode step behind it. Raises RuntimeError where a
    forward had no graph."""
    state, runner = engine.model.state, engine.runner
    for length in lengths:
        [(_, _, count)] = runner.pieces(length)
        state.keys.zero_()
        state.values.zero_()
        engine.ops.stage(prompt(length, engine.model.shape.vocab_size), count, state)
        found = compare(lambda count=count: runner.prefill(count), state, times)  # type: ignore[misc]
        yield row("prefill", length, count, times, found, engine)
        engine.ops.choose(state)
        yield row("decode", length, 1, times, compare(runner.decode, state, times), engine)
    engine.check()


def row(phase: str, length: int, rows: int, times: int, found: Found, engine: Graphed) -> dict[str, Any]:
    """One row of the table; `rows` are the tokens that the graph runs over, padding included."""
    return {
        "phase": phase, "prompt_length": length, "rows": rows, "replays": times, "differing": found.differing,
        "cache_equal": found.cache_equal, "kernels": engine.model.kernels,
    }  # fmt: skip
