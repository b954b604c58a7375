"""What every whole request must fulfil by the engine's own account, and that account as clocks."""

from __future__ import annotations

from typing import Any, NamedTuple


class Account(NamedTuple):
    """Nanoseconds by the engine's clock: from arrival to the first token, and the mean of the steps behind it."""

    first_ns: int
    step_ns: int


def account(metrics: Any, tokens: int, asked: int) -> Account:
    """Times of a finished request from its `request_perf_metrics`.

    Raises:
        RuntimeError: one sentence on the first gate that it does not pass.
    """
    if tokens != asked:
        raise RuntimeError(f"the request ended with {tokens} tokens, and {asked} were asked for")
    check(metrics)
    if metrics.iter is None or metrics.first_iter is None:
        raise RuntimeError("the engine counted no iterations of the request: one a token is what is measured")
    steps = metrics.iter - metrics.first_iter
    if steps != asked - 1:
        raise RuntimeError(f"{asked} tokens took {steps + 1} iterations of the engine: one a token is what is measured")
    timing = metrics.timing_metrics
    if not timing.arrival_time < timing.first_token_time <= timing.last_token_time:
        raise RuntimeError("the engine's times of the request do not follow each other: it has no clock to go by")
    later = nanoseconds(timing.last_token_time - timing.first_token_time)
    return Account(first_ns(metrics), later // (asked - 1) if asked > 1 else 0)


def check(metrics: Any) -> None:
    """Raises RuntimeError where the engine gave no metrics, or answered from blocks of an earlier prompt."""
    if metrics is None:
        raise RuntimeError("the engine gave no request_perf_metrics, which it was asked for: no gate can be checked")
    reused = metrics.kv_cache_metrics.num_reused_blocks
    if reused:
        raise RuntimeError(f"the engine reused {reused} blocks of its KV cache, which it was told not to")


def first_ns(metrics: Any) -> int:
    """From the request's arrival to its first token, by the engine's clock."""
    timing = metrics.timing_metrics
    return nanoseconds(timing.first_token_time - timing.arrival_time)


def nanoseconds(interval: Any) -> int:
    """A timedelta, which the engine's clock counts in, to its microsecond."""
    return round(interval.total_seconds() * 1e6) * 1000
