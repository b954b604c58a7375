"""The GPUs of this machine as NVML knows them, in nvidia-smi's numbering. No CUDA context is made."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pynvml

MIB = 2**20


@dataclass(frozen=True)
class Gpu:
    """One GPU; memory in MiB, `processes` the ids of those that hold some of it now."""

    index: int
    name: str
    uuid: str
    driver: str
    memory_mib: int
    free_mib: int
    processes: tuple[int, ...]


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
    return Gpu(
        index=index,
        name=pynvml.nvmlDeviceGetName(handle),
        uuid=pynvml.nvmlDeviceGetUUID(handle),
        driver=pynvml.nvmlSystemGetDriverVersion(),
        memory_mib=memory.total // MIB,
        free_mib=memory.free // MIB,
        processes=_processes(handle),
    )


def _processes(handle: Any) -> tuple[int, ...]:
    """Compute processes on the GPU; none where the driver refuses to tell (containers)."""
    try:
        return tuple(process.pid for process in pynvml.nvmlDeviceGetComputeRunningProcesses(handle))
    except pynvml.NVMLError:
        return ()


def visible(gpus: Sequence[Gpu]) -> list[Gpu]:
    """Those that CUDA_VISIBLE_DEVICES, if set, leaves: indices or UUIDs as CUDA reads them."""
    setting = os.environ.get("CUDA_VISIBLE_DEVICES")
    if setting is None:
        return list(gpus)
    wanted = [entry.strip() for entry in setting.split(",") if entry.strip()]
    return [gpu for gpu in gpus if any(str(gpu.index) == entry or _is_uuid(gpu, entry) for entry in wanted)]


def _is_uuid(gpu: Gpu, entry: str) -> bool:
    return entry.startswith("GPU-") and gpu.uuid.startswith(entry)
