"""The GPUs of this machine as NVML knows them, in nvidia-smi's numbering. No CUDA context is made."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import pynvml

MIB = 2**20
MILLI = 1000
WORD = 64
"""Bits in a word of NVML's mask of cores (unsigned long)."""


@dataclass(frozen=True)
class Gpu:
    """One GPU; memory in MiB, `processes` the ids of those that hold some of it now.

    `holding` is what they hold in MiB, as far as the driver says; `persistence` is None where it does not.
    `energy_counter`: whether it counts the energy that the card takes. `power_limit_w`: the limit in force, in watts,
    None where the driver does not say.
    """

    index: int
    name: str
    uuid: str
    driver: str
    memory_mib: int
    free_mib: int
    processes: tuple[int, ...]
    holding: tuple[int | None, ...] = ()
    persistence: bool | None = None
    energy_counter: bool = False
    power_limit_w: float | None = None


class Process(NamedTuple):
    """A process that computes on the GPU, and what it holds in MiB, None where the driver does not say."""

    pid: int
    mib: int | None


def list_gpus() -> tuple[list[Gpu], str]:
    """All GPUs, and when there is none, why."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        return [], f"NVML says: {error}"
    try:
        gpus = [_describe(index) for index in range(pynvml.nvmlDeviceGetCount())]
    finally:
        pynvml.nvmlShutdown()
    return gpus, "" if gpus else "the driver lists none"


def _describe(index: int) -> Gpu:
    handle = pynvml.nvmlDeviceGetHandleByIndex(index)
    memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
    found = processes(handle) or []
    return Gpu(
        index=index,
        name=pynvml.nvmlDeviceGetName(handle),
        uuid=pynvml.nvmlDeviceGetUUID(handle),
        driver=pynvml.nvmlSystemGetDriverVersion(),
        memory_mib=memory.total // MIB,
        free_mib=memory.free // MIB,
        processes=tuple(process.pid for process in found),
        holding=tuple(process.mib for process in found),
        persistence=_persistence(handle),
        energy_counter=_counts_energy(handle),
        power_limit_w=_power_limit(handle),
    )


def processes(handle: Any) -> list[Process] | None:
    """Compute processes on the GPU; None where the driver refuses to tell (containers)."""
    try:
        found = pynvml.nvmlDeviceGetComputeRunningProcesses(handle)
    except pynvml.NVMLError:
        return None
    return [Process(one.pid, None if one.usedGpuMemory is None else one.usedGpuMemory // MIB) for one in found]


def _persistence(handle: Any) -> bool | None:
    """Whether the driver stays loaded without a client; None where it does not say."""
    try:
        return bool(pynvml.nvmlDeviceGetPersistenceMode(handle) == pynvml.NVML_FEATURE_ENABLED)
    except pynvml.NVMLError:
        return None


def _counts_energy(handle: Any) -> bool:
    """Whether the GPU has a counter of its energy (Volta and later)."""
    try:
        pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
    except pynvml.NVMLError:
        return False
    return True


def _power_limit(handle: Any) -> float | None:
    """The power limit that is in force, in watts, whoever set it; None where the driver does not say."""
    try:
        return float(pynvml.nvmlDeviceGetEnforcedPowerLimit(handle)) / MILLI
    except pynvml.NVMLError:
        return None


def visible(gpus: Sequence[Gpu]) -> list[Gpu]:
    """Those that CUDA_VISIBLE_DEVICES, if set, leaves: indices or UUIDs as CUDA reads them."""
    setting = os.environ.get("CUDA_VISIBLE_DEVICES")
    if setting is None:
        return list(gpus)
    wanted = [entry.strip() for entry in setting.split(",") if entry.strip()]
    return [gpu for gpu in gpus if any(str(gpu.index) == entry or _is_uuid(gpu, entry) for entry in wanted)]


def _is_uuid(gpu: Gpu, entry: str) -> bool:
    return entry.startswith("GPU-") and gpu.uuid.startswith(entry)


def near_cores(index: int) -> set[int] | None:
    """The host's cores in the GPU's part of the machine (its NUMA node); None where NVML does not say."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None
    try:
        words = pynvml.nvmlDeviceGetCpuAffinity(pynvml.nvmlDeviceGetHandleByIndex(index), _mask_words())
    except pynvml.NVMLError:
        return None
    finally:
        pynvml.nvmlShutdown()
    return {place * WORD + bit for place, word in enumerate(words) for bit in range(WORD) if word >> bit & 1}


def _mask_words() -> int:
    """Words of NVML's mask that all cores of this host need."""
    return (os.cpu_count() or 1) // WORD + 1
