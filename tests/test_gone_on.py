"""A run that goes on with nothing measured, with all measured but its referee, or with a damaged block."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness import judging, run, start
from harness.job import read_job
from harness.machine.gpu import Gpu
from harness.processes.launch import child_environment, network_environment
from harness.settings.compose import compose_raw
from harness.task import run_composed
from tests.runs import BASE, EXTRA, begin, execute_in

H200 = Gpu(0, "H200", "GPU-abc", "570", 143_000, 140_000, (), power_limit_w=700.0)


@pytest.fixture
def no_report(monkeypatch):
    """Nothing in place of the report."""
    real = run.subprocess.run
    monkeypatch.setattr(run.subprocess, "run", lambda call, **rest: (
        run.subprocess.CompletedProcess(call, 0) if "reports" in call else real(call, **rest)
    ))  # fmt: skip


def change(path: Path, **facts: Any) -> None:
    """Set keys of a file of JSON."""
    path.write_text(json.dumps(json.loads(path.read_text()) | facts))


@pytest.mark.parametrize(("near", "passed"), [({3, 1, 2}, ["--near", "1", "2", "3"]), (None, []), (set(), [])])
def test_a_worker_is_told_which_cpus_lie_in_the_gpus_part_of_the_machine(tmp_path, monkeypatch, near, passed):
    prepared = replace(begin(tmp_path), gpu=H200)
    monkeypatch.setattr(run, "near_cores", {0: near}.get)
    assert run._near(prepared) == passed
    assert run._near(replace(prepared, gpu=None)) == []
    prepared.held.close()


def test_what_no_block_was_measured_on_is_not_the_runs_machine(tmp_path, monkeypatch, no_report):
    with monkeypatch.context() as patch:
        patch.setattr(run, "_run_blocks", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        execute_in(tmp_path)
    change(tmp_path / "manifest.json", read_bandwidth_tb_s=99.0, attempts=[{"gpu_uuid": "GPU-1"}])
    assert execute_in(tmp_path) == 0
    stored = json.loads((tmp_path / "manifest.json").read_text())
    assert stored["read_bandwidth_tb_s"] != 99.0
    assert [one["gpu_uuid"] for one in stored["attempts"]] == [None]


def longer(text: str) -> str:
    return text.replace("ttft", "ttft,1,2,3,4,5", 1)


def no_number(text: str) -> str:
    rows = [line.split(",") for line in text.splitlines()]
    row = next(row for row in rows if "ttft" in row)
    row[rows[0].index("latency_ms" if "latency_ms" in rows[0] else "host_ms")] = "x"
    return "\n".join(map(",".join, rows)) + "\n"


@pytest.mark.parametrize("damage", [longer, no_number])
def test_a_damaged_block_ends_going_on_in_one_sentence(tmp_path, capsys, no_report, damage):
    assert execute_in(tmp_path) == 0
    path = next((tmp_path / "blocks").glob("*/samples.csv"))
    path.write_text(damage(path.read_text()))
    capsys.readouterr()
    assert execute_in(tmp_path) == 1
    assert f"failed: a file of {tmp_path} is not as the harness wrote it (" in capsys.readouterr().out


@pytest.mark.parametrize("code", [130, 143, 129])
def test_who_is_ended_before_anything_began_says_by_which_signal(tmp_path, monkeypatch, capsys, code):
    def wait(*_):
        raise KeyboardInterrupt(code)

    monkeypatch.setattr(start, "begin", wait)
    composed = compose_raw([*BASE, f"output={tmp_path}"], EXTRA)
    assert run_composed(composed) == code
    assert "before anything was started" in capsys.readouterr().err


def test_a_whole_run_that_awaits_its_referee_takes_a_gpu(tmp_path, monkeypatch, capsys, no_report):
    assert execute_in(tmp_path) == 0
    change(tmp_path / "manifest.json", gpu={"name": "H200", "driver": "570"})
    monkeypatch.setattr(start, "awaited", lambda folder: True)
    monkeypatch.setattr(start, "_take_gpu", lambda *_: H200)
    begun = begin(tmp_path)
    begun.held.close()
    assert begun.gpu == H200
    monkeypatch.setattr(start, "_take_gpu", lambda *_: (_ for _ in ()).throw(ValueError("no usable GPU")))
    begun = begin(tmp_path)
    begun.held.close()
    assert begun.gpu is None
    assert "no referee here: no usable GPU" in capsys.readouterr().out


def test_a_referee_without_its_gpu_is_not_asked(tmp_path, monkeypatch, no_report):
    assert execute_in(tmp_path) == 0
    monkeypatch.setattr(judging, "due", lambda job: True)
    monkeypatch.setattr(judging, "run_child", lambda *_: pytest.fail("a referee was started"))
    begun = begin(tmp_path)
    job = replace(read_job(tmp_path / "job.json", tmp_path), device="cuda")
    with begun.held:
        assert judging.judge(begun, job, None) == judging.NO_GPU
    assert json.loads((tmp_path / "manifest.json").read_text())["not_judged"] == judging.NO_GPU


def test_the_way_to_the_network_is_for_the_preparation_alone(monkeypatch):
    monkeypatch.setenv("https_proxy", "http://proxy:3128")
    monkeypatch.setenv("SSL_CERT_FILE", "/etc/ours.pem")
    assert network_environment() | {"SSL_CERT_FILE": "/etc/ours.pem", "https_proxy": "http://proxy:3128"} == (
        network_environment()
    )
    assert not {"https_proxy", "SSL_CERT_FILE"} & child_environment("cpu", None).keys()
