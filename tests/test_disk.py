"""The disk full, closed or gone under a run: one sentence, nothing half, and the run goes on once that is mended."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

from harness.machine import telemetry
from harness.schema import TELEMETRY
from reports.write import put
from tests.killed import Runs
from tests.whole import assert_complete, assert_whole_or_absent, samples

LONG = ["sweep.ttft_iterations=60"]
"""Samples of a block are then more than a page, and a full disk cuts them within a line."""
pytestmark = pytest.mark.kills
PAGES = range(int(os.environ["PAGES"])) if "PAGES" in os.environ else (2, 10, 23, 29)
"""Free pages of the full disk; `make test-kills` tries every number of them."""
PAGE = 4096


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    made = Runs(tmp_path_factory.mktemp("runs") / "beside")
    yield made
    made.close()


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 512 KiB in memory."""
    place = tmp_path / "disk"
    place.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k", "none", place], capture_output=True, check=False)
    if done.returncode != 0:
        pytest.skip("no file system can be mounted here")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


def fill(place: Path, pages: int) -> Path:
    """A file that leaves so many free pages."""
    free = os.statvfs(place).f_bavail * os.statvfs(place).f_bsize // PAGE
    (place / "filler").write_bytes(b"\0" * (free - pages) * PAGE)
    assert os.statvfs(place).f_bavail == pages
    return place / "filler"


def said(done: SimpleNamespace) -> str:
    """The last line of a run that ended with one sentence, which is no trace."""
    assert "Traceback" not in done.log, done.log
    lines = done.log.splitlines()
    assert sum(line.startswith(("failed:", "error:")) for line in lines) == 1, done.log
    return lines[-1]


def test_a_full_disk_ends_a_run_with_one_sentence_and_it_goes_on_with_space(runs, tmp_path, small_disk, fault):
    tried = fault(
        "Disk", "full (real ENOSPC), at another point of the run each time: from its first file to its tables"
    )
    assert runs(tmp_path / "undisturbed", overrides=LONG).code == 0
    expected, full = samples(tmp_path / "undisturbed"), []
    for pages in PAGES:
        folder = small_disk / "run"
        filler = fill(small_disk, pages)
        done = runs(folder, overrides=LONG)
        filler.unlink()
        if done.code == 0:
            break
        sentence = said(done)
        assert "No space left on device" in sentence
        assert_whole_or_absent(folder)
        begun = (folder / "settings.json").exists()
        assert done.code == (1 if begun else 2), done.log
        if begun and "OSError" not in sentence:
            assert sentence.endswith(f"free some space, then go on with: python -m harness resume={folder}")
        full.append(sentence.partition(" can't be written")[0].partition(f"{folder}/")[2] if begun else "settings.json")
        again = runs(folder, resume=True) if begun else runs(folder, overrides=LONG)
        assert again.code == 0, again.log
        assert_complete(folder, expected)
        shutil.rmtree(folder)
    assert len(set(full)) >= 3, full
    tried.happened("one sentence with the file and how to go on; all files whole or absent; resumed: each sample once",
                   len(full))  # fmt: skip


REMOVED = [
    ("the run's folder", "", 1, "was removed while the run went on: start the run again"),
    ("the folder of the blocks", "blocks", 1, "blocks/{done}/verdict.json was removed while the run went on: "
     "go on with: python -m harness resume={folder}"),
    ("the run's samples.csv", "samples.csv", 0, ""),
    ("telemetry.csv", "telemetry.csv", 1, "telemetry.csv was removed while the run went on: go on with: "
     "python -m harness resume={folder}"),
    ("job.json", "job.json", 1, "job.json was removed while the run went on: go on with: "
     "python -m harness resume={folder}"),
    ("samples.csv of the block at work", "blocks/{working}/samples.csv", 1, "failed: {case} block 0 "
     "(FileNotFoundError: [Errno 2] removed while the block ran: '{folder}/blocks/{working}/samples.csv')"),
]  # fmt: skip


@pytest.mark.parametrize(("what", "path", "code", "sentence"), REMOVED, ids=[row[0] for row in REMOVED])
def test_what_is_removed_under_a_run_is_named_and_nothing_is_measured_beside_it(
    runs, second, tmp_path, fault, what, path, code, sentence
):
    tried = fault("Disk", f"{what} removed while a block runs")
    expected, (first, working), slow = second
    folder = tmp_path / "run"
    names = {"done": first, "working": working, "folder": folder, "case": working.partition("-")[0]}
    at = folder / path.format(**names)
    done = runs(folder, overrides=slow, when=str(folder / f"blocks/{working}/samples.csv"), do=["rm", "-r", str(at)])
    assert done.code == code, done.log
    if code:
        assert said(done).endswith(sentence.format(**names)), done.log
    if not path:
        assert not folder.exists()
        assert runs(folder, overrides=slow).code == 0
    else:
        assert_whole_or_absent(folder)
        assert runs(folder, resume=True).code == 0
    assert_complete(folder, expected)
    tried.happened("made again from the blocks" if not code else
                   "one sentence with the path; whole again by " + ("resume" if path else "a new start"))  # fmt: skip


@pytest.fixture(scope="module")
def second(runs, tmp_path_factory):
    """Samples of an undisturbed run, its two blocks in their order, and overrides that make the second take a while."""
    folder = tmp_path_factory.mktemp("second") / "run"
    assert runs(folder).code == 0
    expected = samples(folder)
    cases = list(dict.fromkeys(row[0] for row in expected))
    return expected, [f"{case}-0" for case in cases], [f"++cases.{cases[1]}.decode_s=0.1"]


