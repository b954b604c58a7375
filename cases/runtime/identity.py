"""Who answers, seen by torch's profiler: the kernels of a prefill and of two decode steps, and the graphs launched."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from harness.contract import Activity, Case, Identity, Kernel

PACKAGES = ("torch", "triton", "transformers", "vllm")
NO_KERNELS = ("Memcpy", "Memset")
"""What copies and sets memory has a place among a GPU's activities and is no kernel."""
LAUNCHES = ("cudaGraphLaunch", "cuGraphLaunch")
"""One launch is one call of the runtime, which calls the driver: whichever of the two the profiler shows, or both."""
CALLS = ("cuda", "cu")
LONGEST_NAME = 200
DECODE_STEPS = 2


def identify(case: Case, prompt: Sequence[int], device: str, sampler: str) -> Identity:
    """A pass of the profiler over a prepared case. Each phase is a recording of its own.

    The prefill before the decode steps is not recorded. On the CPU operations of other threads are not seen.
    """
    modules = loaded()
    try:
        started(recorder(device)).stop()
    except RuntimeError as error:
        return Identity(modules, sampler, unproven=f"torch's profiler does not start: {' '.join(str(error).split())}")
    before = case.stats()
    kernels, calls = watched(device, "prefill", lambda: case.prefill(prompt))
    middle = case.stats()
    case.prefill(prompt, DECODE_STEPS + 1)
    resumed = case.stats()
    more, later = watched(device, "decode", lambda: [case.decode() for _ in range(DECODE_STEPS)])
    after = case.stats()
    if not kernels and not more:
        return Identity(modules, sampler, unproven=f"torch's profiler showed nothing that ran on {device}")
    seen: Activity = "cuda" if device == "cuda" else "cpu"
    replays, ungraphed = (
        getattr(middle, name) - getattr(before, name) + getattr(after, name) - getattr(resumed, name)
        for name in ("replays", "ungraphed")
    )
    launches = launches_of(calls) + launches_of(later)
    blind = device == "cuda" and not any(name.startswith(CALLS) for name in (*calls, *later))
    unproven = "torch's profiler shows no calls of CUDA, so no launches of graphs" if blind else ""
    return Identity(modules, sampler, seen, (*kernels, *more), launches, replays, ungraphed, unproven)


def watched(device: str, phase: str, work: Callable[[], object]) -> tuple[list[Kernel], list[str]]:
    """What ran on the device during `work`, most often first, and what the profiler saw on the host."""
    recording = started(recorder(device))
    try:
        work()
        if device == "cuda":
            torch.cuda.synchronize()
    finally:
        recording.stop()
    events = [(event.name, event.device_type) for event in recording.events() or ()]
    return kernels_of(events, device, phase), [name for name, where in events if where == DeviceType.CPU]


def kernels_of(events: Sequence[tuple[str, Any]], device: str, phase: str) -> list[Kernel]:
    """The kernels among a profiler's events; on the CPU its operations."""
    wanted = DeviceType.CUDA if device == "cuda" else DeviceType.CPU
    names = Counter(name[:LONGEST_NAME] for name, where in events if where == wanted)
    return [Kernel(phase, name, count) for name, count in names.most_common() if not name.startswith(NO_KERNELS)]


def launches_of(host: Sequence[str]) -> int:
    """CUDA graphs launched, by what was seen on the host."""
    return max(sum(name.startswith(call) for name in host) for call in LAUNCHES)


def recorder(device: str) -> Any:
    """A profiler of what the host does, and of a GPU's kernels where there is one."""
    return profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device == "cuda" else [])])


def started(recording: Any) -> Any:
    """The profiler, recording."""
    recording.start()
    return recording


def loaded() -> dict[str, str]:
    """The software that is loaded in this process, and its versions."""
    found = {name: sys.modules[name] for name in PACKAGES if name in sys.modules}
    return {name: str(getattr(module, "__version__", "of no stated version")) for name, module in found.items()}
