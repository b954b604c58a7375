"""What must hold around a measurement, and what is said when it does not. Nothing on the card is ever changed."""

from __future__ import annotations

from collections.abc import Sequence

from harness.machine.gpu import Gpu
from harness.machine.telemetry import Reading
from harness.schema import UNTHROTTLED
from harness.settings.config import RunConfig

MOST_HZ = 100
LONGEST_ENERGY_S = 600
MOST_LENGTHS = 40
SPREAD = 0.05
"""Share of the highest SM clock by which the clock may vary under one load and be called steady."""
LEAST_READINGS = 5
EXPECTED = {*UNTHROTTLED, "sw_power_cap"}
"""Reasons that say nothing against a card: a large matrix product takes any of them to its power cap."""


def check(config: RunConfig) -> None:
    """The keys of telemetry and energy. Raises ValueError with one sentence."""
    hz, energy = config.telemetry.hz, config.energy
    if not 0 <= hz <= MOST_HZ:
        raise ValueError(f"telemetry.hz={hz:g} must lie between 0 (off) and {MOST_HZ} readings a second")
    for name in config.telemetry.paused_in:
        if name not in config.run:
            raise ValueError(f"telemetry.paused_in names {name}, which is no case of run: {', '.join(config.run)}")
    if not 0 <= energy.seconds <= LONGEST_ENERGY_S:
        raise ValueError(f"energy.seconds={energy.seconds:g} must lie between 0 (off) and {LONGEST_ENERGY_S} seconds")
    if energy.blocks < 1:
        raise ValueError(f"energy.blocks={energy.blocks} must be at least 1; energy.seconds=0 measures no energy")


def before(gpu: Gpu | None) -> list[str]:
    """A sentence for each thing about the GPU, before anything runs on it, that a measurement can suffer from."""
    if gpu is None:
        return []
    found = []
    if gpu.processes:
        known = gpu.holding or (None,) * len(gpu.processes)
        each = [f"{pid} ({'?' if mib is None else mib} MiB)" for pid, mib in zip(gpu.processes, known, strict=True)]
        found.append(f"GPU {gpu.index} is also used by process {', '.join(each)}")
    if gpu.persistence is False:
        found.append(
            f"GPU {gpu.index} has persistence mode off: the driver may unload between processes, and cold starts differ"
        )
    return found


def unsteady(calibration: Sequence[Reading]) -> str:
    """One sentence when the SM clock was not steady while the calibration loaded the GPU; empty when it was.

    The rule: of the readings during the calibration, those of an idle card apart, none is slowed down by anything but
    the power cap; and those that nothing slows down lie within SPREAD of the highest. Fewer than LEAST_READINGS say
    nothing. A reading beside an idle or a slowed one has no part in the second: the clock is on its way, and the driver
    names the reason a tenth of a second later.
    """
    busy = [reading for reading in calibration if "idle" not in reading.throttle.split("|")]
    if len(busy) < LEAST_READINGS:
        return ""
    slowed = sorted({reason for reading in busy for reason in reading.throttle.split("|")} - EXPECTED)
    if slowed:
        return f"the SM clock is not steady: the card slowed down during the calibration by {', '.join(slowed)}"
    beside = zip(calibration, calibration[1:], calibration[2:], strict=False)
    free = [reading for before, reading, after in beside if not before.throttle + reading.throttle + after.throttle]
    clocks = [reading.sm_clock_mhz for reading in free if reading.sm_clock_mhz != ""]
    low, high = (int(end(clocks)) for end in (min, max)) if clocks else (0, 0)
    if high - low > SPREAD * high:
        return (
            f"the SM clock is not steady: between {low} and {high} MHz during the calibration, with nothing that slows "
            f"it down, where {SPREAD:.0%} are allowed"
        )
    return ""


def why_no_energy(config: RunConfig, gpu: Gpu | None) -> str:
    """Why a run can't measure energy, empty when it can."""
    if config.energy.seconds == 0:
        return "energy.seconds is 0"
    if gpu is None:
        return "the run is on the CPU, and the counter is the GPU's"
    if not gpu.energy_counter:
        return f"NVML gives no energy counter for this {gpu.name}"
    if config.telemetry.hz == 0:
        return "telemetry.hz is 0, and the telemetry reads the counter"
    if config.sweep.workload != "latency":
        return f"the workload {config.sweep.workload} has no energy stage"
    lengths = len(config.sweep.prompt_lengths)
    if lengths > MOST_LENGTHS:
        return f"the sweep has {lengths} prompt lengths, and more than {MOST_LENGTHS} take too long"
    return ""
