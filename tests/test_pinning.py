"""Which CPUs a request's threads are kept on, with a host whose cores are as quick as the test says."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Collection, Iterator
from dataclasses import replace

import pytest

from harness.measure import pinning
from harness.measure.pinning import ENGINE_NS, MOST_CPUS, SHARE, Pinning, Unpinned, pinned, reading_us

ENGINE = 4711
QUICK, SLOW = 2.0, 3.6
READING_NS = 150_000


class Host:
    """Cores with a speed each, two of them halves of one where `halves` says so, and who runs where."""

    def __init__(self, speeds: dict[int, float], halves: dict[int, int] | None = None) -> None:
        self.speeds, self.halves = speeds, halves or {}
        self.places: dict[int, int] = {0: -1, ENGINE: -2}
        self.now, self.readings, self.ended = 0, 0, False

    def move(self, thread: int, cpus: Collection[int]) -> None:
        if thread == ENGINE and self.ended:
            raise ProcessLookupError
        (self.places[thread],) = cpus

    def reading(self) -> float:
        here, there = self.places[0], self.places[ENGINE]
        assert here != there, "who reads a core shares it with the engine"
        self.now += READING_NS
        self.readings += 1
        return self.speeds[here] * (1.8 if self.halves.get(here) == there else 1.0)

    def pinning(self, engine: int | None = None) -> Pinning:
        return Pinning(
            sorted(self.speeds), {}, engine, move=self.move, reading=self.reading, clock=lambda: self.now
        )  # fmt: skip


def host(*slow: int, count: int = 6) -> Host:
    return Host({cpu: SLOW if cpu in slow else QUICK for cpu in range(count)})


def test_the_first_check_takes_a_quick_core_and_stays_while_it_is_quick():
    machine = host(0, 1, 2, 4)
    subject = machine.pinning()
    subject.check()
    assert machine.places[0] in (3, 5)
    taken, read = machine.places[0], machine.readings
    for _ in range(100):
        machine.now += 10**8
        subject.check()
    assert (machine.places[0], subject.looks, subject.moves) == (taken, 1, 0)
    assert machine.readings == read + 100, "one reading, of the core at hand, tells that all is well"


def test_a_core_that_a_neighbour_has_taken_is_left():
    machine = host(0, 1, 2, 4)
    subject = machine.pinning()
    subject.check()
    taken = machine.places[0]
    machine.speeds[taken] = SLOW
    machine.now += 10**9
    read = machine.readings
    subject.check()
    assert machine.readings == read + 2, "its own, then that of the first that may be quick, which is"
    assert machine.places[0] == ({3, 5} - {taken}).pop()
    assert str(subject) == "quickest of 6 CPUs, 1 moves in 2 looks"


def test_where_no_core_is_quick_any_more_looks_take_a_twentieth_of_the_time():
    machine = host()
    subject = machine.pinning()
    subject.check()
    machine.speeds = dict.fromkeys(machine.speeds, SLOW)
    began, before = machine.now, machine.readings
    while machine.now < began + 10**9:
        machine.now += 10**6  # a request
        subject.check()
    looked = (subject.looks - 1) * len(machine.speeds) * READING_NS  # none is quick: each is asked
    assert 0.8 / (SHARE + 1) < looked / (machine.now - began) <= 1 / (SHARE + 1) + 0.001
    assert machine.readings > before


def test_of_cores_that_are_quick_now_the_one_that_was_before_is_taken():
    machine = Host({0: SLOW, 1: SLOW, 2: SLOW, 3: 2.1, 4: SLOW, 5: QUICK})
    subject = machine.pinning()
    subject.check()
    assert machine.places[0] == 5
    machine.speeds |= {2: QUICK, 5: SLOW}  # the second is the quickest, and was slow a second ago
    machine.now += 10**9
    subject.check()
    assert machine.places[0] == 3


def test_the_engine_has_the_first_choice_and_who_asks_the_next():
    machine = Host({0: SLOW, 1: SLOW, 2: 2.2, 3: SLOW, 4: QUICK, 5: SLOW})
    machine.pinning(ENGINE).check()
    assert machine.places == {0: 2, ENGINE: 4}


def test_who_asks_is_not_put_on_the_other_half_of_the_engines_core():
    halves = {0: 1, 1: 0, 2: 3, 3: 2, 4: 5, 5: 4}
    machine = Host({0: SLOW, 1: SLOW, 2: 2.3, 3: SLOW, 4: QUICK, 5: 2.1}, halves)
    machine.pinning(ENGINE).check()
    assert machine.places == {0: 2, ENGINE: 4}


def test_without_a_second_quick_core_who_asks_has_the_best_of_the_rest():
    machine = Host({0: SLOW, 1: SLOW, 2: SLOW - 0.3, 3: SLOW, 4: QUICK, 5: SLOW})
    machine.pinning(ENGINE).check()
    assert machine.places == {0: 2, ENGINE: 4}


def test_an_engine_whose_core_got_slow_is_moved_within_a_tenth_of_a_second():
    machine = host(0, 1)
    subject = machine.pinning(ENGINE)
    subject.check()
    mine, theirs = machine.places[0], machine.places[ENGINE]
    machine.speeds[theirs] = SLOW
    began = machine.now
    while machine.places[ENGINE] == theirs:
        machine.now += 10**6
        subject.check()
        assert machine.now - began < ENGINE_NS + 10**7
    assert machine.places[ENGINE] not in (theirs, machine.places[0])
    assert {mine, theirs} & set(machine.places.values()) <= {mine}
    assert subject.moves == 1


def test_an_engine_on_a_quick_core_stays_when_only_who_asks_has_to_move():
    machine = host(0, 1)
    subject = machine.pinning(ENGINE)
    subject.check()
    mine, theirs = machine.places[0], machine.places[ENGINE]
    machine.speeds[mine] = SLOW
    machine.now += 10**9
    subject.check()
    assert machine.places[ENGINE] == theirs
    assert machine.places[0] not in (0, 1, mine, theirs)


def test_the_engine_steps_aside_for_a_look_and_returns():
    machine = host(0, 1)
    subject = machine.pinning(ENGINE)
    subject.check()
    places = dict(machine.places)
    machine.now += 10**9
    before = machine.readings
    subject.check()
    assert machine.readings == before + 2, "its own core, then the engine's"
    assert (machine.places, subject.looks) == (places, 1)


def test_an_engine_that_has_ended_is_left_for_its_next_request_to_tell():
    machine = host()
    subject = machine.pinning(ENGINE)
    subject.check()
    machine.ended = True
    machine.places[ENGINE] = -2
    machine.speeds = dict.fromkeys(machine.speeds, SLOW)
    machine.now += 10**9
    subject.check()
    assert subject.looks == 2


@pytest.mark.parametrize("engine", [None, ENGINE])
def test_where_a_core_has_gone_the_threads_are_let_go_for_good_and_that_is_said(engine):
    machine = host()
    freed = []

    def move(thread: int, cpus: Collection[int]) -> None:
        if len(cpus) > 1:
            freed.append((thread, set(cpus)))
        elif 3 in cpus:
            raise OSError(22, "Invalid argument")
        else:
            machine.move(thread, cpus)

    free = {thread: set(range(6)) for thread in (0, engine) if thread is not None}
    subject = Pinning(range(6), free, engine, move=move, reading=machine.reading, clock=lambda: machine.now)
    subject.check()
    assert freed == list(free.items())
    assert str(subject) == "quickest of 6 CPUs, 0 moves in 0 looks, stopped: [Errno 22] Invalid argument"
    places, read = dict(machine.places), machine.readings
    subject.check()
    assert (machine.places, machine.readings) == (places, read)


def test_the_engine_steps_aside_to_another_core_than_the_one_that_is_read():
    halves = {cpu: cpu ^ 1 for cpu in range(6)}
    machine = Host(dict.fromkeys(range(6), QUICK), halves)
    subject = machine.pinning(ENGINE)
    subject.check()
    places = dict(machine.places)
    for _ in range(5):
        machine.now += 10**9
        subject.check()
    assert (machine.places, subject.looks, subject.moves) == (places, 1, 0)


def test_both_threads_have_their_cpus_again_even_where_one_can_not_be_asked(make_job, monkeypatch):
    places = {0: set(range(8)), ENGINE: {4, 5, 6, 7}}

    def move(thread: int, cpus: Collection[int]) -> None:
        if thread == 0 and refused:
            raise PermissionError
        places[thread] = set(cpus)

    refused = False
    monkeypatch.setattr(pinning.os, "sched_getaffinity", places.__getitem__)
    monkeypatch.setattr(Pinning.__init__, "__kwdefaults__", {**Pinning.__init__.__kwdefaults__, "move": move})
    with pinned(on(make_job()), "fake", ENGINE, []) as subject:
        subject.check()
        assert (len(places[0]), len(places[ENGINE])) == (1, 1)
    assert places == {0: set(range(8)), ENGINE: {4, 5, 6, 7}}
    with pinned(on(make_job()), "fake", ENGINE, []) as subject:
        subject.check()
        refused = True
    assert places[ENGINE] == {4, 5, 6, 7}


def test_of_very_many_cores_some_are_looked_at_evenly_spread():
    machine = host(count=3 * MOST_CPUS + 1)
    subject = machine.pinning()
    subject.check()
    assert machine.readings == len(range(0, 3 * MOST_CPUS + 1, 4)) + 1, "each, then the one that is taken"
    assert str(subject).startswith("quickest of 49 CPUs")


def test_a_reading_is_that_of_a_lap():
    assert 0 < reading_us() < 10_000


@pytest.fixture
def free() -> Iterator[set[int]]:
    """The CPUs of this process, given back whatever the test did."""
    cpus = os.sched_getaffinity(0)
    yield cpus
    os.sched_setaffinity(0, cpus)


def on(job, device="cuda", how="quickest"):
    return replace(job, device=device, cases={"fake": replace(job.cases["fake"], pinning=how)})


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="there is nothing to choose from")
def test_this_thread_is_on_one_core_and_has_all_again_behind_it(make_job, monkeypatch, free):
    monkeypatch.setattr(pinning, "LEAST_CPUS", 2)
    seen = []

    def fail() -> None:
        with pinned(on(make_job()), "fake", None, []) as subject:
            seen.append(os.sched_getaffinity(0))
            subject.check()
            seen.append(os.sched_getaffinity(0))
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert seen[0] == free, "nothing is moved before the first check"
    assert len(seen[1]) == 1
    assert os.sched_getaffinity(0) == free


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 4, reason="four CPUs are the least")
def test_an_engine_in_another_process_is_kept_too_and_let_go(make_job, free):
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as server:
        with pinned(on(make_job()), "fake", server.pid, []) as subject:
            subject.check()
            ours, theirs = os.sched_getaffinity(0), os.sched_getaffinity(server.pid)
            assert (len(ours), len(theirs), ours & theirs) == (1, 1, set())
        assert os.sched_getaffinity(server.pid) == os.sched_getaffinity(0) == free
        server.stdin.close()


def test_only_the_gpus_part_of_the_machine_is_looked_at_where_it_is_known(make_job, monkeypatch, free):
    monkeypatch.setattr(pinning.os, "sched_getaffinity", lambda _thread: {0, *range(2, 9)})
    with pinned(on(make_job()), "fake", None, [1, 2, 3, 4, 5]) as subject:
        assert str(subject) == "quickest of 4 CPUs, 0 moves in 0 looks"
    for unknown in ([], [100, 101]):
        with pinned(on(make_job()), "fake", None, unknown) as subject:
            assert str(subject) == "quickest of 8 CPUs, 0 moves in 0 looks"
    with pinned(on(make_job()), "fake", None, [1, 2, 3]) as subject:
        assert str(subject) == "none: 2 CPUs are near the GPU, and 4 are needed"


@pytest.mark.parametrize(
    ("device", "how", "least", "said"),
    [
        ("cuda", "none", 1, "none: the procedure says so"),
        ("cpu", "quickest", 1, "none: on the CPU a request has as many threads as there are cores"),
        ("cuda", "quickest", 10_000, f"none: {len(os.sched_getaffinity(0))} CPUs are here, and 10000 are needed"),
    ],
)
def test_why_nothing_is_kept_is_said(make_job, monkeypatch, free, device, how, least, said):
    monkeypatch.setattr(pinning, "LEAST_CPUS", least)
    with pinned(on(make_job(), device, how), "fake", None, []) as subject:
        subject.check()
        assert isinstance(subject, Unpinned)
        assert (str(subject), os.sched_getaffinity(0)) == (said, free)
