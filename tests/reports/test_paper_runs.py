"""Which runs the paper's measured half takes; `invent_run` and `invent_all` make them up with exact latencies."""

from __future__ import annotations

import json

import pandas as pd
import pytest

from harness import schema
from harness.output.summary import summarise
from reports.paper import runs
from reports.paper.published import TITLES
from reports.run import load
from tests.reports import studies
from tests.synthetic import TITLES as KNOWN
from tests.synthetic import Spec, invent, write

LENGTHS = (10, 50, 100, 150, 200, 250, 300, 350, 400)
STAND_IN = "Transformers (published as TensorRT-LLM)"
EVERY = "JIT+CUDA, every context captured"
PAPER = {"name": "paper", "clock": "server", "warmup": "none"}
CONTROLLED = {"name": "controlled", "clock": "client", "warmup": "apart"}
UNDER_PAPER = {
    "baseline": (50.0, 20.0), "cuda_graph": (100.0, 15.0), "jit": (25.0, 20.0), "jit_cuda_graph": (16.0, 14.0),
    "stand_in": (32.0, 21.0), "every_context": (17.0, 14.0),
}  # fmt: skip
UNDER_CONTROL = {"baseline": (20.0, 25.0), "cuda_graph": (10.0, 10.5), "jit": (6.0, 8.0), "jit_cuda_graph": (5.0, 5.5)}
STEPS = ("published", "capture_set", "warmup", "clock", "sampling", "logits", "model_code", "kv_cache")


def latency_rows(case, ttft, p99, iterations, none, decode, served):
    """TTFT requests of `ttft` ms and P99 requests of `p99` ms at every length, and steps growing with the context."""
    first, rest = iterations
    rows = []
    for length in LENGTHS:
        for i in range(first + rest if none else max(first, rest)):
            value = ttft if i < first else p99
            rows.append(row(case, "ttft", length, length, i, value, served))
    return rows + [row(case, "decode", 10, at, 0, decode * (1 + (at - 10) / 390), served) for at in range(10, 407)]


def row(case, metric, length, context, iteration, value, served):
    return dict.fromkeys(schema.SAMPLES, 0) | dict.fromkeys(schema.SAMPLES_UNKNOWN, "") | {
        "case": case, "block": 0, "metric": metric, "prompt_length": length, "context_length": context,
        "iteration": iteration, "started_ns": 0, "host_ms": value + (0.3 if served else 0.0), "gpu_ms": value,
        "server_ms": value if served else None, "token_id": 1, "captures": 0, "sm_clock_mhz": 1980, "throttle": "",
        "ungraphed": 0, "latency_ms": value,
    }  # fmt: skip


def invent_run(path, cases, monkeypatch, protocol=PAPER, study=None, missing=("tensorrt_llm",), iterations=(5, 100),
               smoke=False, started="2026-02-03T00:00:00+00:00", decode=8.0, **titles):  # fmt: skip
    """A run of `cases`, a case to its TTFT and P99 in ms; those `missing` are unavailable. One request each without
    a warm-up."""
    names = [*cases, *missing]
    titles = {name: title_of(name) for name in names} | titles
    for name in names:
        monkeypatch.setitem(KNOWN, name, titles[name])
        monkeypatch.setitem(studies.LATENCY, name, 3.0)
    path.parent.mkdir(parents=True, exist_ok=True)
    invent(path, Spec(cases=tuple(names), missing=tuple(missing), wrong=(), titles=titles, lengths=(10,), iterations=1,
                      blocks=1, smoke=smoke))  # fmt: skip
    none = protocol["warmup"] == "none"
    rows = [
        line for case, (ttft, p99) in cases.items()
        for line in latency_rows(case, ttft, p99, iterations, none, decode, case == "jit_cuda_graph")
    ]  # fmt: skip
    write(path / "samples.csv", schema.SAMPLES, rows)
    configure(path, names, protocol, study, iterations, started)
    return path


def title_of(name):
    return STAND_IN if name.startswith("stand_in") else EVERY if name == "every_context" else KNOWN.get(name, name)


