"""Files from elsewhere: every command on every damage to every file ends in one sentence, never in a trace."""

from __future__ import annotations

import os
import shutil

import pytest

from tests import runs
from tests.damage import forget_digests
from tests.reports import foreign
from tests.reports.foreign import COMMANDS

EVERY = bool(os.environ.get("LATENCY_TEST_EVERY"))
"""Every command on every file, some minutes; else about a third of that."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run of fake cases as the harness leaves it, whose digests don't tell an edit."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    assert runs.execute_in(folder, "sweep.blocks=1") == 0
    shutil.rmtree(folder / "blocks")
    forget_digests(folder)
    return folder


def commands(name):
    """Which commands read a damaged file: all of them two files, and each file where all is asked for."""
    chosen = ("report", "compare", "validate") if name in ("manifest.json", "samples.csv") else ("report",)
    return tuple(COMMANDS) if EVERY or name == "manifest.json" else chosen


SAID = "each command says so in one sentence, with the file's name; exit code 2, of validate 1"


def asked(whole, tmp_path, capsys, name, spoil, commands):
    """Every command on a run with one file spoilt; each ends in one sentence that names the file. How many did."""
    run = shutil.copytree(whole, tmp_path / name.replace(".", "_") / "run")
    spoil(run / name)
    for which in commands:
        code = COMMANDS[which](run, whole)
        printed = capsys.readouterr()
        assert "Traceback" not in printed.err
        if code == 1:
            assert which == "validate"
            lines = [line for line in printed.out.splitlines() if "FAILED" in line]
            assert lines
            assert max(map(len, lines)) < 500
            continue
        assert code == 2, f"{which} took {name}: {printed.out}"
        assert printed.err.count("\n") == 1, printed.err
        assert name in printed.err
        assert len(printed.err) < 600
        assert printed.out == ""
    return len(commands)


def test_the_commands_take_the_run_as_it_is(whole, tmp_path, capsys):
    assert [COMMANDS[which](whole, whole) for which in ("report", "compare", "validate")] == [0, 0, 0]
    assert "FAILED" not in capsys.readouterr().out


@pytest.mark.parametrize("kind", foreign.ANY)
def test_any_file_damaged(whole, tmp_path, capsys, fault, kind):
    row = fault("Files", f"{kind}: a CSV, or manifest.json")
    tried = [asked(whole, tmp_path, capsys, name, foreign.ANY[kind], commands(name)) for name in foreign.READ]
    row.happened(SAID, times=sum(tried))


@pytest.mark.parametrize("kind", foreign.CSV)
def test_a_csv_damaged(whole, tmp_path, capsys, fault, kind):
    row = fault("Files", f"{kind}: a CSV")
    tried = [
        asked(whole, tmp_path, capsys, name, foreign.csv_damage(kind, name), commands(name)) for name in foreign.NUMBER
    ]
    row.happened(SAID, times=sum(tried))


@pytest.mark.parametrize("kind", foreign.JSON)
def test_a_manifest_damaged(whole, tmp_path, capsys, fault, kind):
    row = fault("Files", f"{kind}: manifest.json")
    which = foreign.ALONE.get(kind, ("report", "compare", "validate"))
    row.happened(SAID, times=asked(whole, tmp_path, capsys, "manifest.json", foreign.JSON[kind], which))
