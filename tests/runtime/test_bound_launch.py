"""Launching a Triton kernel again by its handle: which launches go by Triton, and that all pass the same arguments."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch

from cases.runtime.kernels.launch import ALIGNMENT, Bound

CONSTANTS = {"BLOCK": 64, "GATED": False}


class Kernel:
    """As Triton's: `kernel[grid](...)` compiles, launches and returns what can be launched again."""

    def __init__(self, whole: tuple[str, ...] = ()) -> None:
        self.arg_names = ["x", "out", "rows", "eps", "GATED", "BLOCK"]
        self.params = [SimpleNamespace(name=name, do_not_specialize=name in whole) for name in self.arg_names]
        self.pre_run_hooks: list[object] = []
        self.dispatched: list[tuple[object, ...]] = []
        self.again: list[tuple[object, ...]] = []
        self.given: Compiled | None = Compiled(self)

    def __getitem__(self, grid):
        def dispatch(*arguments, **named):
            self.dispatched.append((grid, arguments, named))
            return self.given

        return dispatch


class Compiled:
    """What one launch by Triton gave."""

    function, packed_metadata = 1234, (4, 1)

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel

    def __getitem__(self, grid):
        return lambda *arguments, stream: self.kernel.again.append(("hooked", grid, arguments, stream))

    def run(self, x, y, z, stream, function, metadata, *rest):
        assert (function, metadata, rest[:3]) == (1234, (4, 1), (None, None, None))
        self.kernel.again.append(("run", (x, y, z), rest[3:], stream))


@pytest.fixture(autouse=True)
def hooks(monkeypatch):
    """A Triton whose current stream is 7 and the number of the device; its hooks around a launch, none as yet."""
    enter, leave = SimpleNamespace(calls=[]), SimpleNamespace(calls=[])
    triton, runtime = ModuleType("triton"), ModuleType("triton.runtime")
    triton.knobs = SimpleNamespace(runtime=SimpleNamespace(launch_enter_hook=enter, launch_exit_hook=leave))
    runtime.driver = SimpleNamespace(active=SimpleNamespace(get_current_stream=lambda device: (7, device)))
    monkeypatch.setitem(sys.modules, "triton", triton)
    monkeypatch.setitem(sys.modules, "triton.runtime", runtime)
    return enter.calls, leave.calls


def aligned(dtype: torch.dtype = torch.float16) -> torch.Tensor:
    made = torch.zeros(64, dtype=dtype)
    return made[(-made.data_ptr() % ALIGNMENT) // made.element_size() :]


def bound(kernel: Kernel) -> Bound:
    return Bound(kernel, (5, 2), CONSTANTS, num_warps=4, launch_pdl=True)


def test_the_second_launch_passes_the_same_arguments_by_the_handle():
    kernel = Kernel()
    launch, x, out = bound(kernel), aligned(), aligned()
    for _ in range(3):
        launch((x, out), 2.5, 1e-5)
    named = {"GATED": False, "BLOCK": 64, "num_warps": 4, "launch_pdl": True}
    ((grid, arguments, options),) = kernel.dispatched
    assert (grid, arguments[2:], options) == ((5, 2, 1), (2.5, 1e-5), named)
    assert arguments[0] is x
    assert arguments[1] is out
    again = ("run", (5, 2, 1), (x.data_ptr(), out.data_ptr(), 2.5, 1e-5, False, 64), (7, -1))
    assert kernel.again == [again, again]


@pytest.mark.parametrize("place", [0, 1])
def test_other_dtypes_are_another_kernel(place):
    kernel = Kernel()
    launch = bound(kernel)
    for dtype in (torch.float16, torch.bfloat16) * 2:
        tensors = [aligned(), aligned()]
        tensors[place] = aligned(dtype)
        launch(tensors, 1.0, 1.0)
    assert len(kernel.dispatched) == 2
    assert len(kernel.again) == 2


def test_another_device_is_another_kernel_and_another_stream():
    kernel = Kernel()
    launch = bound(kernel)
    for device in (0, 1) * 2:
        tensor = SimpleNamespace(data_ptr=lambda: 32, get_device=lambda device=device: device, dtype=torch.float16)
        launch((tensor, tensor), 1.0, 1.0)
    assert len(kernel.dispatched) == 2
    assert [stream for *_, stream in kernel.again] == [(7, 0), (7, 1)]


def test_what_triton_has_not_compiled_yet_is_asked_for_again():
    kernel = Kernel()
    kernel.given = None
    launch = bound(kernel)
    launch((aligned(), aligned()), 1.0, 1.0)
    launch((aligned(), aligned()), 1.0, 1.0)
    assert (len(kernel.dispatched), len(kernel.again)) == (2, 0)


@pytest.mark.parametrize("place", [0, 1])
def test_an_unaligned_address_goes_by_triton_each_time_and_leaves_the_handle_alone(place):
    kernel = Kernel()
    launch = bound(kernel)
    tensors = [aligned(), aligned()]
    tensors[place] = tensors[place][4:]  # 8 bytes on
    for _ in range(2):
        launch(tensors, 1.0, 1.0)
    assert (len(kernel.dispatched), len(kernel.again)) == (2, 0)
    launch((aligned(), aligned()), 1.0, 1.0)
    launch(tensors, 1.0, 1.0)
    launch((aligned(), aligned()), 1.0, 1.0)
    assert (len(kernel.dispatched), len(kernel.again)) == (4, 1)


def test_hooks_before_a_dispatch_see_every_launch():
    kernel = Kernel()
    launch = bound(kernel)
    launch((aligned(), aligned()), 1.0, 1.0)
    kernel.pre_run_hooks.append(print)
    launch((aligned(), aligned()), 1.0, 1.0)
    assert (len(kernel.dispatched), len(kernel.again)) == (2, 0)


@pytest.mark.parametrize("which", [0, 1])
def test_hooks_around_a_launch_get_tritons_own_call(hooks, which):
    kernel = Kernel()
    launch, x, out = bound(kernel), aligned(), aligned()
    launch((x, out), 2.5, 1e-5)
    hooks[which].append(print)
    launch((x, out), 2.5, 1e-5)
    hooks[which].clear()
    launch((x, out), 2.5, 1e-5)
    assert [how for how, *_ in kernel.again] == ["hooked", "run"]
    assert kernel.again[0][1:] == kernel.again[1][1:]


def test_an_integer_that_the_kernel_is_specialised_on_is_refused():
    with pytest.raises(TypeError, match="rows=16: a kernel that is specialised on an integer can't be bound"):
        bound(Kernel())((aligned(), aligned()), 16, 1.0)
    kernel = Kernel(whole=("rows",))
    bound(kernel)((aligned(), aligned()), 16, 1.0)
    assert kernel.dispatched[0][1][2:] == (16, 1.0)


def test_an_integer_behind_a_number_of_another_kind_is_refused_too():
    launch = bound(Kernel())
    launch((aligned(), aligned()), 16.0, 1.0)
    with pytest.raises(TypeError, match="rows=16"):
        launch((aligned(), aligned()), 16, 1.0)
