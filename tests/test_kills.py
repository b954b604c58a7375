"""Runs that are killed and go on. A normal run of the tests kills a few times; `make test-kills` more than 100 times.

KILLS in the environment is how often each test kills; it spreads over everything that a run does to its files.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.killed import Runs
from tests.whole import assert_complete, assert_whole_or_absent, samples

ROOT = Path(__file__).resolve().parent.parent
KILLS = int(os.environ.get("KILLS", "4"))
SEED = 20260423
pytestmark = pytest.mark.kills


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    made = Runs(tmp_path_factory.mktemp("runs") / "beside")
    yield made
    made.close()


@pytest.fixture(scope="module")
def undisturbed(runs, tmp_path_factory):
    """Samples of a run that nobody kills, how many things it does to its files, and its folder."""
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    done = runs(folder)
    assert done.code == 0, done.log
    return samples(folder), done.count


def go_on(runs, folder: Path) -> None:
    """Go on with a run that was killed; one that was not yet on record begins."""
    assert_whole_or_absent(folder)
    done = runs(folder, resume=True)
    if done.code == 2:
        assert (
            done.log == f"error: resume={folder} holds no run that can go on (no settings.json): name a run's folder\n"
        )
        assert not (folder / "settings.json").exists()
        done = runs(folder)
    assert done.code == 0, done.log


@pytest.mark.timeout(3600)
def test_a_run_killed_at_any_write_rename_or_removal_goes_on_to_every_sample_once(runs, undisturbed, tmp_path, fault):
    tried = fault("Resume", "SIGKILL of the whole run in the middle of a write, or before a rename, mkdir or removal")
    expected, things = undisturbed
    points = sorted({1, things, *random.Random(SEED).sample(range(1, things + 1), min(KILLS, things))})
    for at in points:
        folder = tmp_path / f"at-{at}"
        killed = runs(folder, at=at)
        assert (killed.code, killed.count) == (-9, at), killed.log
        go_on(runs, folder)
        assert_complete(folder, expected)
    tried.happened("every file whole or absent; resumed: each sample of the plan once, in order, run validates",
                   len(points))  # fmt: skip


@pytest.mark.timeout(3600)
def test_a_run_killed_at_random_times_again_and_again_goes_on_to_every_sample_once(runs, undisturbed, tmp_path, fault):
    tried = fault("Resume", "SIGKILL of the whole run at random times, its resumption included")
    expected, _ = undisturbed
    draw, folder, kills = random.Random(SEED), tmp_path / "run-0", 0
    for number in range(KILLS):
        killed = runs(folder, resume=(folder / "settings.json").exists(), after_s=draw.uniform(0, 1.5))
        assert killed.code in (-9, 0), killed.log
        kills += killed.code == -9
        if draw.random() < 0.3 or number == KILLS - 1:
            go_on(runs, folder)
            assert_complete(folder, expected)
            folder = tmp_path / f"run-{number + 1}"
    assert kills > 0
    tried.happened("resumed in the end: each sample of the plan once, in order, run validates", KILLS)


def harness(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-m", "harness", *arguments], cwd=ROOT, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT)  # fmt: skip


@pytest.mark.skipif(KILLS < 10, reason="`make test-kills` does: each start loads torch")
@pytest.mark.timeout(3600)
def test_a_run_of_the_tiny_model_killed_from_outside_goes_on_by_the_command_line(tmp_path, fault):
    tried = fault("Resume", "SIGKILL of a run of the tiny model at random times, from the command line")
    settings = ["experiment=smoke", "run=[baseline,cuda_graph]", "sweep.prompt_lengths=[10]", "sweep.decode.context=60",
                "sweep.context_ranges=[[10,60]]", f"cache={tmp_path / 'cache'}"]  # fmt: skip
    began = time.monotonic()
    whole = harness(*settings, f"output={tmp_path / 'whole'}")
    whole.communicate()
    lasts, draw, expected = time.monotonic() - began, random.Random(SEED), samples(tmp_path / "whole")
    for number in range(KILLS // 2):
        folder = tmp_path / f"run-{number}"
        process = harness(*settings, f"output={folder}")
        while not (folder / "settings.json").exists():
            time.sleep(0.01)
        time.sleep(draw.uniform(0, 0.9 * lasts))
        process.kill()
        process.communicate()
        again = harness(f"resume={folder}")
        said, _ = again.communicate()
        assert again.returncode == whole.returncode, said
        assert_complete(folder, expected)
    tried.happened("resumed: each sample of the plan once, in order, run validates", KILLS // 2)
