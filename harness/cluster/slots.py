"""One GPU of a host with the cores beside it, and what a run there is told of its neighbours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from harness.cluster.cores import physical, shares
from harness.machine.gpu import Gpu, near_cores, visible
from harness.machine.placement import Place


@dataclass(frozen=True)
class Slot:
    """Where one run at a time is: the GPU's index by nvidia-smi, and cores that no other slot has.

    `real`: False for the slots of a smoke run on the CPU.
    """

    gpu: int
    cores: tuple[int, ...]
    real: bool = True
    others: tuple[Slot, ...] = ()

    @property
    def place(self) -> Place:
        """For the run's manifest. Others may have ended before this run has: it says what there was room for."""
        if not self.others:
            return Place("local_gpus")
        neighbours: dict[str, Any] = {
            "runs": len(self.others),
            "gpus": [other.gpu for other in self.others],
            "cores": [list(other.cores) for other in self.others],
        }
        return Place("local_gpus", neighbours)


def chosen(wanted: Sequence[int] | None, here: Sequence[Gpu], why: str, device: str) -> list[int]:
    """The GPUs to use: those wanted, else all that CUDA_VISIBLE_DEVICES leaves.

    Raises:
        ValueError: there is none, or one of those wanted is not here or hidden.
    """
    if device != "cuda":
        return list(wanted or [])
    allowed = [gpu.index for gpu in visible(here)]
    if not allowed:
        reason = why or "CUDA_VISIBLE_DEVICES hides all"
        raise ValueError(f"hydra/launcher=local_gpus, but this machine has no usable GPU ({reason})")
    absent = [gpu for gpu in wanted or [] if gpu not in allowed]
    if absent:
        names = ", ".join(map(str, allowed))
        raise ValueError(f"hydra.launcher.gpus names GPU {absent[0]}, which is not here or hidden: choose from {names}")
    return list(wanted or allowed)


def slots(gpus: Sequence[int], here: Sequence[Gpu]) -> list[Slot]:
    """A slot for each of `gpus`, with cores near it, and all others beside it. Raises ValueError on too few."""
    near = [near_cores(gpu) if here else None for gpu in gpus]
    cores = shares(physical(), near)
    alone = [Slot(gpu, tuple(own), bool(here)) for gpu, own in zip(gpus, cores, strict=True)]
    return [replace(slot, others=tuple(other for other in alone if other is not slot)) for slot in alone]
