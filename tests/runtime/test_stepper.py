"""`generate` token by token, without a model."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from cases.runtime.stepper import Stepper


class Token:
    """A token in host memory."""

    def __init__(self, value: int) -> None:
        self.value = value

    def item(self) -> int:
        return self.value


class Counting:
    """A `generate` of three tokens that keeps what it saw."""

    def __init__(self) -> None:
        self.threads: set[int] = set()
        self.done: list[str] = []

    def __call__(self, streamer: Any) -> None:
        try:
            for value in (-1, 0, 1, 2):  # the prompt comes first
                self.threads.add(threading.get_ident())
                streamer.put(Token(value))
            self.done.append("all")
            streamer.end()
        finally:
            self.done.append("left")


@pytest.fixture
def stepper() -> Stepper:
    return Stepper()


def test_tokens_come_one_by_one_on_the_callers_thread(stepper):
    counting = Counting()
    assert [stepper.start(counting), stepper.next(), stepper.next()] == [0, 1, 2]
    assert counting.threads == {threading.get_ident()}
    assert counting.done == [], "it rests behind its last token"


def test_no_thread_is_made(stepper):
    before = threading.active_count()
    stepper.start(Counting())
    assert threading.active_count() == before


def test_a_sequence_that_is_not_wanted_any_more_is_left_where_it_stands(stepper):
    first, second = Counting(), Counting()
    stepper.start(first)
    assert stepper.start(second) == 0
    assert first.done == ["left"]
    assert stepper.next() == 1
    stepper.abandon()
    stepper.abandon()
    assert second.done == ["left"]
    assert stepper.start(Counting()) == 0


def test_more_tokens_than_there_are_end_in_an_error_and_go_on_doing_so(stepper):
    counting = Counting()
    stepper.start(counting)
    stepper.next()
    stepper.next()
    with pytest.raises(RuntimeError, match="given all the tokens"):
        stepper.next()
    assert counting.done == ["all", "left"]
    with pytest.raises(RuntimeError, match="no more tokens"):
        stepper.next()
    stepper.abandon()
    assert stepper.start(Counting()) == 0


def test_without_a_sequence_there_is_no_token(stepper):
    with pytest.raises(RuntimeError, match="no sequence"):
        stepper.next()


@pytest.mark.parametrize("place", [0, 1, 2])
def test_what_generate_raises_comes_to_who_asked_for_the_token(stepper, place):
    def breaks(streamer: Any) -> None:
        streamer.put(Token(-1))
        for value in range(3):
            if value == place:
                raise ValueError("broken")
            streamer.put(Token(value))

    def ask() -> None:
        stepper.start(breaks)
        for _ in range(3):
            stepper.next()

    with pytest.raises(ValueError, match="broken"):
        ask()
    assert stepper.start(Counting()) == 0


def test_an_interrupt_inside_generate_ends_the_sequence(stepper):
    def interrupted(streamer: Any) -> None:
        streamer.put(Token(-1))
        streamer.put(Token(0))
        raise KeyboardInterrupt

    stepper.start(interrupted)
    with pytest.raises(KeyboardInterrupt):
        stepper.next()
    stepper.abandon()
    assert stepper.start(Counting()) == 0