def configure(path, names, protocol, study, iterations, started):
    manifest = json.loads((path / "manifest.json").read_text())
    manifest |= {"protocol": protocol["name"], "started": started}
    config = manifest["config"]
    config |= {"protocol": protocol, "study": study}
    config["sweep"] |= {
        "prompt_lengths": list(LENGTHS),
        "ttft_iterations": iterations[0],
        "p99_iterations": iterations[1],
    }
    config["sweep"]["decode"] |= {"context": 407}
    for name in names:
        config["cases"][name]["procedure"] = protocol
        if name.startswith("stand_in"):
            config["cases"][name]["impersonate"] = "transformers"
    (path / "manifest.json").write_text(json.dumps(manifest))


def attribution(path, monkeypatch, ratios, baseline=20.0, **more):
    """The attribution run: at each step the TTFT of CUDA Graph is its ratio times the 10 ms of JIT+CUDA; `more` cases
    have a TTFT of their own."""
    cases = {}
    for step, ratio in zip(STEPS, ratios, strict=True):
        cases |= {f"cuda_graph_{step}": (10.0 * ratio, 1.0), f"jit_cuda_graph_{step}": (10.0, 1.0)}
    cases |= {"baseline_published": (baseline, 1.0), "stand_in_published": (20.0, 1.0)}
    cases |= {case: (ms, 1.0) for case, ms in more.items()}
    return invent_run(path, cases, monkeypatch, study="attribution", iterations=(5, 1))


def invent_all(folder, monkeypatch):
    """Both protocols and all studies in one folder of committed runs."""
    invent_run(folder / "paper", UNDER_PAPER, monkeypatch)
    invent_run(folder / "controlled", UNDER_CONTROL, monkeypatch, CONTROLLED, iterations=(190, 190))
    attribution(folder / "attribution", monkeypatch, (6, 5, 2, 2, 2, 2, 2, 2))
    for study in ("capture_coverage", "coverage_policies", "rolling", "ipc", "ablation"):
        more = {"requests": 500} if study == "rolling" else {}
        invent_study(study, folder / study, monkeypatch, **more)
    return folder


def invent_study(study, path, monkeypatch, **more):
    """An invented run of an experiment, all latencies by the client's clock."""
    monkeypatch.setattr(studies, "write_streams", write_streams)
    studies.MAKERS[study](path, monkeypatch, **more)
    samples = pd.read_csv(path / "samples.csv")
    samples.assign(latency_ms=samples["host_ms"]).to_csv(path / "samples.csv", index=False)
    return path


def write_streams(path, rows):
    write(path / "samples.csv", schema.SAMPLES[: len(rows[0])], rows)
    summarise(path)


def shared(tmp_path_factory):
    """The folder of all runs, made once for all tests that only read it."""
    path = tmp_path_factory.getbasetemp() / "paper_runs"
    if not path.exists():
        with pytest.MonkeyPatch.context() as patch:
            invent_all(path, patch)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return shared(tmp_path_factory)


def test_each_run_is_found_by_what_it_is(folder):
    found = runs.find(folder)
    assert found.paper.path.name == "paper"
    assert found.controlled.path.name == "controlled"
    assert {name: run.path.name for name, run in found.studies.items()} == {name: name for name in runs.STUDIES}


def test_a_whole_run_stands_before_a_newer_one_that_was_interrupted(tmp_path, monkeypatch):
    for name, day in (("old", "2026-01-01"), ("new", "2026-01-03")):
        invent_run(tmp_path / name, UNDER_PAPER, monkeypatch)
        change_manifest(tmp_path / name, started=f"{day}T00:00:00+00:00", finished=f"{day}T01:00:00+00:00")
    assert runs.find(tmp_path).paper.path.name == "new"
    change_manifest(tmp_path / "new", finished=None)
    assert runs.find(tmp_path).paper.path.name == "old"
    change_manifest(tmp_path / "old", finished=None)
    assert runs.find(tmp_path).paper.path.name == "new", "where none is whole the newest counts"


