"""The state of the machine beside the samples: readings, the join, who else computes, what is warned of."""

from __future__ import annotations

import csv
import json
import os
import re
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from harness.machine import gpu, telemetry, tenants
from harness.machine.gpu import Gpu, list_gpus
from harness.machine.telemetry import Reading
from harness.output import record
from harness.schema import SAMPLES_STATE
from harness.settings import conditions
from harness.settings.compose import compose_raw, to_config
from tests.runs import EXTRA, execute_in, samples

ROOT = Path(__file__).resolve().parent.parent
ME = os.getpid()
H200 = Gpu(0, "H200", "GPU-abc", "570", 143_000, 140_000, ())


def on(*found: tuple[int, int | None]):
    """What NVML lists: process ids, and MiB."""
    return [SimpleNamespace(pid=pid, usedGpuMemory=None if mib is None else mib << 20) for pid, mib in found]


def test_telemetry_reads_the_gpu_while_it_is_open(tmp_path, monkeypatch):
    asked = threading.Event()

    def no_power(handle):
        asked.set()
        raise telemetry.pynvml.NVMLError(telemetry.pynvml.NVML_ERROR_NOT_SUPPORTED)

    answers = {
        "nvmlInit": None, "nvmlShutdown": None, "nvmlDeviceGetHandleByIndex": "handle",
        "nvmlDeviceGetCurrentClocksThrottleReasons": 4, "nvmlDeviceGetMemoryInfo": SimpleNamespace(used=3 << 20),
        "nvmlDeviceGetClockInfo": 1980, "nvmlDeviceGetTemperature": 40, "nvmlDeviceGetTotalEnergyConsumption": 5000,
        "nvmlDeviceGetComputeRunningProcesses": [SimpleNamespace(pid=1, usedGpuMemory=2 << 20)],
    }  # fmt: skip
    for name, answer in answers.items():
        monkeypatch.setattr(telemetry.pynvml, name, lambda *_, answer=answer: answer)
    monkeypatch.setattr(telemetry.pynvml, "nvmlDeviceGetPowerUsage", no_power)
    path = tmp_path / "telemetry.csv"
    with telemetry.Telemetry(path, 0) as watching:
        assert asked.wait(30)
    rows = list(csv.DictReader(path.open()))
    assert rows[0]["sm_clock_mhz"] == "1980"
    assert (rows[0]["power_w"], rows[0]["throttle"], rows[0]["memory_used_mib"]) == ("", "sw_power_cap", "3")
    assert rows[0]["energy_mj"] == "5000"
    assert watching.state(int(rows[0]["time_ns"])) == {
        "sm_clock_mhz": "1980", "throttle": "sw_power_cap", "temperature_c": "40", "power_w": "",
        "co_tenants": "1", "co_tenant_mib": "2",
    }  # fmt: skip


def test_samples_take_the_nearest_reading_and_lose_an_unfinished_line(tmp_path):
    path = tmp_path / "samples.csv"
    header = ",".join(record.SAMPLES)
    path.write_text(
        f"{header}\nfake,0,ttft,10,10,0,5000,1.25,,,7,0,,,0,1,0,0,0,0,1.25,0,0,,,,,2.25,,\nfake,0,ttft,10,10,1,60"
    )
    readings = [telemetry.Reading(time, clock, 1, 1.5, 1, reason, 1, 9, 2, "") for time, clock, reason in
                [(0, 900, ""), (4000, 1980, "sw_power_cap"), (9000, 100, "idle")]]  # fmt: skip
    record.join_conditions(path, lambda time_ns: telemetry.state(readings, time_ns))
    whole = "fake,0,ttft,10,10,0,5000,1.25,,,7,0,1980,sw_power_cap,0,1,0,0,0,0,1.25,0,0,1,1.5,2,,2.25,,"
    assert path.read_text() == f"{header}\n{whole}\n"


def test_no_reading_near_by_is_no_condition():
    far = telemetry.Reading(10 * telemetry.TOLERANCE_NS, 1, 1, 1.0, 1, "", 1)
    assert set(telemetry.state([far], 0).values()) == {""}
    assert telemetry.state([], 0) == dict.fromkeys(SAMPLES_STATE, "")


def test_throttle_reasons_are_named():
    assert telemetry.throttle_text(0) == ""
    assert telemetry.throttle_text(0x1) == "idle"
    assert telemetry.throttle_text(0x4 | 0x20) == "sw_power_cap|sw_thermal"
    assert telemetry.throttle_text(1 << 40) == "0x10000000000"


