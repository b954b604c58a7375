"""Few instantiated graphs for many recorded ones, with a driver that only counts."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cases.runtime.executables import Executables, Recorded


class Driver:
    """Executables are numbers; what was destroyed can't be launched."""

    def __init__(self) -> None:
        self.made: list[int] = []
        self.alive: dict[int, int] = {}
        self.launched: list[int] = []

    def instantiate(self, graph: int) -> int:
        self.made.append(graph)
        self.alive[len(self.made)] = graph
        return len(self.made)

    def launch(self, executable: int) -> None:
        self.launched.append(self.alive[executable])

    def destroy(self, executable: int) -> None:
        del self.alive[executable]


def recorded(address: int, executables: Executables) -> Recorded:
    gone: list[int] = []
    graph: Any = SimpleNamespace(raw_cuda_graph=lambda: address, reset=lambda: gone.append(address))
    return Recorded(graph, executables)


@given(st.integers(1, 5), st.lists(st.integers(0, 9), min_size=1, max_size=60))
def test_every_graph_runs_and_never_more_than_the_cap_are_instantiated(most, wanted):
    driver = Driver()
    executables = Executables(most, driver)
    graphs = {address: recorded(address, executables) for address in range(10)}
    for address in wanted:
        graphs[address].replay()
        assert len(executables) == len(driver.alive) <= most
    assert driver.launched == wanted


def test_the_least_recently_used_makes_room_and_is_instantiated_anew():
    driver = Driver()
    executables = Executables(2, driver)
    one, two, three = (recorded(address, executables) for address in (1, 2, 3))
    assert driver.made == [1, 2, 3], "each is instantiated when it is captured, outside a request"
    three.replay()
    two.replay()
    assert driver.made == [1, 2, 3], "both were there"
    one.replay()
    assert driver.made == [1, 2, 3, 1]
    assert sorted(driver.alive.values()) == [1, 2], "3 was used longest ago"


def test_a_graph_that_is_reset_gives_its_executable_back():
    driver = Driver()
    executables = Executables(2, driver)
    one, two = (recorded(address, executables) for address in (1, 2))
    one.reset()
    one.reset()
    assert list(driver.alive.values()) == [2]
    two.reset()
    assert not driver.alive


@pytest.mark.parametrize("most", [1, 3])
def test_a_launch_that_fails_is_raised(most):
    driver = Driver()

    def refuse(graph: int) -> int:
        raise RuntimeError("a call for a CUDA graph failed: out of memory")

    driver.instantiate = refuse  # type: ignore[method-assign]
    executables = Executables(most, driver)
    with pytest.raises(RuntimeError, match="out of memory"):
        executables.launch(7)
    assert len(executables) == 0
