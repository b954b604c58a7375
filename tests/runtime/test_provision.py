"""The preparation: what it finds, and how long each stage of it took."""

from __future__ import annotations

from cases.runtime import provision
from cases.runtime.checkpoint import digest


def test_each_stage_has_its_seconds(tiny_model, tmp_path, monkeypatch):
    ticks = iter([10.0, 12.5, 13.0, 20.0])
    monkeypatch.setattr(provision.time, "perf_counter", lambda: next(ticks))
    monkeypatch.setattr(provision, "calibrate", lambda device, dtype: {"read_bandwidth_tb_s": 0.12345678})
    stages: list[str] = []
    spec = {"model": tiny_model, "device": "cpu", "cache": str(tmp_path), "seed": 7}
    found = provision.provision(spec, lambda stage, detail: stages.append(stage))
    assert found["seconds"] == {"checkpoint": 2.5, "digest": 0.5, "calibrate": 7.0}
    assert stages == list(found["seconds"])
    assert found["read_bandwidth_tb_s"] == 0.1235
    (folder,) = tmp_path.iterdir()
    assert (found["checkpoint"], found["digest"]) == (str(folder), digest(folder))
