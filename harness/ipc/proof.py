"""The field of a message that holds what a case can prove of itself."""

from __future__ import annotations

from typing import Any, get_args

from harness.contract import Activity, Identity, Kernel
from harness.ipc.fields import INT31, Field, WireError, checked_integer, checked_items, checked_text, shown

KERNELS_LIMIT = 4096
MODULES_LIMIT = 64
PARTS = 8


def identity(name: str) -> Field:
    """Who answers."""
    return Field(name, _pack, _parse)


def _pack(value: Identity, name: str) -> list[Any]:
    packed: list[Any] = [
        dict(value.modules), value.sampler, value.activity, [list(kernel) for kernel in value.kernels],
        value.launches, value.replays, value.ungraphed, value.unproven,
    ]  # fmt: skip
    _parse(packed, name)
    return packed


def _parse(value: Any, name: str) -> Identity:
    modules, sampler, activity, kernels, launches, replays, ungraphed, unproven = checked_items(value, name, PARTS)
    if type(modules) is not dict or len(modules) > MODULES_LIMIT:
        raise WireError(f"modules must be a map of at most {MODULES_LIMIT}")
    if type(kernels) is not list or len(kernels) > KERNELS_LIMIT:
        raise WireError(f"kernels must be a list of at most {KERNELS_LIMIT}")
    if activity not in get_args(Activity):
        raise WireError(f"activity must be one of {', '.join(get_args(Activity))}, not {shown(activity)}")
    return Identity(
        modules={checked_text(key, "a module"): checked_text(one, "a version") for key, one in modules.items()},
        sampler=checked_text(sampler, "sampler"),
        activity=activity,
        kernels=tuple(map(_kernel, kernels)),
        launches=checked_integer(launches, "launches", 0, INT31),
        replays=checked_integer(replays, "replays", 0, INT31),
        ungraphed=checked_integer(ungraphed, "ungraphed", 0, INT31),
        unproven=checked_text(unproven, "unproven"),
    )


def _kernel(value: Any) -> Kernel:
    phase, name, count = checked_items(value, "a kernel", 3)
    return Kernel(checked_text(phase, "a phase"), checked_text(name, "a name"), checked_integer(count, "n", 1, INT31))
