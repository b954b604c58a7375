"""Files of a report that two processes write at once, and what a killed one leaves."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from reports import write
from reports.write import aside, put
from tests.runs import ROOT

DEADLINE_S = 120


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_two_that_write_one_file_at_once_leave_one_of_both(tmp_path):
    path = tmp_path / "table.csv"
    with aside(path) as file:
        file.write(b"the first")
        put(path, "the second")
        assert path.read_text() == "the second"
    assert path.read_text() == "the first"
    assert names(tmp_path) == ["table.csv"]


def test_what_a_killed_process_left_is_taken_away_and_nothing_else(tmp_path, fault):
    tried = fault("Files", "SIGKILL while a file of a report is written")
    path = tmp_path / "table.csv"
    path.write_text("old")
    code = (
        "import os, pathlib, signal, sys; from reports.write import aside\n"
        "with aside(pathlib.Path(sys.argv[1])) as file: file.write(b'half'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], cwd=ROOT, check=False, timeout=DEADLINE_S)
    assert done.returncode == -signal.SIGKILL
    assert len(names(tmp_path)) == 2
    assert path.read_text() == "old"
    outside = tmp_path / "outside"
    outside.write_text("mine")
    (tmp_path / ".table.csv.0.new").symlink_to(outside)
    os.mkfifo(tmp_path / ".table.csv.1.new")
    others = [".other.csv.0.new", ".table.csv.0.old"]
    for name in others:
        (tmp_path / name).touch()
    put(path, "new")
    assert names(tmp_path) == sorted([*others, "outside", "table.csv"])
    assert (path.read_text(), outside.read_text()) == ("new", "mine")
    tried.happened("the old file is there; what it left aside is gone when the file is written again")


def test_a_file_that_is_swept_away_before_it_is_locked_is_made_again(tmp_path, monkeypatch):
    path, lock, made = tmp_path / "table.csv", write.fcntl.flock, []

    def late(file, operation):
        if not made:
            made.extend(names(tmp_path))
            (tmp_path / made[0]).unlink()
        lock(file, operation)

    monkeypatch.setattr(write.fcntl, "flock", late)
    put(path, "whole")
    assert (names(tmp_path), path.read_text()) == (["table.csv"], "whole")


def test_a_file_system_without_locks_is_written_to_and_swept_of_nothing(tmp_path, monkeypatch):
    def unknown(file, operation):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(write.fcntl, "flock", unknown)
    (tmp_path / ".table.csv.0.new").touch()
    put(tmp_path / "table.csv", "whole")
    assert names(tmp_path) == [".table.csv.0.new", "table.csv"]


def test_an_error_leaves_nothing_aside(tmp_path):
    with pytest.raises(TypeError):
        put(tmp_path / "table.csv", 1)  # type: ignore[arg-type]
    assert names(tmp_path) == []


def test_two_processes_that_write_the_same_files_at_once_are_not_in_each_others_way(tmp_path, fault):
    tried = fault("Two runs", "two reports that write the same files of one run at once")
    code = (
        "import pathlib, sys; from reports.write import put\n"
        "print('ready', flush=True); sys.stdin.readline()\n"
        "for turn in range(100):\n"
        "    for name in ('a.csv', 'a.md', 'a.png'): put(pathlib.Path(sys.argv[1], name), sys.argv[2] * 9999)"
    )
    both = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path), letter],
            cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for letter in "xy"
    ]  # fmt: skip
    for process in both:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in both:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    said = [process.communicate(timeout=DEADLINE_S)[1] for process in both]
    assert ([process.returncode for process in both], said) == ([0, 0], ["", ""])
    assert names(tmp_path) == ["a.csv", "a.md", "a.png"]
    assert {path.read_text() for path in tmp_path.iterdir()} <= {"x" * 9999, "y" * 9999}
    tried.happened("both exit 0; each file is that of one of them, whole; nothing left aside")
