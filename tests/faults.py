"""The table of faults: what tests injected, how often, and what happened, as the run of the tests itself found it.

A test takes the fixture `fault`, names what it injects, and says what happened once its asserts hold:

    tried = fault("Worker", "SIGKILL while decoding")
    ...
    tried.happened("row `failed`, killed by signal 9 SIGKILL in stage decode; samples kept", times=3)

`--faults FILE` writes the table when every test ran. It holds no times and no places, so that it only changes when
what happens does. A fault whose test fails has the row `TEST FAILED`, one that was skipped says why.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

GROUPS = ("Worker", "Parent", "Resume", "Disk", "Two runs", "Files", "Socket", "Checkpoint")
HEAD = """# Faults injected by the tests, and what happened

Written by `{command}`; not by hand. One line a fault: how often it was injected, and what the tests saw and asserted.

"""
FAILED = "TEST FAILED"
COMMANDS = {"gpu": "make test-gpu", "gpu and faults": "make test-gpu-faults", "kills": "make test-kills"}
"""Which command asks for the tests with which markers."""


@dataclass
class Fault:
    """One kind of fault, injected at least once by one test."""

    group: str
    injected: str
    outcome: str = FAILED
    times: int = 1

    def happened(self, what: str, times: int = 1) -> None:
        """Say what happened, after the asserts."""
        self.outcome, self.times = what, times


@pytest.fixture
def fault(request) -> Callable[[str, str], Fault]:
    """`fault(group, what is injected)`: a line of the table, to be told what happened."""
    marks = {mark.name for mark in request.node.iter_markers()}
    assert "gpu" not in marks or "faults" in marks, "mark it `faults` too, or `make test-gpu-faults` leaves it out"

    def tried(group: str, injected: str) -> Fault:
        assert group in GROUPS, f"no group {group!r} in tests/faults.py"
        made = Fault(group, injected)
        request.node.stash.setdefault(TRIED, []).append(made)
        return made

    return tried


TRIED: pytest.StashKey[list[Fault]] = pytest.StashKey()
PROPERTY = "fault"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--faults", metavar="FILE", help="write the table of faults there when every test ran")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """Travel with the report: under xdist it is all that comes back from a test."""
    report = yield
    if call.when == "call":
        for tried in item.stash.get(TRIED, []):
            outcome = tried.outcome if report.passed else skipped(report) if report.skipped else FAILED
            report.user_properties.append((PROPERTY, [tried.group, tried.injected, outcome, tried.times]))
    return report


def skipped(report: pytest.TestReport) -> str:
    """Why a test was skipped."""
    return f"not tried: {report.longrepr[2]}" if isinstance(report.longrepr, tuple) else "not tried"


class Table:
    """Collects the rows of a session and writes them at its end."""

    def __init__(self, path: Path, command: str, whole: bool) -> None:
        self.path, self.command, self.whole = path, command, whole
        self.rows: dict[tuple[str, str, str], int] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        for key, value in report.user_properties:
            if key == PROPERTY and report.when == "call":
                group, injected, outcome, times = value
                row = (group, injected, outcome)
                self.rows[row] = self.rows.get(row, 0) + times

    def pytest_terminal_summary(self, terminalreporter) -> None:
        if not self.whole:
            terminalreporter.write_line(f"{self.path} is left as it is: only a part of the tests was asked for")
        elif self.rows:
            self.path.write_text(self.text(), encoding="utf-8")
            terminalreporter.write_line(f"faults: {len(self.rows)} kinds, {sum(self.rows.values())} times: {self.path}")

    def text(self) -> str:
        """The table as Markdown, by group, in alphabetical order."""
        parts = [HEAD.format(command=self.command)]
        for group in GROUPS:
            lines = [f"| {cell(injected)} | {times:,} | {cell(outcome)} |"
                     for (of, injected, outcome), times in sorted(self.rows.items()) if of == group]  # fmt: skip
            if lines:
                head = f"## {group}\n\n| injected | times | what happened |\n|:---|---:|:---|\n"
                parts.append(head + "\n".join(lines) + "\n\n")
        return "".join(parts).rstrip("\n") + "\n"


def cell(text: str) -> str:
    """Text as one cell of a Markdown table."""
    return " ".join(text.split()).replace("|", "\\|")


def pytest_configure(config: pytest.Config) -> None:
    path = config.getoption("--faults")
    if path and not hasattr(config, "workerinput"):
        command = COMMANDS.get(config.option.markexpr, "make test")
        whole = not config.option.keyword and config.args_source.name != "ARGS"
        config.pluginmanager.register(Table(Path(path), command, whole))
