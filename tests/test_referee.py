"""The referee: the reference judges the timed ids of the other cases, each in the text that the case itself wrote."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import pytest

from harness.contract import Judged
from harness.job import Job
from harness.measure import referee
from harness.measure.prompts import prompt_for, timed_index
from harness.measure.referee import Sample
from harness.schema import REFERENCE
from tests.fakes import VOCABULARY, FakeCase, next_token

FAR, NEAR = 300, 1
"""By how much an id differs from the fake's likeliest: beyond a near-tie, and within one."""


@pytest.fixture
def job(make_job) -> Job:
    """The fake as reference and as the case that is judged."""
    made = make_job()
    fake = made.cases["fake"]
    return replace(made, cases={REFERENCE: fake, "other": fake})


def shifted(token: int, by: int) -> int:
    """Another id, as far away on whichever side there is room."""
    return token + by if token + by < VOCABULARY else token - by


def requests(job: Job, case: str, unlike: dict[tuple[int, int, int], int] | None = None) -> list[Sample]:
    """Timed requests; `unlike`: by how much the id of a block, length and iteration is another."""
    found = []
    for block in range(2):
        for length in job.sweep.prompt_lengths:
            for iteration in range(4):
                index = timed_index(job, "apart", block, iteration)
                token = next_token(prompt_for(job, case, "ttft", length, index))
                token = shifted(token, (unlike or {}).get((block, length, iteration), 0))
                found.append(Sample(case, block, "ttft", length, length, iteration, token, None))
    return found


def sequence(job: Job, case: str, block: int, unlike: dict[int, int], *, own_text: bool) -> list[Sample]:
    """Decode steps; `unlike`: by how much the id at a context is another. `own_text`: the case goes on with what it
    gave, and not with what it should have given."""
    text = prompt_for(job, case, "decode", job.sweep.decode_prompt_length, 0)
    given = next_token(text)
    text, found = [*text, given], []
    for context in range(job.sweep.decode_prompt_length, job.sweep.decode_context):
        right = next_token(text)
        token = shifted(right, unlike.get(context, 0))
        found.append(Sample(case, block, "decode", job.sweep.decode_prompt_length, context, 0, token, given))
        text.append(token if own_text else right)
        given = token
    return found


def judged(job: Job, samples: list[Sample]) -> tuple[dict[tuple[str, int], list[object]], list[referee.Text]]:
    """Rows by metric and length, and the texts that the fake was asked about."""
    asked: list[referee.Text] = []

    def judge(prompt, ids):
        asked.append((tuple(prompt), tuple(ids)))
        return FakeCase().judge(prompt, ids)

    answers = referee.answers_of(job, samples)
    texts = [one.text for own in answers.values() for one in own if one.text is not None and one.text[1]]
    found = referee.verdicts(list(dict.fromkeys(texts)), judge, lambda done: None)
    rows = list(referee.rows(job, answers, found))
    assert {row[0] for row in rows} <= {"other"}
    return {(str(row[1]), int(str(row[2]))): row[3:] for row in rows}, asked


@pytest.mark.parametrize(("gap", "counted"), [(0.339, (1, 0)), (0.340, (0, 1))])
def test_a_near_tie_is_four_deviations_of_a_difference_wide(gap, counted):
    tally = referee.Tally(0.02)
    tally.add(referee.Answer("ttft", 10, 7, (5,), ((1,), (5,))), [Judged(likeliest=4, gap=gap, rms=3.0)])
    assert (tally.near_ties, tally.wrong) == counted
    assert tally.widest == pytest.approx(gap / (4 * math.sqrt(2) * 0.02 * 3.0))


def test_ids_of_the_reference_itself_need_nobody_to_be_asked(job):
    found, asked = judged(job, [*requests(job, REFERENCE), *requests(job, "other")])
    assert found == {("ttft", length): [8, 8, 0, 0, None, "0"] for length in job.sweep.prompt_lengths}
    assert asked == []


def test_a_request_that_the_reference_does_not_have_is_judged_by_its_prompt(job):
    found, asked = judged(job, requests(job, "other"))
    assert found == {("ttft", length): [8, 8, 0, 0, None, "0"] for length in job.sweep.prompt_lengths}
    assert len(asked) == 8 * len(job.sweep.prompt_lengths)


def test_only_ids_that_differ_are_asked_about_and_the_first_wrong_one_is_named(job):
    unlike = {(0, 5, 2): NEAR, (1, 5, 3): FAR, (1, 5, 1): FAR}
    found, asked = judged(job, [*requests(job, REFERENCE), *requests(job, "other", unlike)])
    assert found["ttft", 5][:5] == [8, 5, 1, 2, 4 + 1]
    assert float(str(found["ttft", 5][5])) > 1
    assert found["ttft", 3][3] == found["ttft", 8][3] == 0
    assert len(asked) == 3


def test_a_near_tie_does_not_condemn_what_follows_it(job):
    steps = [*sequence(job, REFERENCE, 0, {}, own_text=True), *sequence(job, "other", 0, {5: NEAR}, own_text=True)]
    assert steps[2].token != steps[7].token, "behind it the two texts are others"
    found, _ = judged(job, steps)
    assert found["decode", 4][:5] == [5, 4, 1, 0, None]
    assert 0 < float(str(found["decode", 4][5])) <= 1


