"""Invented runs: every number here comes from a seeded generator, none from a machine.

`python -m tests.synthetic` rewrites the stored run in tests/data/synthetic.
"""

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from harness import schema
from harness.job import CaseJob, Job, SweepJob, write_job
from harness.output.summary import summarise

STORED = Path(__file__).parent / "data" / "synthetic"
TITLES = {
    "baseline": "Baseline",
    "cuda_graph": "CUDA Graph",
    "jit": "JIT-Only",
    "jit_cuda_graph": "JIT+CUDA",
    "tensorrt_llm": "TensorRT-LLM",
    "eager": "Eager (control)",
}
LATENCY = {"baseline": 24.0, "cuda_graph": 4.1, "jit": 6.2, "jit_cuda_graph": 3.5, "eager": 13.0,
           "vllm": 12.0, "vllm_covering": 7.0, "transformers_compile": 21.0}  # fmt: skip  # ms, invented
VOCABULARY = 64


@dataclass
class Spec:
    """What to invent."""

    cases: tuple[str, ...] = tuple(TITLES)
    missing: tuple[str, ...] = ("tensorrt_llm",)
    wrong: tuple[str, ...] = ("eager",)
    lengths: tuple[int, ...] = (10, 100, 400)
    iterations: int = 20
    blocks: int = 2
    context: int = 60
    context_ranges: tuple[tuple[int, int], ...] = ((10, 30), (31, 60))
    smoke: bool = False
    titles: dict[str, str] | None = None
    seed: int = 1
    gpu: str = "Invented GPU"
    bandwidth: float = 4.66
    judged: bool = False
    model: str = "Llama-2-7B"


def invent(run_dir: Path, spec: Spec) -> Path:
    """Write a whole run folder, summaries included."""
    run_dir.mkdir(parents=True)
    job = make_job(run_dir, spec)
    write_job(job, run_dir / "job.json")
    (run_dir / "manifest.json").write_text(json.dumps(make_manifest(job, spec), indent=1))
    rng = np.random.default_rng(spec.seed)
    write(run_dir / "samples.csv", schema.SAMPLES, make_samples(spec, rng))
    write(run_dir / "status.csv", schema.STATUS, make_status(spec))
    make_scores(run_dir, spec, rng)
    if spec.judged:
        make_referee(run_dir, spec)
    summarise(run_dir)
    return run_dir


def write(path, columns, rows):
    """Rows may end before the last columns; a sample without a latency of its own has that of the client's clock."""
    given = columns if not rows or isinstance(rows[0], dict) else columns[: len(rows[0])]
    frame = pd.DataFrame(rows, columns=list(given)).reindex(columns=list(columns))
    if "latency_ms" in frame:
        frame["latency_ms"] = frame["latency_ms"].fillna(frame["host_ms"])
    if "coalesced" in frame:
        frame["coalesced"] = frame["coalesced"].fillna(0)
    frame.to_csv(path, index=False, float_format="%.6g")


def make_job(run_dir, spec):
    titles = {**TITLES, **(spec.titles or {})}
    return Job(
        run_dir=run_dir.name,
        seed=spec.seed,
        device="cuda",
        dtype="float16",
        checkpoint="synthetic",
        vocab_size=VOCABULARY,
        context=512,
        sampling={"strategy": "greedy", "temperature": 1.0, "top_k": 0, "top_p": 1.0},
        sweep=SweepJob(
            prompt_lengths=list(spec.lengths),
            ttft_iterations=spec.iterations,
            p99_iterations=spec.iterations,
            warmup_iterations=1,
            pause_ms=0.0,
            blocks=spec.blocks,
            decode_prompt_length=10,
            decode_context=spec.context,
            decode_sequences=1,
            forced_tokens=2,
            tolerance=0.02,
            context_ranges=[list(pair) for pair in spec.context_ranges],
        ),
        cases={c: CaseJob(titles[c], f"cases.{c}.Case", "inproc", None, 900, {}) for c in spec.cases},
        order=[(c, b) for b in range(spec.blocks) for c in spec.cases],
    )