@pytest.mark.gpu
def test_nvml_describes_the_gpu_and_telemetry_reads_it(tmp_path):
    gpus, why = list_gpus()
    if not gpus:
        pytest.skip(why)
    assert gpus[0].memory_mib >= gpus[0].free_mib > 0
    with telemetry.Telemetry(tmp_path / "telemetry.csv", gpus[0].index) as watching:
        time.sleep(5 / telemetry.HZ)
        found = watching.state(time.perf_counter_ns())
    assert int(found["sm_clock_mhz"]) > 0
    assert int(found["temperature_c"]) > 0


PARENTS = {ME: 1, 50: ME, 51: 50, 70: 1, 71: 1}


@pytest.mark.parametrize(
    ("before", "now", "others"),
    [
        ([], [(51, 9000)], (0, 0)),
        ([(70, 5)], [(51, 9000), (70, 5)], (1, 5)),
        ([(70, 5)], [(70, 5), (71, 7)], (2, 12)),
        ([(70, 5)], [(70, 5), (51, None), (71, None)], (2, "")),
        ([], [(900, 9000)], (0, 0)),
        ([(901, 4)], [(900, 9000), (901, 4), (902, 3)], (2, 7)),
    ],
    ids=["own", "one was there", "one came", "sizes hidden", "own, numbered otherwise", "others, numbered otherwise"],
)
def test_processes_of_this_run_are_no_co_tenants(monkeypatch, before, now, others):
    answers = iter([on(*before), on(*now)])
    monkeypatch.setattr(gpu.pynvml, "nvmlDeviceGetComputeRunningProcesses", lambda handle: next(answers))
    watch = tenants.Tenants("handle", 600, PARENTS.get)
    assert watch.others(600) == others


def test_who_hides_behind_an_empty_list_is_not_known(monkeypatch):
    monkeypatch.setattr(gpu.pynvml, "nvmlDeviceGetComputeRunningProcesses", lambda handle: [])
    watch = tenants.Tenants("handle", 600)
    assert watch.others(600) == (0, 0)
    assert watch.others(14_000) == ("", "")


def test_parents_are_read_from_the_system():
    assert tenants.parent_of(ME) == os.getppid()
    assert tenants.parent_of(2**22 + 1) is None


def test_the_energy_counter_is_read_between_two_readings():
    readings = [Reading(at, 1, 1, 1.0, 1, "", 1, energy) for at, energy in [(100, 1000), (200, 3000), (300, "")]]
    assert telemetry.energy_j(readings, 150) == 2.0
    assert telemetry.energy_j(readings, 200) == 3.0
    assert [telemetry.energy_j(readings, at) for at in (50, 250, 400)] == [None] * 3
    far = [Reading(0, 1, 1, 1.0, 1, "", 1, 1), Reading(3 * telemetry.TOLERANCE_NS, 1, 1, 1.0, 1, "", 1, 2)]
    assert telemetry.energy_j(far, 5) is None


def test_a_pause_reads_nothing(tmp_path, monkeypatch):
    asked = threading.Event()
    monkeypatch.setattr(telemetry, "read", lambda handle: asked.set() or pytest.fail("the card was read"))
    for name in ("nvmlInit", "nvmlShutdown", "nvmlDeviceGetHandleByIndex"):
        monkeypatch.setattr(telemetry.pynvml, name, lambda *_: None)
    monkeypatch.setattr(telemetry, "Tenants", lambda *_: None)
    monkeypatch.setattr(telemetry, "memory_used_mib", lambda handle: 0)
    watching = telemetry.Telemetry(tmp_path / "telemetry.csv", 0, hz=100)
    watching.pause(True)
    with watching:
        assert not asked.wait(0.2)
    assert len((tmp_path / "telemetry.csv").read_text().splitlines()) == 1


@pytest.mark.parametrize(("hz", "device"), [(0, 0), (10, None)])
def test_without_readings_there_is_only_the_header(tmp_path, monkeypatch, hz, device):
    monkeypatch.setattr(telemetry.pynvml, "nvmlInit", lambda: pytest.fail("NVML was asked"))
    with telemetry.Telemetry(tmp_path / "telemetry.csv", device, hz) as watching:
        assert set(watching.state(time.perf_counter_ns()).values()) == {""}
    assert len((tmp_path / "telemetry.csv").read_text().splitlines()) == 1


def calibration(*clocks: int, throttle: str = "") -> list[Reading]:
    return [Reading(at, clock, 1, 1.0, 1, throttle, 1) for at, clock in enumerate(clocks)]


