"""Launching a compiled Triton kernel again by its handle, without the work that finds it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

ALIGNMENT = 16
"""Bytes: Triton compiles a kernel of its own for addresses that are no multiples."""
MOST_BOUND = 4096
"""Bound kernels kept of those whose grid goes by the number of rows."""

Launch = Callable[..., None]


def by_handle(compiled: Any, grid: tuple[int, int, int], constants: tuple[object, ...]) -> Launch:
    """Launches a compiled kernel on a stream, given that, the tensors' addresses and the numbers.

    As `compiled[grid]` does, but without what that prepares for hooks around a launch, unless there are any.
    """
    from triton import knobs

    settings, hooked, run = knobs.runtime, compiled[grid], compiled.run
    function, metadata = compiled.function, compiled.packed_metadata
    x, y, z = grid

    def launch(stream: int, *given: float) -> None:
        if settings.launch_enter_hook.calls or settings.launch_exit_hook.calls:
            hooked(*given, *constants, stream=stream)
        else:
            run(x, y, z, stream, function, metadata, None, None, None, *given, *constants)

    return launch


class Bound:
    """A Triton kernel whose grid, constants and options are fixed.

    Triton's own launch looks at every argument to find the compiled kernel, and that takes longer than a small kernel
    runs. It looks at the dtypes, at whether addresses are multiples of 16 bytes, and at the values of integers. So the
    first launch for each list of types goes by Triton, the others by the kernel that it gave; an unaligned address
    always goes by Triton; integers are refused, unless the kernel is not specialised on them, and are below 2^31.
    """

    __slots__ = ("_constants", "_grid", "_kernel", "_launches", "_options", "_stream", "_values")

    def __init__(self, kernel: Any, grid: Sequence[int], constants: dict[str, Any], **options: Any) -> None:
        """`constants`: the kernel's last parameters. `options`: num_warps, launch_pdl."""
        self._kernel, self._options = kernel, options
        x, y, z = (*grid, 1, 1)[:3]
        self._grid = (x, y, z)
        self._constants = {name: constants[name] for name in kernel.arg_names if name in constants}
        self._values = tuple(self._constants.values())
        self._launches: dict[tuple[object, ...], Launch] = {}
        self._stream: Callable[[int], int] | None = None

    def __call__(self, tensors: Sequence[Tensor], *numbers: float) -> None:
        """Launch on the current stream; the kernel's parameters are tensors, then numbers, then the constants.

        Raises:
            TypeError: an integer that the kernel would be specialised on.
        """
        places = [tensor.data_ptr() for tensor in tensors]
        united = 0
        for place in places:
            united |= place
        device = tensors[0].get_device()
        key = (device, *[tensor.dtype for tensor in tensors], *map(type, numbers))
        launch = self._launches.get(key)
        if launch is None or united % ALIGNMENT or self._kernel.pre_run_hooks:
            self._dispatch(tensors, numbers, None if united % ALIGNMENT else key)
            return
        assert self._stream is not None  # noqa: S101  the dispatch before found it
        launch(self._stream(device), *places, *numbers)

    def _dispatch(self, tensors: Sequence[Tensor], numbers: Sequence[float], key: tuple[object, ...] | None) -> None:
        """Launch by Triton, and keep what it found under the key, if one is given."""
        for parameter, number in zip(self._kernel.params[len(tensors) :], numbers, strict=False):
            if isinstance(number, int) and not parameter.do_not_specialize:
                raise TypeError(f"{parameter.name}={number}: a kernel that is specialised on an integer can't be bound")
        found = self._kernel[self._grid](*tensors, *numbers, **self._constants, **self._options)
        if key is not None and found is not None:
            from triton.runtime import driver

            self._stream = driver.active.get_current_stream
            self._launches[key] = by_handle(found, self._grid, self._values)