def test_an_id_that_the_case_did_not_go_on_with_is_wrong(job):
    found, _ = judged(job, sequence(job, "other", 0, {6: FAR}, own_text=False))
    assert found["decode", 4][:2] != [5, 5]
    assert found["decode", 4][4] == 6, "its own context"


def test_the_same_sequence_in_several_blocks_is_judged_once_and_counted_as_often(job):
    same = [one for block in range(3) for one in sequence(job, "other", block, {6: FAR}, own_text=True)]
    found, asked = judged(job, same)
    assert found["decode", 4][:5] == [15, 12, 0, 3, 6]
    assert len(asked) == 1


@pytest.mark.parametrize("bad", [-1, VOCABULARY])
def test_an_id_that_is_none_is_wrong_with_all_behind_it(job, bad):
    steps = sequence(job, "other", 0, {}, own_text=True)
    found, asked = judged(job, [one if one.context_length != 6 else one._replace(token=bad) for one in steps])
    assert found["decode", 4] == [5, 2, 0, 3, 6, "0"]
    assert [len(ids) for _, ids in asked] == [2]
    found, asked = judged(job, [steps[0]._replace(given=bad), *steps[1:]])
    assert (found["decode", 4][:5], asked) == ([5, 0, 0, 5, 4], [])


@pytest.mark.parametrize("seed", range(5))
def test_whatever_the_ids_every_one_is_counted_once(job, seed):
    draw = random.Random(seed)
    samples = [one._replace(token=draw.randrange(-3, VOCABULARY + 3)) if draw.random() < 0.4 else one
               for one in [*requests(job, "other"), *sequence(job, "other", 0, {}, own_text=True)]]  # fmt: skip
    draw.shuffle(samples)
    found, _ = judged(job, samples)
    for (metric, length), row in found.items():
        own = [one for one in samples if (one.metric, one.prompt_length) == (metric, length)]
        counts = [int(str(count)) for count in row[1:4]]
        assert sum(counts) == row[0] == len(own)
        assert (row[4] is None) == (counts[2] == 0)


@pytest.mark.parametrize("sampling", [{"strategy": "sample"}, {"strategy": "greedy", "repetition_penalty": 1.1}])
@pytest.mark.parametrize("of", [REFERENCE, "other"])
def test_ids_that_logits_alone_do_not_give_are_not_judged(job, sampling, of):
    assert referee.judged_cases(job) == ["other"]
    cases = {**job.cases, of: replace(job.cases[of], sampling=sampling)}
    assert referee.judged_cases(replace(job, cases=cases)) == []


def test_other_prompts_are_not_judged(job):
    other = replace(job.cases["other"], prompt="sentence")
    assert referee.judged_cases(replace(job, cases={**job.cases, "other": other})) == []
    assert referee.judged_cases(replace(job, cases={"other": other})) == []


def test_a_sequence_whose_first_id_nobody_knows_can_not_be_judged(job):
    steps = [one._replace(given=None) for one in sequence(job, "other", 0, {}, own_text=True)]
    with pytest.raises(ValueError, match="does not say which id the first step of other block 0 was given"):
        judged(job, steps)


@pytest.mark.parametrize("said", [[Judged(0, math.nan, 1.0)] * 5, [Judged(0, 1.0, math.inf)] * 5, []])
def test_a_reference_that_says_nothing_of_use_is_told(job, said):
    answers = referee.answers_of(job, sequence(job, "other", 0, {}, own_text=True))
    (one,) = answers["other"]
    assert one.text is not None
    with pytest.raises(ValueError, match=r"NaN or infinity|0 judgements of 5 ids"):
        list(referee.rows(job, answers, referee.verdicts([one.text], lambda *_: said, lambda done: None)))


def test_what_something_else_answered_is_neither_judged_nor_the_references_word(job, tmp_path, monkeypatch):
    job = replace(job, run_dir=str(tmp_path))
    samples = [*requests(job, REFERENCE), *requests(job, "other", {(1, 3, 0): FAR})]
    monkeypatch.setattr(referee, "read_samples", lambda path: samples)
    asked = []
    monkeypatch.setattr(referee, "ask", lambda job, texts, events: asked.append(texts) or {})
    events = object()
    (tmp_path / "status.csv").write_text(
        f"case,block,identity\nother,1,contradicted: by JIT\n{REFERENCE},1,proven: 3\n"
    )
    referee.judge(job, events)  # type: ignore[arg-type]
    rows = [line.split(",") for line in (tmp_path / "referee.csv").read_text().splitlines()[1:]]
    assert {tuple(row[3:7]) for row in rows} == {("4", "4", "0", "0")}, "the wrong id is another engine's"
    assert asked == []
    (tmp_path / "status.csv").write_text(f"case,block,identity\n{REFERENCE},0,contradicted: by JIT\n")
    referee.judge(job, events)  # type: ignore[arg-type]
    assert len(asked[0]) == 4 * len(job.sweep.prompt_lengths) + 1, "block 0 has no reference, block 1 one wrong id"
