"""`python -m harness validate` where sweep.p99_iterations=auto gave the clock a say in how many requests there are."""

from __future__ import annotations

import random
import shutil
from collections import Counter
from collections.abc import Callable
from itertools import accumulate, count
from pathlib import Path

import pytest

from harness.measure.loop import Block
from harness.output import manifest
from harness.stored.command import validate
from harness.stored.planned import Nothing, Places, timed_places
from harness.stored.stops import unlike_stops
from tests import runs
from tests.damage import Spoil, both, failures, forget_digests, lines, put

AUTO = ("sweep.prompt_lengths=[10,20]", "sweep.p99_iterations=auto", "sweep.pause_ms=0")
NARROW = "sweep.p99_width=0.001"
"""So that the budget ends every block."""
SAMPLES, STOPS = "samples.csv", "p99_stops.csv"


def said(folder):
    """Lines on requests that don't hold, or the one that says that they do."""
    lines = [line for line in validate(folder) if line.name == "requests"]
    assert len(lines) == 1 or all(line.state == "FAILED" for line in lines)
    return [(line.state, line.text) for line in lines]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run whose blocks ended when their budget was used up."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    assert runs.execute_in(folder, *AUTO, NARROW, "sweep.p99_budget_s=0.05") == 0
    return folder


@pytest.fixture
def copy(whole, tmp_path):
    """The same without digests, which see every edit."""
    folder = shutil.copytree(whole, tmp_path / "run")
    forget_digests(folder)
    return folder


def test_a_run_of_today_holds(whole):
    assert failures(whole) == []
    (line,) = said(whole)
    assert line[0] == "ok"
    assert line[1].endswith(" each of the plan once, in its order, as many timed ones as p99_stops.csv says")


def test_a_budget_that_ends_before_any_p99_leaves_a_run_that_holds(tmp_path):
    folder = tmp_path / "run"
    assert runs.execute_in(folder, *AUTO, "sweep.p99_budget_s=0.001") == 0
    assert ",inf,budget" in (folder / STOPS).read_text()
    assert failures(folder) == []


def without(metric: str, number: int) -> Spoil:
    """The first block loses a sample."""

    def spoil(rows: list[str]) -> list[str]:
        found = [row for row in rows if row.split(",")[2] == metric]
        return [row for row in rows if row != found[number]]

    return lines(SAMPLES, spoil)


def swapped(metric: str) -> Spoil:
    """The first two of the first block, with their times, so that nothing but their place tells."""

    def spoil(rows: list[str]) -> list[str]:
        first = next(number for number, row in enumerate(rows) if row.split(",")[2] == metric)
        one, other = (rows[at].split(",") for at in (first, first + 1))
        one[3:6], other[3:6] = other[3:6], one[3:6]
        return [*rows[:first], ",".join(one), ",".join(other), *rows[first + 2 :]]

    return lines(SAMPLES, spoil)


def stops(number: int, by: int) -> Spoil:
    """A row of p99_stops.csv says more or less."""

    def spoil(rows: list[str]) -> list[str]:
        fields = rows[number].split(",")
        fields[3] = str(int(fields[3]) + by)
        return [*rows[:number], ",".join(fields), *rows[number + 1 :]]

    return lines(STOPS, spoil)


def lost_and_said_so(folder: Path) -> None:
    """A timed request of many, and p99_stops.csv says one less of its length."""
    row = next(row for row in runs.samples(folder, "fake") if row["metric"] == "ttft")
    own = [("fake", row["prompt_length"]) == (one[0], one[2]) for one in rows_of(folder / STOPS)]
    without("ttft", 0)(folder)
    stops(own.index(True), -1)(folder)


def rows_of(path: Path) -> list[list[str]]:
    return [line.split(",") for line in path.read_text().splitlines()]


SPOILT: dict[str, tuple[Spoil, str]] = {
    "no cold request": (without("cold", 0), "samples, and "),
    "a decode step lost": (without("decode", 3), "samples, and "),
    "a decode step renumbered": (put(SAMPLES, -2, "iteration", "9"), "lacks the sample decode of 19 tokens"),
    "decode steps in another order": (swapped("decode"), "where the plan has decode of 10 tokens"),
    "a cold request of another length": (
        both(*(put(SAMPLES, 1, column, "9") for column in ("prompt_length", "context_length"))),
        "lacks the sample cold of ",
    ),
    "a cold request that is no first": (put(SAMPLES, 1, "iteration", "1"), "lacks the sample cold of "),
    "a timed request renumbered": (put(SAMPLES, 2, "iteration", "99"), "lacks the sample ttft of "),
    "timed requests in another order": (swapped("ttft"), "where the plan has ttft of "),
    "a timed request lost": (without("ttft", 0), " tokens, and p99_stops.csv says "),
    "a timed request lost and said so": (lost_and_said_so, "lacks the sample ttft of "),
    "more requests said": (stops(1, 1), "tokens, and p99_stops.csv says "),
    "fewer requests said": (stops(2, -1), "tokens, and "),
    "fewer than the plan's least": (stops(1, -10_000), "tokens, and the plan has from 3 to 10000"),
    "many more than may be": (stops(1, 10**15), "tokens, and the plan has from 3 to 10000"),
    "nothing said of a length": (lines(STOPS, lambda rows: [rows[0], *rows[2:]]), " tokens in p99_stops.csv"),
    "a length said twice": (lines(STOPS, lambda rows: [*rows, rows[1]]), " tokens a second time"),
    "a length beyond the plan": (put(STOPS, 1, "prompt_length", "11"), "11 tokens, which are not in the plan"),
    "a block beyond the plan": (put(STOPS, 1, "block", "7"), "block 7 of fake, which by status.csv measured nothing"),
    "nothing said at all": (lambda folder: (folder / STOPS).unlink(), "and there is no p99_stops.csv to say"),
}