@pytest.mark.parametrize(
    ("readings", "sentence"),
    [
        (calibration(1980, 1980, 1970, 1980, 1965), ""),
        (calibration(1980, 1500, 1980, 1980), ""),
        (calibration(1980, 1500, 1980, 1980, 1980), "between 1500 and 1980 MHz during the calibration"),
        (calibration(*[1500, 1980] * 3, throttle="sw_power_cap"), ""),
        (calibration(*[345] * 3, throttle="idle") + calibration(*[1980] * 6), ""),
        (calibration(345, throttle="idle") + calibration(345, *[1980] * 6), ""),
        (calibration(*[1980] * 6, 1500) + calibration(1935, 1965, throttle="sw_power_cap"), ""),
        (
            calibration(*[1980] * 6, 1500, 1980) + calibration(1935, throttle="sw_power_cap"),
            "between 1500 and 1980 MHz during the calibration",
        ),
        (
            calibration(*[1980] * 6, throttle="sw_power_cap|hw_thermal"),
            "slowed down during the calibration by hw_therm",
        ),
    ],
    ids=[
        "steady",
        "too few",
        "unsteady",
        "at the power cap",
        "idle at first",
        "waking",
        "the cap unnamed yet",
        "unsteady before the cap",
        "hot",
    ],
)
def test_a_clock_is_steady_by_one_rule(readings, sentence):
    found = conditions.unsteady(readings)
    assert sentence in found
    assert bool(sentence) == bool(found)


def test_what_a_measurement_suffers_from_is_warned_of():
    shared = Gpu(0, "H200", "GPU-abc", "570", 143_000, 140_000, (7, 8), (512, None), persistence=False)
    first, second = conditions.before(shared)
    assert first == "GPU 0 is also used by process 7 (512 MiB), 8 (? MiB)"
    assert second.startswith("GPU 0 has persistence mode off")
    assert conditions.before(H200) == conditions.before(None) == []


def test_warnings_are_said_before_the_run_and_kept(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(conditions, "before", lambda gpu: ["the room is hot"])
    monkeypatch.setattr(conditions, "unsteady", lambda readings: "the clock wobbles")
    assert execute_in(tmp_path, "run=[fake]") == 0
    said = capsys.readouterr().out
    assert said.index("warning: the room is hot") < said.index("warning: the clock wobbles") < said.index("Fake")
    assert json.loads((tmp_path / "manifest.json").read_text())["warnings"] == ["the room is hot", "the clock wobbles"]
    assert {row["sm_clock_mhz"] + row["co_tenants"] for row in samples(tmp_path, "fake")} == {""}


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("telemetry.hz=-1", "telemetry.hz=-1 must lie between 0"),
        ("telemetry.paused_in=[eager]", "telemetry.paused_in names eager, which is no case of run"),
        ("energy.seconds=-1", "energy.seconds=-1 must lie between 0"),
        ("energy.blocks=0", "energy.blocks=0 must be at least 1"),
    ],
)
def test_keys_of_telemetry_and_energy_are_checked(tmp_path, override, sentence):
    with pytest.raises(ValueError, match=sentence):
        conditions.check(to_config(compose_raw(["run=[baseline]", override], EXTRA)))


def test_why_energy_is_not_measured():
    def why(gpu: Gpu | None, *overrides: str) -> str:
        return conditions.why_no_energy(to_config(compose_raw(list(overrides), EXTRA)), gpu)

    counting = Gpu(0, "H200", "GPU-abc", "570", 143_000, 140_000, (), energy_counter=True)
    assert why(counting) == ""
    assert why(counting, "energy.seconds=0") == "energy.seconds is 0"
    assert why(counting, "telemetry.hz=0").startswith("telemetry.hz is 0")
    assert why(counting, "sweep=stream") == "the workload stream has no energy stage"
    assert why(counting, "sweep=every_length").startswith("the sweep has 500 prompt lengths")
    assert why(H200) == "NVML gives no energy counter for this H200"
    assert why(None) == "the run is on the CPU, and the counter is the GPU's"


def test_nothing_on_the_card_is_ever_set():
    """Every call of NVML in the tree asks; those that set begin with nvmlDeviceSet, Reset or Clear."""
    files = [path for package in ("cases", "harness", "reports") for path in (ROOT / package).rglob("*.py")]
    called = {word for path in files for word in telemetry_words(path.read_text(encoding="utf-8"))}
    assert "nvmlDeviceGetTotalEnergyConsumption" in called
    assert {word for word in called if not word.startswith(("nvmlDeviceGet", "nvmlSystemGet"))} <= {
        "nvmlInit", "nvmlShutdown", "nvmlClocksThrottleReason",
    }  # fmt: skip


def telemetry_words(text: str) -> set[str]:
    """Names of NVML in a text; the reasons for a slow clock, which are constants, as one."""
    found = set(re.findall(r"nvml[A-Z]\w*", text))
    return {"nvmlClocksThrottleReason" if word.startswith("nvmlClocksThrottleReason") else word for word in found}
