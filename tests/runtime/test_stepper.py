"""`generate` token by token, and what is done beside a token, without a model."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from cases.runtime.stepper import Stepper

LONG_S = 20


class Token:
    """A token in host memory."""

    def __init__(self, value: int) -> None:
        self.value = value

    def item(self) -> int:
        return self.value


def counting(streamer: Any) -> None:
    """A `generate` of three tokens."""
    for value in (-1, 0, 1, 2):  # the prompt comes first
        streamer.put(Token(value))
    streamer.end()


def soon(work: Callable[[], object]) -> None:
    """Do what may hang, on a thread that the test can leave behind."""
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(LONG_S)
    assert not thread.is_alive(), "it hangs"


@pytest.fixture
def stepper() -> Iterator[Stepper]:
    made = Stepper()
    yield made
    soon(made.close)


def broken() -> float:
    raise ValueError("broken")


def test_what_is_raised_beside_a_token_comes_to_the_caller_and_ends_nothing(stepper):
    found: list[Any] = []

    def sequence() -> None:
        found.append(stepper.start(counting))
        try:
            stepper.beside(broken)
        except ValueError as error:
            found.append(str(error))
        found.extend([stepper.beside(lambda: 0.5), stepper.next(), stepper.next()])

    soon(sequence)
    assert found == [0, "broken", 0.5, 1, 2]


def test_a_signal_before_the_work_beside_a_token_is_let_go_leaves_a_stepper_that_closes(stepper):
    stepper.start(counting)
    stepper._aside = lambda: 0.0  # and the signal's exception came before the permit
    soon(stepper.abandon)


def test_what_a_signal_left_of_the_work_beside_a_token_is_not_taken_for_the_next(stepper):
    stepper.start(counting)
    stepper._aside = lambda: 1.0
    stepper._wanted.release()  # the signal's exception came here: nobody takes what was found
    soon(stepper.abandon)
    assert stepper.start(counting) == 0
    assert stepper.beside(lambda: 2.0) == 2.0