@pytest.mark.parametrize("kind", SPOILT)
def test_requests_are_those_of_the_plan_though_the_clock_had_a_say(copy, kind):
    spoil, words = SPOILT[kind]
    assert failures(copy) == []
    spoil(copy)
    assert [state for state, text in said(copy) if words in text] == ["FAILED"], said(copy)


def test_a_block_beyond_the_plan_that_measured_ends_in_sentences(copy):
    """In every file, so that only the plan does not have it."""
    for name in ("status.csv", SAMPLES, STOPS):
        lines(name, lambda rows: [row.replace("fake,", "intruder,") for row in rows])(copy)
    assert {"blocks", "samples"} <= {line.name for line in failures(copy)}


def test_a_run_that_was_killed_before_any_block_said_how_many_requests_it_has_is_not_damaged(copy):
    manifest.resumed(copy / "manifest.json", "2026-01-01T00:00:00+00:00")
    for name in ("status", "samples"):
        path = copy / f"{name}.csv"
        path.write_text(path.read_text().splitlines(keepends=True)[0])
    for name in ("p99_stops", "ttft", "p99", "decode", "equivalence", "identity", "captures"):
        (copy / f"{name}.csv").unlink(missing_ok=True)
    assert failures(copy) == []
    ((state, text),) = said(copy)
    assert (state, "no block ended well" in text) == ("note", True)


def broken(tmp_path_factory, place: str, after: int):
    """A run in which `other` fails at such a call, long before its budget is used up."""
    folder = tmp_path_factory.mktemp(place) / "run"
    failing = ("cases.other.fail=error", f"cases.other.fail_at={place}", f"cases.other.fail_after={after}")
    assert runs.execute_in(folder, *AUTO, NARROW, "sweep.p99_budget_s=0.3", *failing) != 0
    assert [row["state"] for row in runs.status(folder).values()].count("failed") == 1
    forget_digests(folder)
    return folder


@pytest.fixture(scope="module")
def between(tmp_path_factory):
    """Failed among the timed requests."""
    return broken(tmp_path_factory, "prefill", 30)


@pytest.fixture(scope="module")
def behind(tmp_path_factory):
    """Failed among the decode steps, when p99_stops.csv had its row."""
    return broken(tmp_path_factory, "decode", 15)


def test_a_block_that_failed_has_the_first_requests_of_the_plan(between, behind):
    assert failures(between) == failures(behind) == []
    assert "other" not in (between / STOPS).read_text()
    assert Counter(row["metric"] for row in runs.samples(between, "other"))["ttft"] > 8
    assert "other" in (behind / STOPS).read_text()
    assert 0 < Counter(row["metric"] for row in runs.samples(behind, "other"))["decode"] < 10


FAILED_ONES: dict[str, tuple[str, Callable[[list[str]], list[str]]]] = {
    "no cold request": ("between", lambda rows: rows[1:]),
    "a request lost": ("between", lambda rows: [*rows[:4], *rows[5:]]),
    "a request twice": ("between", lambda rows: [*rows[:4], rows[3], *rows[4:]]),
    "a decode step before anybody said that requests were over": (
        "between",
        lambda rows: [*rows, rows[-1].replace(",ttft,", ",decode,")],
    ),
    "a request too few before decode steps": (
        "behind",
        lambda rows: [row for row in rows if row != next(one for one in rows if ",ttft," in one)],
    ),
    "a decode step left out": ("behind", lambda rows: [*rows[:-2], rows[-1]]),
    "a request more than was said": (
        "behind",
        lambda rows: [*rows, next(one for one in rows if ",ttft," in one)],
    ),
}


@pytest.mark.parametrize("kind", FAILED_ONES)
def test_and_no_others(request, tmp_path, kind):
    which, how = FAILED_ONES[kind]
    folder = shutil.copytree(request.getfixturevalue(which), tmp_path / "run")
    first = (folder / "status.csv").read_text().splitlines()[1]
    rows = (folder / SAMPLES).read_text().splitlines(keepends=True)
    own, others = ([row for row in rows[1:] if (row[:6] == "other,") is mine] for mine in (True, False))
    blocks = [how(own), others] if first.startswith("other,") else [others, how(own)]
    (folder / SAMPLES).write_text("".join([rows[0], *blocks[0], *blocks[1]]))
    assert [state for state, _ in said(folder)] == ["FAILED"]


class Stopping(Places):
    """Keeps why requests ended, too."""

    def stops(self, found):
        self.told = {stop.prompt_length: stop.n for stop in found}


@pytest.mark.parametrize("seed", range(4))
def test_the_order_is_that_of_the_loop_where_lengths_end_one_by_one(make_job, seed):
    job = make_job(seed=seed, p99_iterations="auto", p99_width=0.5, p99_budget_s=60.0)
    draw, sink = random.Random(seed), Stopping()
    times = accumulate(round(1e6 * draw.lognormvariate(0, 0.7)) for _ in count())
    Block(job, "fake", 1, Nothing(), sink, clock=lambda: next(times), pause=lambda *_: None).measure()
    assert len(set(sink.told.values())) > 1, "else this shows nothing of lengths that end one by one"
    assert timed_places(job, "fake", 1, sink.told) == sink.found
    assert unlike_stops(job, ("fake", 1), "ok", sink.found, sink.told) == ""
    for end in (0, 1, 5, 100, len(sink.found) // 2, len(sink.found) - 10):
        assert unlike_stops(job, ("fake", 1), "failed", sink.found[:end], {}) == "", "killed at any time"
        assert unlike_stops(job, ("fake", 1), "failed", sink.found[:end], sink.told) == ""