def test_other_whole_controlled_runs_stand_beside_the_newest(tmp_path, monkeypatch):
    for name, day in (("old", "2026-01-01"), ("new", "2026-01-03"), ("older", "2025-01-01"), ("broken", "2026-01-02")):
        invent_run(tmp_path / name, UNDER_CONTROL, monkeypatch, CONTROLLED)
        ended = None if name == "broken" else f"{day}T01:00:00+00:00"
        change_manifest(tmp_path / name, started=f"{day}T00:00:00+00:00", finished=ended)
    found = runs.find(tmp_path)
    assert found.controlled.path.name == "new"
    assert [run.path.name for run in found.others] == ["old", "older"]
    assert runs.find(tmp_path, controlled=tmp_path / "old").others == (), "who names one wants no other"


def change_manifest(path, **entries):
    manifest = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps({**manifest, **entries}))


def test_the_newest_counts_and_a_smoke_run_does_not(tmp_path, monkeypatch):
    for name, started, smoke in (("a", "2026-02-05", False), ("b", "2026-02-04", False), ("c", "2026-02-06", True)):
        invent_run(tmp_path / name, UNDER_PAPER, monkeypatch, started=started, smoke=smoke)
    assert runs.find(tmp_path).paper.path.name == "a"
    given = runs.find(tmp_path, measured=tmp_path / "c").paper
    assert (given.path.name, given.smoke) == ("c", True)


def test_a_comparison_of_fewer_cases_or_with_other_settings_is_not_the_controlled_run(tmp_path, monkeypatch):
    invent_run(tmp_path / "few", {"baseline": (1.0, 1.0)}, monkeypatch, CONTROLLED)
    changed = CONTROLLED | {"name": "controlled, clock=server"}
    invent_run(tmp_path / "changed", UNDER_CONTROL, monkeypatch, changed)
    assert runs.find(tmp_path) == runs.Runs()


def test_of_the_rolling_runs_the_one_of_several_cases_counts(tmp_path, monkeypatch):
    invent_study("rolling", tmp_path / "several", monkeypatch)
    invent_run(tmp_path / "one", {"rolling_20": (1.0, 1.0)}, monkeypatch, study="rolling", missing=())
    assert runs.find(tmp_path).studies["rolling"].path.name == "several"


def test_what_is_no_manifest_is_one_sentence(tmp_path):
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "manifest.json").write_text("{")
    with pytest.raises(ValueError, match="not valid JSON"):
        runs.find(tmp_path)
    (tmp_path / "broken" / "manifest.json").write_text("[]")
    with pytest.raises(ValueError, match="holds no JSON object"):
        runs.find(tmp_path)


@pytest.mark.parametrize(
    ("cases", "missing", "expected"),
    [
        (("stand_in",), ("tensorrt_llm",), ["stand_in"]),
        (("tensorrt_llm", "stand_in"), (), ["tensorrt_llm", "stand_in"]),
        ((), ("tensorrt_llm",), ["tensorrt_llm"]),
        ((), (), []),
    ],
)
def test_the_stand_in_has_the_fifth_column_only_without_the_engine(tmp_path, monkeypatch, cases, missing, expected):
    measured = dict.fromkeys(("baseline", *cases), (1.0, 1.0))
    run = load(invent_run(tmp_path / "run", measured, monkeypatch, missing=missing))
    assert runs.fifth(run) == expected
    assert runs.five(run) == ["baseline", *expected]
    assert set(runs.five(run)) <= {*TITLES, "stand_in"}


def test_a_stand_in_under_the_engines_case_name_is_no_engine(tmp_path, monkeypatch):
    path = invent_run(tmp_path / "run", {"baseline": (1.0, 1.0), "tensorrt_llm": (2.0, 2.0)}, monkeypatch, missing=(),
                      tensorrt_llm=STAND_IN)  # fmt: skip
    studies.change_config(path, cases={"tensorrt_llm": {"impersonate": "transformers"}})
    run = load(path)
    assert (runs.engine(run), runs.stand_in(run)) == ("", "tensorrt_llm")
    assert runs.why_no_engine(run) == "TensorRT-LLM is not in this run."
