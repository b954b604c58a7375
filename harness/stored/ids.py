"""Token ids of a stored run: what each decode step was given, and how many of them the referee judged."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from harness.job import Job
from harness.schema import CONTRADICTED
from harness.stored.check import Check, Sheet, failed, note, ok

Place = tuple[str, str, str]


def check_given(job: Job, samples: Sheet) -> Iterator[Check]:
    """Within a sequence each decode step was given the id of the step before it; an older file says nothing of that."""
    if "given_token_id" not in samples.columns:
        yield note(
            "given ids", "samples.csv is older than given_token_id: what each decode step was given is not known"
        )
        return
    columns = (samples.column(name) for name in ("case", "block", "iteration", "metric", "token_id", "given_token_id"))
    before: dict[Place, str] = {}
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


def check_referee(job: Job, samples: Sheet, referee: Sheet, status: Sheet | None) -> Iterator[Check]:
    """Each row of referee.csv counts all timed ids of its case, metric and length, and what it says of them agrees.

    Those of a block in which something else answered are not judged.
    """
    foreign = foreign_in(status)
    places = zip(*(samples.column(name) for name in ("case", "block", "metric", "prompt_length")), strict=True)
    timed = Counter(
        (case, metric, length)
        for case, block, metric, length in places
        if metric in ("ttft", "decode") and (case, block) not in foreign
    )
    rows = list(zip(*(referee.column(name) for name in referee.columns), strict=True))
    seen = [row[:3] for row in rows]
    for number, row in enumerate(rows, start=2):
        if fault := referee_fault(job, row, timed[row[:3]], seen.count(row[:3])):
            yield failed("referee", f"referee.csv row {number}: {fault}")
            return
    judged = {case for case, *_ in seen}
    if lost := next((place for place in timed if place[0] in judged and place not in seen), None):
        yield failed("referee", f"referee.csv has no row of {lost[0]}, {lost[1]} of {lost[2]} tokens")
        return
    yield ok("referee", f"all timed ids of {len(judged)} cases are judged, each once")


def foreign_in(status: Sheet | None) -> set[tuple[str, str]]:
    """Case and block, as text, where status.csv says that something else answered."""
    if status is None or "identity" not in status.columns:
        return set()
    rows = zip(*(status.column(name) for name in ("case", "block", "identity")), strict=True)
    return {(case, block) for case, block, identity in rows if identity.startswith(CONTRADICTED)}


def referee_fault(job: Job, row: tuple[str, ...], timed: int, times: int) -> str:
    """What is wrong with a row of referee.csv, empty when nothing is; `timed`: how many ids samples.csv has of it."""
    case, _, _, judged, likeliest, near, wrong, first, widest = row
    counts = [int(text) for text in (likeliest, near, wrong)]
    if case not in job.cases or not job.same_requests(case):
        return f"{case[:40]} has other requests than the baseline, or is no case of the run"
    if times > 1:
        return "there are two such rows"
    if int(judged) != timed:
        return f"{judged} ids are judged, and samples.csv has {timed}"
    if min(counts) < 0 or sum(counts) != timed:
        return f"{likeliest} likeliest, {near} near-ties and {wrong} wrong are not the {judged} judged"
    if bool(first) != (counts[2] > 0):
        return f"first_wrong is '{first}', and {wrong} are wrong"
    gap = float(widest)
    if gap < 0 or (gap > 1 and not counts[2]):
        return f"widest_gap is {widest}, with {near} near-ties and {wrong} wrong"
    return ""
