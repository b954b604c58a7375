"""Commands whose standard output takes nothing: a sentence or silence, and never a trace."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from harness.output.spoken import FAILED, spoken

ROOT = Path(__file__).resolve().parents[1]
RUN = "results/published/h200-2026-11-22-aa"
COMMANDS = {
    "help": ["harness", "--help"],
    "help of validate": ["harness", "validate", "--help"],
    "help of reports": ["reports", "--help"],
    "plan": ["harness", "experiment=smoke", "dry_run=true"],
    "validate": ["harness", "validate", RUN],
    "report": ["reports", RUN, "--terminal"],
    "compare": ["reports", "compare", RUN, RUN],
    "kernels": ["reports.kernels", "results/kernels/llama2_7b-float16"],
}


def said(command: list[str], output: int, *shell: str) -> tuple[int, str]:
    """Exit code and what stands on standard error; it prints through a buffer, as by default."""
    call = [*shell, sys.executable, "-m", *command]
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    ended = subprocess.run(
        call, cwd=ROOT, env=buffered, stdout=output, stderr=subprocess.PIPE, text=True, check=False, timeout=120
    )
    return ended.returncode, ended.stderr


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_a_full_device_is_told_in_one_sentence(command):
    full = os.open("/dev/full", os.O_WRONLY)
    try:
        code, errors = said(command, full)
    finally:
        os.close(full)
    sentence = "error: standard output does not take what this command prints: No space left on device\n"
    assert (code, errors) == (FAILED, sentence)


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_who_reads_no_further_is_told_nothing(command):
    ours, theirs = os.pipe()
    os.close(ours)
    try:
        assert said(command, theirs) == (FAILED, "")
    finally:
        os.close(theirs)


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_where_standard_output_is_closed_a_command_goes_on_without(command):
    code, errors = said(command, subprocess.DEVNULL, "sh", "-c", 'exec "$@" >&-', "sh")
    assert code == 0
    assert errors == "" or errors.startswith("usage: "), "argparse prints its help to standard error then"


def test_other_failures_are_not_mistaken_for_it(capsys):
    def fails() -> int:
        raise OSError(28, "No space left on device", "results/x.csv")

    with pytest.raises(OSError, match=r"x\.csv"):
        spoken(fails)
    assert spoken(lambda: 3) == 3
    assert spoken(lambda: None) == 0
    assert capsys.readouterr().err == ""