def make_manifest(job, spec):
    return {
        "run": "synthetic",
        "protocol": "controlled",
        "smoke": spec.smoke,
        "started": "2026-01-02T03:04:05+00:00",
        "config": {
            "run": list(spec.cases),
            "cases": {name: asdict(case) for name, case in job.cases.items()},
            "sweep": {
                "prompt_lengths": list(spec.lengths),
                "ttft_iterations": spec.iterations,
                "p99_iterations": spec.iterations,
                "blocks": spec.blocks,
                "decode": {"prompt_length": 10, "context": spec.context, "sequences": 1},
                "context_ranges": [list(pair) for pair in spec.context_ranges],
                "equivalence": {"forced_tokens": 2, "tolerance": 0.02},
            },
            "seed": spec.seed,
        },
        "model": {"name": spec.model, "weights": "random", "dtype": "float16", "digest": "0" * 64},
        "versions": {"python": "3.11", "torch": "0.0 (invented)"},
        "git": {"sha": "0" * 40, "dirty": False},
        "gpu": None if spec.smoke else {"name": spec.gpu, "driver": "0.0", "memory_mib": 1024, "power_limit_w": 700.0},
        "read_bandwidth_tb_s": spec.bandwidth,
        "matmul_tflop_s": 800.0,
        "weight_bytes": 13.2e9,
        "flops_per_token": 13.2e9,
        "prompt_digest": "1" * 64,
    }


def make_samples(spec, rng):
    rows = []
    for case in (c for c in spec.cases if c not in spec.missing):
        for block in range(spec.blocks):
            rows += block_rows(spec, case, block, LATENCY[case], rng)
    return rows


def block_rows(spec, case, block, latency, rng):
    rows = [sample(case, block, "cold", spec.lengths[0], spec.lengths[0], 0, 40 * latency, rng)]
    for length in spec.lengths:
        base = max(latency, 1.7e-2 * length + latency / 4)
        for iteration in range(spec.iterations):
            rows.append(sample(case, block, "ttft", length, length, iteration, base, rng))
    for context in range(10, spec.context):
        rows.append(sample(case, block, "decode", 10, context, 0, latency * (0.95 + 2e-4 * context), rng))
    return rows


def sample(case, block, metric, length, context, iteration, base, rng):
    host = base * (1 + rng.gamma(2, 0.01) + (rng.random() > 0.98) * rng.exponential(0.3))
    served = host - 0.1 if case.endswith("cuda_graph") else None
    wrong_now = case == "eager" and iteration == 3
    return {
        "case": case,
        "block": block,
        "metric": metric,
        "prompt_length": length,
        "context_length": context,
        "iteration": iteration,
        "started_ns": 0,
        "host_ms": host,
        "gpu_ms": 0.9 * host,
        "server_ms": served,
        "token_id": length % 7 + wrong_now,
        "captures": int(case == "cuda_graph" and iteration == 5 and length >= 400),
        "sm_clock_mhz": 1980,
        "throttle": "sw_power_cap|idle" if host > 1.5 * base else "",
        "ungraphed": 0,
    }


def make_status(spec):
    rows = []
    for case in spec.cases:
        for block in range(spec.blocks):
            row = {"case": case, "block": block, "state": "ok", "engine": f"{case} 1.0 (invented)", "exit_code": 0}
            if case in spec.missing:
                row |= {"state": "unavailable", "reason": "package tensorrt_llm is not installed: 50 % & _so_ on"}
            else:
                row |= {
                    "load_s": 8.0,
                    "compile_s": 2.0,
                    "capture_s": 1.5,
                    "ready_s": 14.0,
                    "peak_memory_gib": 14.0 + len(case) / 10,
                }
            rows.append(row)
    return rows


def make_referee(run_dir, spec):
    """Every length has a near-tie, and decode two; who is wrong has one in each."""
    rows = []
    for case in (c for c in spec.cases if c not in spec.missing and c != "baseline"):
        wrong = int(case in spec.wrong)
        timed = [("ttft", length, spec.blocks * spec.iterations, 1) for length in spec.lengths]
        for metric, length, n, near in [*timed, ("decode", 10, spec.blocks * (spec.context - 10), 2)]:
            first = "" if not wrong else 3 if metric == "ttft" else 13
            rows.append([case, metric, length, n, n - near - wrong, near, wrong, first, 2.5 if wrong else 0.75])
    write(run_dir / "referee.csv", schema.REFEREE, rows)


def make_scores(run_dir, spec, rng):
    reference = rng.normal(size=(len(spec.lengths), 3, VOCABULARY)).astype("<f4")
    for case in (c for c in spec.cases if c not in spec.missing):
        folder = run_dir / "blocks" / f"{case}-0"
        folder.mkdir(parents=True)
        noise = 0.0 if case == "baseline" else 0.3 if case in spec.wrong else 2e-3
        (reference + noise * rng.normal(size=reference.shape).astype("<f4")).astype("<f4").tofile(folder / "scores.f32")


if __name__ == "__main__":
    shutil.rmtree(STORED, ignore_errors=True)
    invent(STORED, Spec())
