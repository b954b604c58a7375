"""What several tests share: a tiny random checkpoint, made once a session."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness.job import CaseJob, Job, SweepJob
from tests.faults import fault, pytest_addoption, pytest_configure, pytest_runtest_makereport  # noqa: F401
from tests.ipc_bench import Bench

ROOT = Path(__file__).resolve().parent.parent

# Who is started in the background or by nohup ignores these, and so does whatever it starts: nobody would be asked.
for asked, usual in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(asked) is signal.SIG_IGN:
        signal.signal(asked, usual)


LONGEST = (
    "test_validate_runs", "test_worker_faults", "test_experiments", "test_parent_faults", "test_launchers",
    "test_launch", "test_disk", "test_paper_claims", "test_contract", "test_cli_smoke",
)  # fmt: skip
"""Files that take the most time: they come first, so that no worker is left with one of them at the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Order by file: the longest first, and within a file as written."""
    items.sort(key=lambda item: LONGEST.index(item.path.stem) if item.path.stem in LONGEST else len(LONGEST))


@pytest.fixture(scope="session")
def tiny_model() -> dict[str, object]:
    """conf/model/tiny.yaml."""
    return yaml.safe_load((ROOT / "conf/model/tiny.yaml").read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory, tiny_model) -> str:
    """Folder of a random tiny Llama: vocabulary 1024, 2 layers, float32, grouped-query attention."""
    from cases.runtime.checkpoint import resolve

    return str(resolve(tiny_model, tmp_path_factory.mktemp("checkpoints"), seed=7)[0])


SWEEP: dict[str, Any] = {
    "prompt_lengths": [3, 5, 8],
    "ttft_iterations": 4,
    "p99_iterations": 2,
    "warmup_iterations": 1,
    "pause_ms": 0.0,
    "blocks": 2,
    "decode_prompt_length": 4,
    "decode_context": 9,
    "decode_sequences": 2,
    "forced_tokens": 2,
    "tolerance": 0.02,
    "context_ranges": [[4, 9]],
}


@pytest.fixture
def make_job(tmp_path) -> Callable[..., Job]:
    """`make_job(seed=..., options={...}, <sweep key>=...)`: a job of the fake case, in tmp_path/run."""

    def make(seed: int = 11, vocab_size: int = 1024, options: dict[str, Any] | None = None, **sweep: Any) -> Job:
        fake = CaseJob("Fake", "tests.fakes.FakeCase", "inproc", None, 60, options or {})
        return Job(
            run_dir=str(tmp_path / "run"), seed=seed, device="cpu", dtype="float32", checkpoint="nowhere",
            vocab_size=vocab_size, context=512, sampling={"strategy": "greedy"}, sweep=SweepJob(**SWEEP | sweep),
            cases={"fake": fake}, order=[("fake", 0), ("fake", 1)],
        )  # fmt: skip

    return make


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench()
    yield made
    made.close()
