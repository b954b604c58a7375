"""Token ids of a stored run: what each decode step was given."""

from __future__ import annotations

from collections.abc import Iterator

from harness.job import Job
from harness.stored.check import Check, Sheet, failed, ok

Sequence = tuple[str, str, str]


def check_given(job: Job, samples: Sheet) -> Iterator[Check]:
    """Within a sequence each decode step was given the id of the step before it; an older file says nothing of that."""
    if "given_token_id" not in samples.columns:
        return
    columns = (samples.column(name) for name in ("case", "block", "iteration", "metric", "token_id", "given_token_id"))
    before: dict[Sequence, str] = {}
    steps = 0
    for row, (case, block, iteration, metric, token, given) in enumerate(zip(*columns, strict=True), start=2):
        said = f"samples.csv row {row}: given_token_id is '{given[:40]}', and"
        if metric != "decode":
            if given:
                yield failed("given ids", f"{said} only decode steps are given an id")
                return
            continue
        place = (case, block, iteration)
        if place in before and given != before[place]:
            yield failed("given ids", f"{said} the step before it gave {before[place]}")
            return
        if place not in before and not known(given, job.vocab_size):
            yield failed("given ids", f"{said} a sequence's first step is given an id of the vocabulary")
            return
        before[place] = token
        steps += 1
    yield ok("given ids", f"{steps} decode steps in {len(before)} sequences: each was given the id of the one before")


def known(text: str, vocabulary: int) -> bool:
    """Whether a text is a token id; of a vocabulary of unknown size (0) any number from 0 on is."""
    return text.isdecimal() and (not vocabulary or int(text) < vocabulary)
