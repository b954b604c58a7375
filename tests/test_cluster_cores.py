"""Cores for runs beside each other."""

from __future__ import annotations

import os
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.cluster import cores, slots
from harness.machine import gpu
from harness.machine.gpu import Gpu

PAIRS = [frozenset({core, core + 8}) for core in range(8)]  # 8 cores of two hardware threads
LEFT, RIGHT = {0, 1, 2, 3, 8, 9, 10, 11}, {4, 5, 6, 7, 12, 13, 14, 15}


def a_gpu(index: int) -> Gpu:
    return Gpu(index, "H200", f"GPU-{index}", "570", 143_000, 140_000, ())


@pytest.mark.parametrize(("near", "given_cores"), [
    ([None], [sorted(LEFT | RIGHT)]),
    ([None, None], [sorted(LEFT), sorted(RIGHT)]),
    ([RIGHT, LEFT], [sorted(RIGHT), sorted(LEFT)]),
    ([LEFT, LEFT], [[0, 1, 8, 9], [2, 3, 10, 11]]),
    ([None, LEFT], [sorted(RIGHT), sorted(LEFT)]),
    ([{99}, RIGHT], [sorted(LEFT), sorted(RIGHT)]),
    ([None, None, None], [[0, 1, 8, 9], [2, 3, 10, 11], [4, 5, 12, 13]]),
])  # fmt: skip
def test_each_run_has_whole_cores_near_its_gpu(near, given_cores):
    assert cores.shares(PAIRS, near) == given_cores


@given(st.lists(st.one_of(st.none(), st.sets(st.integers(0, 19))), min_size=1, max_size=8))
def test_no_core_is_given_twice_and_no_run_goes_without(near):
    try:
        found = cores.shares(PAIRS, near)
    except ValueError:
        narrow = [wanted for wanted in near if wanted and any(core & wanted for core in PAIRS)]
        assert narrow, "without a wish there is a core for each of 8"
        return
    flat = [thread for own in found for thread in own]
    assert len(flat) == len(set(flat))
    assert all(found)
    assert all({(thread + 8) % 16 for thread in own} == set(own) for own in found), "a core was torn apart"


def test_more_runs_than_cores_are_refused():
    with pytest.raises(ValueError, match="9 runs at a time need a core each and 8 are here: name fewer GPUs"):
        cores.shares(PAIRS, [None] * 9)


def test_hardware_threads_are_read_from_linux_and_kept_within_what_is_allowed(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {0, 1, 2, 4})
    for core, siblings in {0: "0,4\n", 1: "1,5\n", 4: "0,4\n"}.items():
        folder = tmp_path / f"cpu{core}/topology"
        folder.mkdir(parents=True)
        (folder / "thread_siblings_list").write_text(siblings)
    assert cores.physical(tmp_path) == [frozenset({0, 4}), frozenset({1}), frozenset({2})]
    assert cores.parse("0-3,8\n") == {0, 1, 2, 3, 8}


def test_nvml_says_which_cores_are_near(monkeypatch):
    asked = []

    def affinity(handle, words):
        asked.append((handle, words))
        return [0b101, 0b1]

    monkeypatch.setattr(gpu.os, "cpu_count", lambda: 100)
    fake = SimpleNamespace(
        NVMLError=gpu.pynvml.NVMLError, nvmlInit=lambda: None, nvmlShutdown=lambda: None,
        nvmlDeviceGetHandleByIndex=lambda index: f"card {index}", nvmlDeviceGetCpuAffinity=affinity,
    )  # fmt: skip
    monkeypatch.setattr(gpu, "pynvml", fake)
    assert gpu.near_cores(3) == {0, 2, 64}
    assert asked == [("card 3", 2)]

    def refuse(handle, words):
        raise gpu.pynvml.NVMLError(3)

    fake.nvmlDeviceGetCpuAffinity = refuse
    assert gpu.near_cores(3) is None


def test_nvml_says_the_power_limit_in_force_in_milliwatts(monkeypatch):
    def limit(handle):
        if handle == "old":
            raise gpu.pynvml.NVMLError(gpu.pynvml.NVML_ERROR_NOT_SUPPORTED)
        return 700_000

    monkeypatch.setattr(gpu.pynvml, "nvmlDeviceGetEnforcedPowerLimit", limit)
    assert (gpu._power_limit("new"), gpu._power_limit("old")) == (700.0, None)


def test_slots_know_their_neighbours(monkeypatch):
    monkeypatch.setattr(slots, "physical", lambda: PAIRS)
    monkeypatch.setattr(slots, "near_cores", {5: RIGHT, 7: LEFT}.get)
    first, second = slots.slots([5, 7], [a_gpu(5), a_gpu(7)])
    assert (first.gpu, first.cores, first.real) == (5, tuple(sorted(RIGHT)), True)
    assert first.place.neighbours == {"runs": 1, "gpus": [7], "cores": [list(second.cores)]}
    (alone,) = slots.slots([5], [a_gpu(5)])
    assert alone.place.neighbours is None


def test_gpus_are_those_that_are_here_and_visible(monkeypatch):
    here = [a_gpu(index) for index in range(4)]
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert slots.chosen(None, here, "", "cuda") == [0, 1, 2, 3]
    assert slots.chosen([2], here, "", "cuda") == [2]
    assert slots.chosen([0, 1], [], "", "cpu") == [0, 1]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,GPU-3")
    assert slots.chosen(None, here, "", "cuda") == [1, 3]
    with pytest.raises(ValueError, match=r"names GPU 2, which is not here or hidden: choose from 1, 3$"):
        slots.chosen([1, 2], here, "", "cuda")
    with pytest.raises(ValueError, match=r"has no usable GPU \(no driver\)"):
        slots.chosen(None, [], "no driver", "cuda")
