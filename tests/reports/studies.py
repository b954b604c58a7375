"""Invented runs of the experiments: every number comes from a seeded generator, none from a machine."""

import json
import shutil

import numpy as np
import pandas as pd

from harness import schema
from harness.output.summary import summarise
from tests.synthetic import LATENCY, Spec, invent, write

CASES = {
    "capture_coverage": {"shared_pool": "Shared pool", "unshared_pools": "A pool each"},
    "coverage_policies": {"full": "Every length", "every_10th": "Every 10th", "pow2": "Powers of two",
                          "step_16": "Every 16th"},
    "rolling": {f"rolling_{cap}": f"{cap} graphs" for cap in (5, 10, 20, 50)},
    "background_capture": {"jit_cuda_graph": "JIT+CUDA"},
    "ipc": {"inproc": "In process", "unix": "Unix socket"},
    "floor": {"jit_cuda_graph": "JIT+CUDA", "cuda_graph": "CUDA Graph"},
    "ablation": {"eager": "Eager (control)", "jit": "JIT-Only", "cuda_graph": "CUDA Graph",
                 "jit_cuda_graph": "JIT+CUDA"},
    "aa": {"first": "JIT+CUDA (A)", "second": "JIT+CUDA (B)"},
    "telemetry": {"on": "Telemetry on", "again": "Telemetry on again", "off": "Telemetry off"},
}  # fmt: skip
EDGES = {
    "full": range(1, 501),
    "every_10th": range(10, 501, 10),
    "pow2": [2**k for k in range(10)],
    "step_16": range(16, 513, 16),
}


def base(path, study, monkeypatch, smoke=False, **spec):
    """A run of the study's cases, summarised; `spec` as in tests.synthetic."""
    titles = CASES[study]
    for case in titles:
        monkeypatch.setitem(LATENCY, case, LATENCY.get(case, 3.5))
    monkeypatch.setitem(LATENCY, "eager", 12.5)
    wanted = {"cases": tuple(titles), "missing": (), "wrong": (), "titles": titles, "smoke": smoke}
    invent(path, Spec(**{**wanted, **spec}))
    change_config(path, study=study)
    return path


def change_config(path, sweep=None, cases=None, **entries):
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["config"] |= entries
    manifest["config"]["sweep"] |= sweep or {}
    for case, more in (cases or {}).items():
        manifest["config"]["cases"][case] |= more
    (path / "manifest.json").write_text(json.dumps(manifest))


def captures(case, buckets, mib, seconds=0.02, fails=None):
    """Rows of captures.csv, the largest bucket first; from the bucket `fails` on down none succeeds."""
    rows = [(case, 0, 0, 0, 0.5, mib, "")]
    for order, bucket in enumerate(sorted(buckets, reverse=True), 1):
        bad = fails is not None and bucket <= fails
        rows.append((case, 0, order, bucket, seconds, 0 if bad else mib, "CUDA out of memory" if bad else ""))
    return rows


def capture_coverage(path, monkeypatch, **spec):
    base(path, "capture_coverage", monkeypatch, blocks=1, lengths=(10, 250, 500), iterations=10, **spec)
    graph = {"buckets": "exact", "largest": 500}
    change_config(path, {"decode": {"prompt_length": 10, "context": 60, "sequences": 0}},
                  {case: {"graph": graph} for case in CASES["capture_coverage"]})  # fmt: skip
    good, bad = captures("shared_pool", range(1, 501), 2.0), captures("unshared_pools", range(1, 501), 30.0, fails=120)
    write(path / "captures.csv", schema.CAPTURES, [*good, *bad])
    rows = [("shared_pool", 0, 501, 1002.0, 5000.0, 5992.0), ("unshared_pools", 0, 407, 12210.0, 500.0, 12710.0)]
    write(path / "eviction.csv", schema.EVICTION, rows)
    return path


