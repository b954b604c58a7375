"""The state of the GPU at 10 Hz, from the parent, while workers measure: clocks, power, temperature, throttle reasons,
energy and who else computes there. Everything is read; nothing on the card is ever set."""

from __future__ import annotations

import csv
import errno
import io
import os
import threading
import time
from bisect import bisect_left
from collections.abc import Callable, Sequence
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import pynvml

from harness.disk import whole_lines, write_aside
from harness.machine.gpu import MIB
from harness.machine.tenants import Others, Tenants
from harness.schema import SAMPLES_STATE, TELEMETRY

HZ = 10.0
TENANTS_EVERY = 10
"""Readings between two looks at who computes: the list is dearer than a clock, and processes come and go slowly."""
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
    energy_mj: int | str = ""
    co_tenants: int | str = ""
    co_tenant_mib: int | str = ""


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


def memory_used_mib(handle: Any) -> int | str:
    """MiB of device memory in use by whatever process."""
    used = _ask(lambda: pynvml.nvmlDeviceGetMemoryInfo(handle).used)
    return "" if used == "" else int(used) // MIB


def read(handle: Any) -> Reading:
    """Ask NVML for one reading. The clock is the one that workers stamp their samples with."""
    milliwatts = _ask(lambda: pynvml.nvmlDeviceGetPowerUsage(handle))
    mask = _ask(lambda: pynvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle))
    return Reading(
        time_ns=time.perf_counter_ns(),
        sm_clock_mhz=_ask(lambda: pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_SM)),
        memory_clock_mhz=_ask(lambda: pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_MEM)),
        power_w="" if milliwatts == "" else milliwatts / 1e3,
        temperature_c=_ask(lambda: pynvml.nvmlDeviceGetTemperature(handle, pynvml.NVML_TEMPERATURE_GPU)),
        throttle="" if mask == "" else throttle_text(mask),
        memory_used_mib=memory_used_mib(handle),
        energy_mj=_ask(lambda: pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)),
    )


class Telemetry:
    """A context: while it is open, one thread appends `hz` readings a second to `path`.

    Without a GPU, and at 0 Hz, only the header is written.
    """

    def __init__(self, path: Path, gpu: int | None, hz: float = HZ) -> None:
        self.path = path
        self._trouble: OSError | None = None
        self._gpu = gpu if hz else None
        self._period_s = 1.0 / hz if hz else 0.0
        self._stop = threading.Event()
        self._paused = False
        self._thread: threading.Thread | None = None
        self._readings: list[Reading] = []

    def __enter__(self) -> Telemetry:
        self._begin()
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

    def pause(self, paused: bool) -> None:
        """Read nothing from now on, or go on reading."""
        self._paused = paused

    def _watch(self, handle: Any) -> None:
        tenants, others = Tenants(handle, memory_used_mib(handle)), Others()
        for number in count():
            if self._stop.wait(self._period_s):
                return
            if self._paused:
                continue
            reading = read(handle)
            if number % TENANTS_EVERY == 0:
                others = tenants.others(reading.memory_used_mib)
            reading = reading._replace(co_tenants=others.processes, co_tenant_mib=others.mib)
            self._readings.append(reading)
            self._append(reading)

    def _begin(self) -> None:
        """The file with its header; what an earlier attempt left of a line is cut off, and a link becomes a file."""
        stored = self.path.read_bytes().decode("utf-8", "replace") if self.path.exists() else ""
        whole = whole_lines(stored) or line(TELEMETRY)
        if whole != stored or self.path.is_symlink():
            write_aside(self.path, whole)

    def _append(self, reading: Reading) -> None:
        """A whole line or none. After the first that the file system refuses none is written; see `check`."""
        if self._trouble is not None:
            return
        try:
            append(self.path, line(reading))
        except OSError as error:
            self._trouble = error

    def check(self) -> None:
        """Raise the OSError that kept a reading from being written, if one did."""
        if self._trouble is not None:
            raise self._trouble

    def state(self, time_ns: int) -> dict[str, str]:
        """The machine at `time_ns`, the columns of schema.SAMPLES_STATE."""
        return state(self._readings, time_ns)

    def between(self, began_ns: int, ended_ns: int) -> list[Reading]:
        """The readings in a span, in order."""
        return [reading for reading in list(self._readings) if began_ns <= reading.time_ns <= ended_ns]

    def energy_j(self, time_ns: int) -> float | None:
        """The card's energy counter in joules at `time_ns`; None where it was not read around that time."""
        return energy_j(self._readings, time_ns)

    def memory_used(self, time_ns: int) -> str:
        """MiB of device memory in use at `time_ns`, by whatever process; empty where nothing was read near it."""
        best = near(self._readings, time_ns)
        return "" if best is None else str(best.memory_used_mib)


def line(row: Sequence[object]) -> str:
    """One line of CSV."""
    buffer = io.StringIO(newline="")
    csv.writer(buffer).writerow(row)
    return buffer.getvalue()


def append(path: Path, text: str) -> None:
    """Append to a file that is there, all of it or nothing. Raises OSError with the path."""
    data = text.encode()
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW)
        try:
            written = os.write(descriptor, data)
            if written < len(data):
                os.truncate(descriptor, os.fstat(descriptor).st_size - written)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        finally:
            os.close(descriptor)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


def state(readings: list[Reading], time_ns: int) -> dict[str, str]:
    """The machine by the reading near a time; empty texts where there is none."""
    best = near(readings, time_ns)
    return {column: "" if best is None else str(getattr(best, column)) for column in SAMPLES_STATE}


def energy_j(readings: list[Reading], time_ns: int) -> float | None:
    """The energy counter in joules at a time, on the straight line between the readings before and behind it.

    None where one of the two is missing, further than TOLERANCE_NS away, or has no counter.
    """
    after = bisect_left(readings, time_ns, key=lambda reading: reading.time_ns)
    if not 0 < after < len(readings):
        return None
    low, high = readings[after - 1], readings[after]
    if not (isinstance(low.energy_mj, int) and isinstance(high.energy_mj, int)):
        return None
    if max(time_ns - low.time_ns, high.time_ns - time_ns) > TOLERANCE_NS:
        return None
    share = (time_ns - low.time_ns) / (high.time_ns - low.time_ns)
    return (low.energy_mj + share * (high.energy_mj - low.energy_mj)) / 1e3


def near(readings: list[Reading], time_ns: int) -> Reading | None:
    """The reading nearest in time, if within TOLERANCE_NS."""
    after = bisect_left(readings, time_ns, key=lambda reading: reading.time_ns)
    around = readings[max(0, after - 1) : after + 1]
    best = min(around, key=lambda reading: abs(reading.time_ns - time_ns), default=None)
    return None if best is None or abs(best.time_ns - time_ns) > TOLERANCE_NS else best
