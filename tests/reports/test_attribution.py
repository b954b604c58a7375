"""The walk from the published procedure to the controlled one: exact figures on invented runs."""

import math

import pandas as pd
import pytest

from harness import schema
from harness.summary import summarise
from reports import experiments
from reports.experiments import attribution, ladder, waterfall
from reports.run import SMOKE, load
from tests.reports.studies import change_config
from tests.synthetic import LATENCY, Spec, invent, write

LENGTHS, EACH, CONTEXTS = (10, 100, 400), 5, range(380, 400)
GRAPH = (96.0, 33.0, 24.0, 24.0, 23.0, 20.0, 6.0, 4.4)
HYBRID = (12.0, 11.0, 10.0, 10.4, 10.4, 10.0, 3.0, 4.0)  # ms by step, invented like all figures here
TRANSFORMERS = {"published": 30.0, "warmup": 21.0, "sampling": 20.0}
STAND_IN = "Transformers (published as TensorRT-LLM)"
WHY = "package tensorrt_llm is not installed in the interpreter of this case: 50 % & _so_ on"


def figures(engine=None):
    """TTFT in ms of every case."""
    names = [step.name for step in ladder.STEPS]
    found = {f"cuda_graph_{n}": ms for n, ms in zip(names, GRAPH, strict=True)}
    found |= {f"jit_cuda_graph_{n}": ms for n, ms in zip(names, HYBRID, strict=True)}
    found |= {f"stand_in_{n}": ms for n, ms in TRANSFORMERS.items()}
    found |= {f"baseline_{n}": 1.25 * TRANSFORMERS[n] for n in ("published", "sampling")}
    return found | {"tensorrt_llm": engine}


def titles(cases):
    """As long as real ones."""
    named = {"cuda_graph": "CUDA Graph", "jit_cuda_graph": "JIT+CUDA", "stand_in": STAND_IN, "baseline": "Baseline"}
    found = {"tensorrt_llm": "TensorRT-LLM"}
    for case in cases:
        family = max((name for name in named if case.startswith(name)), key=len, default="")
        if family:
            step = case.removeprefix(f"{family}_").replace("_", " ")
            found[case] = named[family] if family == "stand_in" else f"{named[family]} + {step}"
    return found


def attribute(path, latency=None, patch=None, without=(), failed=(), **spec):
    """A run of the experiment: `latency` maps case to ms, None for one that is not installed."""
    latency = {case: ms for case, ms in (latency or figures()).items() if case not in without}
    missing = tuple(case for case, ms in latency.items() if ms is None)
    for case, ms in latency.items():
        patch.setitem(LATENCY, case, ms or 1.0)
    spec = {"cases": tuple(latency), "missing": missing, "wrong": (), "titles": titles(latency), "lengths": LENGTHS,
            "iterations": EACH, "blocks": 1, "context": 400, "context_ranges": ((380, 400),), **spec}  # fmt: skip
    invent(path, Spec(**spec))
    decode = {"prompt_length": 380, "context": 400, "sequences": 1}
    change_config(path, {"decode": decode}, study="attribution")
    rewrite(path, [row for case, ms in latency.items() if ms and case not in failed for row in samples(case, ms)])
    fail(path, {**dict.fromkeys(missing, ("unavailable", WHY)), **dict.fromkeys(failed, ("failed", "out of memory"))})
    return path


def samples(case, ms):
    """Constant latencies by the case's clock, a decode step at half of it; by the client's clock they differ."""
    keep = {column: 0 for column in schema.SAMPLES} | {
        "case": case,
        "throttle": "",
        "latency_ms": ms,
        "host_ms": ms + 1,
    }
    for length in LENGTHS:
        for i in range(EACH + 1):  # the last iteration is P99's, not TTFT's
            late = {} if i < EACH else {"latency_ms": 1000.0}
            yield keep | {"metric": "ttft", "prompt_length": length, "context_length": length, "iteration": i} | late
    for context in CONTEXTS:
        yield keep | {"metric": "decode", "prompt_length": 380, "context_length": context, "latency_ms": ms / 2}


def rewrite(path, rows):
    columns = list(dict.fromkeys([*schema.SAMPLES, "latency_ms"]))
    write(path / "samples.csv", columns, rows)
    summarise(path)


def fail(path, states):
    status = pd.read_csv(path / "status.csv", dtype=str, keep_default_na=False)
    for case, (state, reason) in states.items():
        status.loc[status["case"] == case, ["state", "reason"]] = [state, reason]
    status.to_csv(path / "status.csv", index=False)


def spoil(path, change):
    """samples.csv with `change` made to its frame."""
    change(frame := pd.read_csv(path / "samples.csv", keep_default_na=False, na_values=[""]))
    frame.to_csv(path / "samples.csv", index=False)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        return load(attribute(tmp_path_factory.mktemp("attribution") / "run", patch=patch))