def coverage_policies(path, monkeypatch, lengths=range(1, 501), **spec):
    base(path, "coverage_policies", monkeypatch, blocks=1, lengths=tuple(lengths), iterations=3, **spec)
    change_config(path, {"decode": {"prompt_length": 10, "context": 60, "sequences": 0}})
    samples = pd.read_csv(path / "samples.csv")
    samples[samples["metric"] != "decode"].to_csv(path / "samples.csv", index=False)
    summarise(path)
    write(path / "captures.csv", schema.CAPTURES, [row for case in EDGES for row in captures(case, EDGES[case], 2.0)])
    return path


def rolling(path, monkeypatch, requests=2000, **spec):
    base(path, "rolling", monkeypatch, blocks=1, **spec)
    change_config(path, {"workload": "stream"})
    rng, rows, memory, taken = np.random.default_rng(3), [], [], []
    for case in CASES["rolling"]:
        cap = int(case.split("_")[1])
        hit = rng.random(requests) < cap / 55
        for i in range(requests):
            host = rng.gamma(40, 0.1 if hit[i] else 0.15)
            rows.append((case, 0, "stream", 100, 100, i, i, host, host, "", 1, 0, 1980, "", 0 if hit[i] else 1,
                         int(hit[i]), int(not hit[i]), 0, 0, 0))  # fmt: skip
        for i in range(0, requests + 1, 50):
            memory.append((case, 0, i, i, min(cap, 1 + i) + 1, 2.0 * cap, 2000 + min(i, 500) / 50, 20000 + 2 * cap))
        taken += captures(case, range(1, cap + 31), 1.0)
    write_streams(path, rows)
    write(path / "memory.csv", schema.MEMORY, memory)
    write(path / "captures.csv", schema.CAPTURES, taken)
    return path


def background_capture(path, monkeypatch, requests=1000, **spec):
    base(path, "background_capture", monkeypatch, blocks=1, **spec)
    change_config(path, {"workload": "interference"})
    rng, rows = np.random.default_rng(4), []
    for metric, factor in (("quiet", 1.0), ("busy", 1.1)):
        for i in range(requests):
            beside = metric == "busy" and i % 2 == 0
            host = rng.gamma(400, 0.01) * (factor if beside else 1.0)
            rows.append(("jit_cuda_graph", 0, metric, 100, 100, i, i, host, host, "", 1, 0, 1980, "", 0, 1, 0, 0, 0,
                         int(beside)))  # fmt: skip
    write_streams(path, rows)
    return path


def write_streams(path, rows):
    """samples.csv of these rows alone, and summaries that find nothing to summarise."""
    write(path / "samples.csv", schema.SAMPLES, rows)
    summarise(path)


def ipc(path, monkeypatch, iterations=95, **spec):
    base(path, "ipc", monkeypatch, blocks=4, iterations=iterations, context=400, **spec)
    samples = pd.read_csv(path / "samples.csv")
    samples.loc[samples["case"] == "unix", ["host_ms", "latency_ms"]] += 0.1
    samples.to_csv(path / "samples.csv", index=False)
    summarise(path)
    return path


def ablation(path, monkeypatch, blocks=3, **spec):
    return base(path, "ablation", monkeypatch, blocks=blocks, **spec)


def floor(path, monkeypatch, iterations=190, **spec):
    return base(path, "floor", monkeypatch, iterations=iterations, lengths=(10, 37, 50, 100), **spec)


def aa(path, monkeypatch, iterations=125, **spec):
    return base(path, "aa", monkeypatch, iterations=iterations, blocks=3, **spec)


def telemetry(path, monkeypatch, iterations=125, **spec):
    return base(path, "telemetry", monkeypatch, iterations=iterations, blocks=3, **spec)


MAKERS = {
    "capture_coverage": capture_coverage,
    "coverage_policies": coverage_policies,
    "rolling": rolling,
    "background_capture": background_capture,
    "ipc": ipc,
    "ablation": ablation,
    "floor": floor,
    "aa": aa,
    "telemetry": telemetry,
}


def copy(run_dir, to):
    """A copy of a run's files without its report."""
    return shutil.copytree(run_dir, to, ignore=shutil.ignore_patterns("report"))
