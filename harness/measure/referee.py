"""The referee: the reference judges the very ids that other cases' timed requests gave, each in its own context.

Where ids of two engines differ once, all behind are answers to another text, and can't be compared. So the text that a
case wrote is given to the reference, and each id of it must be the likeliest there or a near-tie of it. Standard
library alone: a worker may run this under another interpreter.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby, takewhile
from pathlib import Path
from typing import NamedTuple

from harness.contract import Judged
from harness.disk import write_aside
from harness.foreign import foreign_blocks
from harness.job import Job
from harness.loader import load_case
from harness.measure.preparing import heard
from harness.measure.prompts import prompt_for, timed_index
from harness.measure.sink import Events
from harness.schema import REFEREE, REFERENCE

NEAR_TIE = 4.0 * math.sqrt(2.0)
"""The widest gap of a near-tie, in units of the tolerance times the RMS of the logits. Where each logit is off by the
tolerance times the RMS, the difference of two is off by sqrt(2) of that; four of those, because thousands of ids are
judged: with errors of half the tolerance and 32,000 normal logits, one id in 20,000 is beyond twice the tolerance."""
Text = tuple[tuple[int, ...], tuple[int, ...]]
"""A prompt, and the ids behind it that are judged."""
Judge = Callable[[Sequence[int], Sequence[int]], list[Judged]]
"""See Case.judge."""
Progress = Callable[[int], None]
"""Called with how many texts are judged."""


class Sample(NamedTuple):
    """What of a row of samples.csv is read here; `given` is None where the row has none."""

    case: str
    block: int
    metric: str
    prompt_length: int
    context_length: int
    iteration: int
    token: int
    given: int | None


class Answer(NamedTuple):
    """Ids of one case: of a timed request one, of a decode sequence those of its steps.

    `place`: of the first id, as referee.csv counts them. `text`: None where the reference itself gave the same id to
    the same prompt, so that nobody has to be asked.
    """

    metric: str
    prompt_length: int
    place: int
    ids: tuple[int, ...]
    text: Text | None


class Tally:
    """A row of referee.csv in the making."""

    def __init__(self, tolerance: float) -> None:
        self._tolerance = tolerance
        self.judged = self.likeliest = self.near_ties = self.wrong = 0
        self.first_wrong: int | None = None
        self.widest = 0.0

    def add(self, answer: Answer, found: Sequence[Judged] | None) -> None:
        """Count the ids of an answer; those behind the last judgement are wrong, as they are none of the vocabulary or
        stand behind one that is none."""
        self.judged += len(answer.ids)
        if found is None:
            self.likeliest += len(answer.ids)
            return
        for place, (token, one) in enumerate(zip(answer.ids, found, strict=False), start=answer.place):
            self._count(place, token, one)
        lost = len(answer.ids) - len(found)
        if lost:
            self._wrong(answer.place + len(found), lost)

    def _count(self, place: int, token: int, found: Judged) -> None:
        if not (math.isfinite(found.gap) and math.isfinite(found.rms)):
            raise ValueError(f"the logits of {REFERENCE} hold NaN or infinity")
        allowed = NEAR_TIE * self._tolerance * found.rms
        if found.gap:
            self.widest = max(self.widest, found.gap / allowed)
        if token == found.likeliest:
            self.likeliest += 1
        elif found.gap <= allowed:
            self.near_ties += 1
        else:
            self._wrong(place, 1)

    def _wrong(self, place: int, count: int) -> None:
        self.wrong += count
        self.first_wrong = place if self.first_wrong is None else min(self.first_wrong, place)

    def row(self) -> list[object]:
        """The columns of schema.REFEREE behind the first three."""
        return [self.judged, self.likeliest, self.near_ties, self.wrong, self.first_wrong, f"{self.widest:.6g}"]


def judged_cases(job: Job) -> list[str]:
    """Cases whose timed ids the reference may judge: its requests, greedy like it, by logits that nothing changed.

    None in a workload of random lengths, which has no reference.
    """
    if job.sweep.workload != "latency":
        return []
    plain = [name for name in job.cases if job.sampling_of(name).repetition_penalty == 1.0]
    return [name for name in plain if name != REFERENCE and REFERENCE in plain and job.same_requests(name)]


def read_samples(path: Path) -> list[Sample]:
    """The timed requests and decode steps of samples.csv. Raises ValueError on a row that has no such numbers."""
    with path.open(encoding="utf-8", newline="") as file:
        return [sample_of(row) for row in csv.DictReader(file) if row["metric"] in ("ttft", "decode")]


def sample_of(row: dict[str, str]) -> Sample:
    """A row of samples.csv."""
    length, context, iteration, token = (
        int(row[name]) for name in ("prompt_length", "context_length", "iteration", "token_id")
    )
    given = int(row["given_token_id"]) if row.get("given_token_id") else None
    return Sample(row["case"], int(row["block"]), row["metric"], length, context, iteration, token, given)


def requests(job: Job, case: str, samples: Sequence[Sample]) -> Iterator[Answer]:
    """The answers to timed requests; request 0 is the first of its length, counted over blocks."""
    timed = [one for one in samples if one.metric == "ttft"]
    known = {one[1:6]: one.token for one in timed if one.case == REFERENCE}
    own = sorted(one for one in timed if one.case == case)
    for length in sorted({one.prompt_length for one in own}):
        for place, one in enumerate(one for one in own if one.prompt_length == length):
            text = None if known.get(one[1:6]) == one.token else (prompt_of(job, one), (one.token,))
            yield Answer("ttft", length, place, (one.token,), text)


def prompt_of(job: Job, one: Sample) -> tuple[int, ...]:
    """The prompt of a timed request or a decode sequence."""
    index = one.iteration
    if one.metric == "ttft":
        index = timed_index(job, job.cases[one.case].warmup, one.block, one.iteration)
    return tuple(prompt_for(job, one.case, one.metric, one.prompt_length, index))


def sequences(job: Job, case: str, samples: Sequence[Sample]) -> Iterator[Answer]:
    """The decode sequences, by the context of their first step. The id that it was given is part of the prompt.

    Raises ValueError where the samples do not say what that was.
    """
    own = [one for one in samples if one.case == case and one.metric == "decode"]
    own.sort(key=lambda one: (one.block, one.iteration, one.context_length))
    for (block, _), group in groupby(own, key=lambda one: (one.block, one.iteration)):
        first, *rest = group
        if first.given is None:
            raise ValueError(f"samples.csv does not say which id the first step of {case} block {block} was given")
        ids = (first.token, *(one.token for one in rest))
        text = ((*prompt_of(job, first), first.given), ids)
        yield Answer("decode", first.prompt_length, first.context_length, ids, text)


def within(answer: Answer, vocabulary: int) -> Answer:
    """An answer whose text ends before the first id that is none of the vocabulary: nothing can be judged behind it."""
    if answer.text is None:
        return answer
    prompt, ids = answer.text
    known = takewhile(lambda token: 0 <= token < vocabulary, (prompt[-1], *ids))
    return answer._replace(text=(prompt, tuple(known)[1:]))


def answers_of(job: Job, samples: Sequence[Sample]) -> dict[str, list[Answer]]:
    """What each judged case answered; cases without a sample are left out."""
    answers = {case: [*requests(job, case, samples), *sequences(job, case, samples)] for case in judged_cases(job)}
    return {case: [within(one, job.vocab_size) for one in own] for case, own in answers.items() if own}


def verdicts(texts: Sequence[Text], judge: Judge, progress: Progress) -> dict[Text, list[Judged]]:
    """What the reference says of each text, each asked for once. Raises ValueError on another number of judgements."""
    found: dict[Text, list[Judged]] = {}
    for done, (prompt, ids) in enumerate(texts, start=1):
        said = judge(prompt, ids)
        if len(said) != len(ids):
            raise ValueError(f"{REFERENCE} gave {len(said)} judgements of {len(ids)} ids")
        found[prompt, ids] = said
        progress(done)
    return found


def rows(job: Job, answers: dict[str, list[Answer]], found: dict[Text, list[Judged]]) -> Iterator[list[object]]:
    """Rows of referee.csv: one a case, metric and prompt length."""
    for case, own in answers.items():
        tallies: dict[tuple[str, int], Tally] = {}
        for answer in own:
            tally = tallies.setdefault((answer.metric, answer.prompt_length), Tally(job.sweep.tolerance))
            tally.add(answer, None if answer.text is None else found.get(answer.text, []))
        for (metric, length), tally in tallies.items():
            yield [case, metric, length, *tally.row()]


def judge(job: Job, events: Events) -> dict[str, int]:
    """Write the run's referee.csv, whole or not at all; how many different texts the reference was given.

    What something else answered in a case's name is neither judged nor, under the reference's, held for its word.
    """
    folder = Path(job.run_dir)
    foreign = foreign_blocks(folder / "status.csv")
    samples = [one for one in read_samples(folder / "samples.csv") if (one.case, one.block) not in foreign]
    answers = answers_of(job, samples)
    texts = [one.text for own in answers.values() for one in own if one.text is not None and one.text[1]]
    asked = list(dict.fromkeys(texts))
    found = ask(job, asked, events) if asked else {}
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows([REFEREE, *rows(job, answers, found)])
    write_aside(folder / "referee.csv", text.getvalue())
    return {"texts": len(asked)}


def ask(job: Job, texts: Sequence[Text], events: Events) -> dict[Text, list[Judged]]:
    """Load the reference in this process, whatever its transport, and have it judge the texts."""
    case = load_case(job.cases[REFERENCE].target)()
    try:
        events.send("stage", stage="load")
        with heard(case, lambda phase: events.send("stage", stage=phase)):
            case.prepare(job.plan(REFERENCE))
        events.send("stage", stage="judge")
        return verdicts(
            texts, case.judge, lambda done: events.send("progress", stage="judge", done=done, total=len(texts))
        )
    finally:
        case.close()