def test_a_folder_that_becomes_read_only_under_a_run_is_one_sentence(runs, second, tmp_path, fault):
    tried = fault("Disk", "the run's folder takes no new file from the middle of a run on (immutable)")
    expected, (_, working), slow = second
    folder = tmp_path / "run"
    if subprocess.run(["chattr", "+i", tmp_path], capture_output=True, check=False).returncode != 0:
        pytest.skip("this file system has no immutable folders, or this user may make none")
    subprocess.run(["chattr", "-i", tmp_path], check=True)
    wait = str(folder / f"blocks/{working}/samples.csv")
    done = runs(folder, overrides=slow, when=wait, do=["chattr", "+i", str(folder)])
    refused = runs(folder, resume=True)
    subprocess.run(["chattr", "-i", folder], check=True)
    assert done.code == 1
    ending = (
        f"can't be written (Operation not permitted): mend that, then go on with: python -m harness resume={folder}"
    )
    assert said(done).endswith(ending)
    assert refused.code == 1
    assert said(refused).endswith(ending)
    assert_whole_or_absent(folder)
    assert runs(folder, resume=True).code == 0
    assert_complete(folder, expected)
    tried.happened("one sentence with the path; all files whole or absent; resumed: each sample once")


def test_a_file_system_mounted_read_only_is_refused_before_anything_starts(runs, small_disk, fault):
    tried = fault("Disk", "read-only file system (remounted), for a new run and for one that goes on")
    folder = small_disk / "run"
    assert runs(folder, at=60).code == -9
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    for place, more in ((folder, {"resume": True}), (small_disk / "other", {})):
        done = runs(place, **more)
        assert done.code == 2
        assert said(done).startswith(f"error: output={place} can't be ")
        assert "Read-only file system" in said(done)
    subprocess.run(["mount", "-o", "remount,rw", small_disk], check=True)
    assert runs(folder, resume=True).code == 0
    tried.happened("refused in one sentence, exit code 2; resumed once it can be written to", times=2)


def reading(number: int) -> telemetry.Reading:
    return telemetry.Reading(number, 1980, 2619, 120.5, 40, "sw_power_cap", 3)


def test_telemetry_outlives_a_full_disk_and_a_removed_file_and_says_so_later(small_disk, monkeypatch, fault):
    tried = fault("Disk", "full, or telemetry.csv removed, under the thread that reads the GPU")
    monkeypatch.setattr(telemetry.pynvml, "nvmlInit", lambda: None)
    monkeypatch.setattr(telemetry.pynvml, "nvmlShutdown", lambda: None)
    monkeypatch.setattr(telemetry.pynvml, "nvmlDeviceGetHandleByIndex", lambda index: "handle")
    monkeypatch.setattr(telemetry, "memory_used_mib", lambda handle: 3)
    monkeypatch.setattr(telemetry.Tenants, "others", lambda self, used: telemetry.Others())
    monkeypatch.setattr(telemetry, "read", lambda handle: reading(telemetry.time.perf_counter_ns()))
    path = small_disk / "telemetry.csv"
    for fault_of, error in ((lambda: fill(small_disk, 0), OSError), (path.unlink, FileNotFoundError)):
        with telemetry.Telemetry(path, 0, hz=1000) as watching:
            fault_of()
            before = telemetry.time.perf_counter_ns()
            while watching._trouble is None:
                telemetry.time.sleep(0.01)
            while not watching.between(before + 50_000_000, 2**63):
                telemetry.time.sleep(0.01)
            with pytest.raises(error, match=r"telemetry\.csv"):
                watching.check()
            assert watching._thread.is_alive()
        if path.exists():
            text = path.read_text()
            assert text.endswith("\n")
            assert {line.count(",") for line in text.splitlines()} == {len(TELEMETRY) - 1}
            (small_disk / "filler").unlink()
    tried.happened("the thread reads on; the file ends with a whole line; the run is told at its next block", times=2)


def test_telemetry_goes_on_behind_the_last_whole_line(tmp_path):
    path = tmp_path / "telemetry.csv"
    with telemetry.Telemetry(path, None):
        pass
    header = path.read_bytes().decode()
    for torn in ("", "time_ns,sm_", header, header + telemetry.line(reading(1)) + "2,1980,26"):
        path.write_bytes(torn.encode())
        with telemetry.Telemetry(path, None):
            pass
        telemetry.append(path, telemetry.line(reading(3)))
        kept = [telemetry.line(reading(1))] if "2,1980,26" in torn else []
        assert path.read_bytes().decode() == "".join([header, *kept, telemetry.line(reading(3))])


def test_a_file_of_a_report_on_a_full_disk_is_the_old_one_or_none(small_disk, fault):
    tried = fault("Disk", "full (real ENOSPC) while a report is written")
    old, new = small_disk / "old.csv", small_disk / "new.png"
    put(old, "a\n")
    fill(small_disk, 1)
    with pytest.raises(OSError, match=r"No space left on device: '.*/old\.csv'"):
        put(old, "b\n" * PAGE)
    with pytest.raises(OSError, match=r"No space left on device: '.*/new\.png'"):
        put(new, b"\0" * 3 * PAGE)
    assert sorted(path.name for path in small_disk.iterdir()) == ["filler", "old.csv"]
    assert old.read_text() == "a\n"
    tried.happened("an error with the file's path; the old file or none, nothing left aside", times=2)
