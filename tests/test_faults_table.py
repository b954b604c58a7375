"""The table of faults itself: one line a kind, counted over tests, and nothing lost when a test fails or is skipped."""

from __future__ import annotations

import pytest

from tests.conftest import ROOT
from tests.faults import HEAD, Table

pytest_plugins = ["pytester"]

TESTS = """
import pytest
from tests.faults import fault

def test_one(fault):
    tried = fault("Worker", "SIGKILL | in decode")
    tried.happened("row `failed`")

def test_the_same_again(fault):
    fault("Worker", "SIGKILL | in decode").happened("row `failed`", times=4)

def test_that_fails(fault):
    fault("Disk", "full").happened("a clear error")
    assert False

def test_that_says_nothing(fault):
    fault("Disk", "removed")

def test_that_can_not_be(fault):
    fault("Disk", "read-only")
    pytest.skip("root may write everywhere")
"""


@pytest.fixture
def session(pytester, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    pytester.makeconftest("from tests.faults import pytest_addoption, pytest_configure, pytest_runtest_makereport")
    pytester.makepyfile(TESTS)
    return pytester


def rows(pytester) -> list[str]:
    return [line for line in (pytester.path / "out.md").read_text().splitlines() if line.startswith("| ")]


@pytest.mark.parametrize("how", [[], ["-n", "2"]])
def test_each_kind_has_a_line_with_its_count_and_what_happened(session, how):
    session.runpytest_subprocess("--faults", "out.md", *how)
    assert rows(session) == [
        "| injected | times | what happened |",
        "| SIGKILL \\| in decode | 5 | row `failed` |",
        "| injected | times | what happened |",
        "| full | 1 | TEST FAILED |",
        "| read-only | 1 | not tried: Skipped: root may write everywhere |",
        "| removed | 1 | TEST FAILED |",
    ]


def test_a_part_of_the_tests_writes_no_table(session):
    done = session.runpytest_subprocess("--faults", "out.md", "-k", "one")
    assert not (session.path / "out.md").exists()
    assert "only a part of the tests" in done.stdout.str()


def test_a_gpu_test_that_injects_faults_has_both_marks(pytester, session):
    pytester.makepyfile(
        """
        import pytest
        from tests.faults import fault

        @pytest.mark.gpu
        def test_left_out(fault):
            fault("Worker", "out of memory").happened("a row")

        @pytest.mark.gpu
        @pytest.mark.faults
        def test_in_the_table(fault):
            fault("Worker", "illegal access").happened("a row")
        """
    )
    done = session.runpytest_subprocess("--faults", "out.md", "-m", "gpu and faults")
    assert rows(session)[1:] == ["| illegal access | 1 | a row |"]
    assert "`make test-gpu-faults`" in (session.path / "out.md").read_text()
    assert done.parseoutcomes()["passed"] == 1
    done = session.runpytest_subprocess("-m", "gpu")
    outcomes = done.parseoutcomes()
    assert (outcomes["passed"], outcomes["errors"]) == (1, 1)
    done.stdout.fnmatch_lines(["*make test-gpu-faults*leaves it out*"])


def test_the_table_names_the_command_that_writes_it(tmp_path):
    assert (
        Table(tmp_path / "t.md", "make test-gpu", True).text()
        == HEAD.format(command="make test-gpu").rstrip("\n") + "\n"
    )
