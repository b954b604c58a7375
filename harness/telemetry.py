"""Clocks, power, temperature and throttle reasons of the GPU at 10 Hz, from the parent, while workers measure."""

from __future__ import annotations

import csv
import threading
import time
from bisect import bisect_left
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import pynvml

from harness.gpu import MIB
from harness.schema import TELEMETRY

PERIOD_S = 0.1
TOLERANCE_NS = 1_000_000_000
"""A sample of a latency takes the nearest reading, if that is at most this far away."""

REASONS = {
    pynvml.nvmlClocksThrottleReasonGpuIdle: "idle",
    pynvml.nvmlClocksThrottleReasonApplicationsClocksSetting: "applications_clocks",
    pynvml.nvmlClocksThrottleReasonSwPowerCap: "sw_power_cap",
    pynvml.nvmlClocksThrottleReasonHwSlowdown: "hw_slowdown",
    pynvml.nvmlClocksThrottleReasonSyncBoost: "sync_boost",
    pynvml.nvmlClocksThrottleReasonSwThermalSlowdown: "sw_thermal",
    pynvml.nvmlClocksThrottleReasonHwThermalSlowdown: "hw_thermal",
    pynvml.nvmlClocksThrottleReasonHwPowerBrakeSlowdown: "hw_power_brake",
    pynvml.nvmlClocksThrottleReasonDisplayClockSetting: "display_clock",
}


class Reading(NamedTuple):
    """One row of telemetry.csv; an empty text is a value that the GPU does not give."""

    time_ns: int
    sm_clock_mhz: int | str
    memory_clock_mhz: int | str
    power_w: float | str
    temperature_c: int | str
    throttle: str
    memory_used_mib: int | str


def throttle_text(mask: int) -> str:
    """The reasons in NVML's bit mask, joined by `|`; empty when there is none."""
    known = [name for bit, name in REASONS.items() if mask & bit]
    unknown = mask & ~sum(REASONS)
    return "|".join([*known, *([f"0x{unknown:x}"] if unknown else [])])


def _ask(question: Callable[[], Any]) -> Any:
    """The answer, or an empty text where this GPU does not give it."""
    try:
        return question()
    except pynvml.NVMLError:
        return ""


def read(handle: Any) -> Reading:
    """Ask NVML for one reading. The clock is the one that workers stamp their samples with."""
    milliwatts = _ask(lambda: pynvml.nvmlDeviceGetPowerUsage(handle))
    mask = _ask(lambda: pynvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle))
    used = _ask(lambda: pynvml.nvmlDeviceGetMemoryInfo(handle).used)
    return Reading(
        time_ns=time.perf_counter_ns(),
        sm_clock_mhz=_ask(lambda: pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_SM)),
        memory_clock_mhz=_ask(lambda: pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_MEM)),
        power_w="" if milliwatts == "" else milliwatts / 1e3,
        temperature_c=_ask(lambda: pynvml.nvmlDeviceGetTemperature(handle, pynvml.NVML_TEMPERATURE_GPU)),
        throttle="" if mask == "" else throttle_text(mask),
        memory_used_mib="" if used == "" else used // MIB,
    )


class Telemetry:
    """A context: while it is open, one thread appends readings to `path`. Without a GPU only the header is written."""

    def __init__(self, path: Path, gpu: int | None) -> None:
        self._path = path
        self._gpu = gpu
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._readings: list[Reading] = []

    def __enter__(self) -> Telemetry:
        if not self._path.exists():
            self._append([TELEMETRY])
        if self._gpu is not None:
            pynvml.nvmlInit()
            handle = pynvml.nvmlDeviceGetHandleByIndex(self._gpu)
            self._thread = threading.Thread(target=self._watch, args=(handle,), name="telemetry", daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._thread is not None:
            self._stop.set()
            self._thread.join()
            pynvml.nvmlShutdown()

    def _watch(self, handle: Any) -> None:
        while not self._stop.wait(PERIOD_S):
            reading = read(handle)
            self._readings.append(reading)
            self._append([reading])

    def _append(self, rows: list[Any]) -> None:
        with self._path.open("a", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows(rows)

    def nearest(self, time_ns: int) -> tuple[str, str]:
        """SM clock in MHz and throttle reasons at `time_ns`; empty texts where nothing was read near it."""
        return nearest(self._readings, time_ns)

    def memory_used(self, time_ns: int) -> str:
        """MiB of device memory in use at `time_ns`, by whatever process; empty where nothing was read near it."""
        best = near(self._readings, time_ns)
        return "" if best is None else str(best.memory_used_mib)


def nearest(readings: list[Reading], time_ns: int) -> tuple[str, str]:
    """SM clock and throttle reasons of the reading near a time; empty texts where there is none."""
    best = near(readings, time_ns)
    return ("", "") if best is None else (str(best.sm_clock_mhz), best.throttle)


def near(readings: list[Reading], time_ns: int) -> Reading | None:
    """The reading nearest in time, if within TOLERANCE_NS."""
    after = bisect_left(readings, time_ns, key=lambda reading: reading.time_ns)
    around = readings[max(0, after - 1) : after + 1]
    best = min(around, key=lambda reading: abs(reading.time_ns - time_ns), default=None)
    return None if best is None or abs(best.time_ns - time_ns) > TOLERANCE_NS else best
