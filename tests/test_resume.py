"""A run that goes on: what an earlier attempt left, where it lies now, and what must be the same."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from harness import __main__ as main
from harness import attempt, run, start
from harness import folder as folders
from harness.machine.gpu import Gpu
from harness.output import manifest
from harness.processes import launch
from harness.settings import preset, resume
from harness.settings.compose import compose_raw, resolved, to_config
from harness.stored.command import validate
from tests.runs import EXTRA, begin, execute_in, samples, status

ROOT = Path(__file__).resolve().parent.parent
FAILING = ("cases.fake.behaviour=exit",)
H200 = Gpu(0, "H200", "GPU-abc", "570", 143_000, 140_000, (), power_limit_w=700.0)


@pytest.fixture(autouse=True)
def no_report(monkeypatch):
    """In place of the report: what manifest.json says of the end while it is made."""
    ends: list[Any] = []
    real = run.subprocess.run

    def without_report(call, **rest):
        if "reports" not in call:
            return real(call, **rest)
        ends.append(read(Path(call[-1]))["finished"])
        return run.subprocess.CompletedProcess(call, 0)

    monkeypatch.setattr(run.subprocess, "run", without_report)
    return ends


def read(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "manifest.json").read_text())


def change(path: Path, **facts: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **facts}))


def test_nothing_of_an_earlier_attempt_counts_for_the_next_and_nothing_is_lost(tmp_path):
    assert execute_in(tmp_path, *FAILING) == 1
    block = tmp_path / "blocks/fake-0"
    stale = (tmp_path / "blocks/other-0/samples.csv").read_text().replace("other,", "fake,")
    (block / "samples.csv").write_text(stale)
    (block / "scores.f32").write_bytes(b"\0" * 8)
    assert execute_in(tmp_path, *FAILING) == 1
    assert samples(tmp_path, "fake") == []
    assert sorted(path.name for path in block.iterdir()) == ["attempt-1", "log.txt", "verdict.json"]
    assert (block / "attempt-1/samples.csv").read_text() == stale
    assert {path.name for path in (block / "attempt-1").iterdir()} == {
        "log.txt", "verdict.json", "samples.csv", "scores.f32"
    }  # fmt: skip
    assert execute_in(tmp_path, *FAILING) == 1
    assert (block / "attempt-2/log.txt").exists()
    assert (block / "attempt-1/samples.csv").read_text() == stale


def test_a_moved_folder_goes_on_where_it_is(tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    assert execute_in(first, *FAILING) == 1
    first.rename(second)
    assert execute_in(second, *FAILING) == 1
    assert not first.exists()
    assert (second / "blocks/fake-0/attempt-1").is_dir()
    assert status(second)["other", "0"]["state"] == "ok"
    assert json.loads((second / "job.json").read_text())["run_dir"] == str(second)


def test_other_versions_of_what_computes_are_refused(tmp_path, capsys, fault):
    tried = fault("Resume", "other versions of what computes")
    assert execute_in(tmp_path, *FAILING) == 1
    change(tmp_path / "manifest.json", versions={"python": "3", "torch": "2.11.0"})
    assert execute_in(tmp_path, *FAILING) == 2
    said = capsys.readouterr().out.splitlines()[-1]
    assert 'was begun with other software (versions.torch is "2.11.0" there and null here): choose another' in said
    assert not (tmp_path / "blocks/fake-0/attempt-1").exists()
    tried.happened("refused in one sentence with the difference, exit code 2; no block starts")


def test_other_weights_are_refused(tmp_path, capsys, fault):
    tried = fault("Resume", "other weights")
    assert execute_in(tmp_path, *FAILING) == 1
    change(tmp_path / "manifest.json", model={"digest": "d0"})
    assert execute_in(tmp_path, *FAILING) == 2
    assert "measured other weights (digest d0)" in capsys.readouterr().out.splitlines()[-1]
    tried.happened("refused in one sentence with the digest, exit code 2; no block starts")


@pytest.mark.parametrize(
    ("facts", "sentence"),
    [
        ({"gpu": {"name": "A100", "driver": "570"}}, 'gpu.name is "A100" there and "H200" here'),
        ({"gpu": {"name": "H200", "driver": "560"}}, 'gpu.driver is "560" there and "570" here'),
        (
            {"gpu": {"name": "H200", "driver": "570", "power_limit_w": 500.0}},
            "gpu.power_limit_w is 500.0 there and 700.0 here",
        ),
        ({"gpu": None}, 'gpu.name is null there and "H200" here'),
        ({"code_digest": "0"}, r"the code has the digest"),
        ({"environment": {"OMP_NUM_THREADS": "8"}}, 'environment.OMP_NUM_THREADS is "8" there and "1" here'),
        ({"environment": {}}, 'environment.OMP_NUM_THREADS is null there and "1" here'),
    ],
)
def test_another_machine_is_refused(tmp_path, facts, sentence, fault):
    tried = fault("Resume", "another GPU, driver or code")
    same = {
        "model": {"digest": "1"},
        "versions": {},
        "code_digest": manifest.code_digest(),
        "gpu": {"name": "H200", "driver": "570", "free_mib": 1},
    }
    (tmp_path / "manifest.json").write_text(json.dumps(same))
    folders.check_machine_of(tmp_path, H200, {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "1", "HOME": "x"})
    change(tmp_path / "manifest.json", **facts)
    with pytest.raises(ValueError, match=f"holds a run of another machine .*{sentence}.*: choose another folder"):
        folders.check_machine_of(tmp_path, H200, {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "1", "HOME": "x"})
    tried.happened("refused in one sentence with the difference; nothing starts")


def test_a_run_on_another_machine_is_refused_before_anything_starts(tmp_path):
    assert execute_in(tmp_path, *FAILING) == 1
    change(tmp_path / "manifest.json", gpu={"name": "H200", "driver": "570"})
    with pytest.raises(ValueError, match=r"holds a run of another machine \(gpu.name is .H200. there and null here\)"):
        begin(tmp_path, *FAILING)


def test_the_manifest_spans_the_command_from_its_start_to_behind_its_report(tmp_path, monkeypatch, no_report):
    times = (f"t{number}" for number in range(100))
    monkeypatch.setattr(manifest, "now", lambda: next(times))
    begun = begin(tmp_path)
    manifest.now()  # whatever lies between
    assert run.carry_out(begun) == 0
    stored = read(tmp_path)
    assert (stored["started"], stored["finished"], stored["resumed"]) == ("t0", "t2", [])
    assert no_report == [None]
    assert stored["preparation_s"]["whole"] > 0
    assert stored["preparation_s"]["calibrate"] == 0.5
    assert execute_in(tmp_path) == 0
    again = {**stored, "resumed": ["t3"], "finished": "t4"}
    assert read(tmp_path) == {**again, "digest": manifest.own_digest(again)} != again


def outcome(state: str, engine: str = "fake 1") -> launch.Outcome:
    return launch.Outcome(state, "it is so", "", 0, 1.0, {"engine": engine})  # type: ignore[arg-type]


PLANNED = {"cold": 1, "ttft": 12, "decode": 10}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({}, ""),
        ({"ttft": 11}, "said ok, but wrote 11 of 12 ttft samples"),
        ({"ttft": 13}, "said ok, but wrote 13 of 12 ttft samples"),
        ({"decode": 9, "cold": 0}, "said ok, but wrote 0 of 1 cold samples, 9 of 10 decode samples"),
        ({"cold": 0, "ttft": 0, "decode": 0}, "said ok, but wrote no samples"),
    ],
)
def test_ok_needs_every_sample_that_was_planned(make_job, change, reason):
    job = make_job()
    assert attempt.planned_samples(job, "fake", 0) == PLANNED
    folder = job.block_dir("fake", 0)
    folder.mkdir(parents=True)
    lines = [f"fake,0,{metric}" for metric, count in (PLANNED | change).items() for _ in range(count)]
    (folder / "samples.csv").write_text("\n".join(["case,block,metric", *lines]) + "\n")
    found = attempt.checked(job, "fake", 0, outcome("ok"))
    assert (found.state, found.reason) == (("failed", reason) if reason else ("ok", "it is so"))


def test_a_job_may_plan_samples_of_its_own(make_job):
    class Streams(type(make_job())):  # type: ignore[misc]
        def planned_samples(self, case: str, block: int) -> dict[str, int]:
            return {"ttft": 7 + block}

    job = Streams(**vars(make_job()))
    assert attempt.planned_samples(job, "fake", 2) == {"ttft": 9}


@pytest.mark.parametrize(("case", "engine"), [("tensorrt_llm", "transformers 5"), ("baseline", "lean Llama")])
def test_under_a_fixed_name_only_its_own_engine_may_answer(make_job, case, engine):
    job = make_job()
    job = replace(job, cases={case: job.cases["fake"]})
    found = attempt.checked(job, case, 0, outcome("ok", engine))
    assert found.state == "failed"
    assert found.reason.startswith(f"the engine says it is '{engine}', and under the name {case} only ")
    assert found.payload["identity"] == f"contradicted: {found.reason}"


def test_a_run_that_goes_on_has_no_tables_of_less_than_it_holds(tmp_path, monkeypatch):
    assert execute_in(tmp_path) == 0
    (tmp_path / "blocks/fake-0/verdict.json").unlink()

    def killed(*_: Any) -> None:
        raise SystemExit(9)

    monkeypatch.setattr(run, "_run_block", killed)
    with pytest.raises(SystemExit):
        execute_in(tmp_path)
    assert (tmp_path / "samples.csv").is_file()
    assert not [name for name in ("ttft", "p99", "decode", "equivalence") if (tmp_path / f"{name}.csv").exists()]


def test_asked_twice_to_end_a_run_still_says_how_to_go_on(tmp_path, monkeypatch, capsys):
    def asked(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "_run_block", asked)
    monkeypatch.setattr(run, "make_tables", asked)
    prepared = begin(tmp_path)
    (tmp_path / "samples.csv").write_text("")
    assert run.carry_out(prepared) == 130
    assert f"go on with: python -m harness resume={tmp_path}" in capsys.readouterr().out


def stored(folder: Path, *overrides: str) -> dict[str, Any]:
    begin(folder).held.close()
    return resume.stored_settings(folder, overrides)


def test_a_run_that_older_code_began_goes_on_with_that(tmp_path):
    stored(tmp_path)
    path = tmp_path / "settings.json"
    settings = json.loads(path.read_text())
    del settings["config"]["protocol"]["pinning"]
    path.write_text(json.dumps(settings))
    said = (
        r"resume=.*: its settings.json is not what this code asks for \(protocol.pinning is missing: .*\): go on with "
    )
    with pytest.raises(ValueError, match=said):
        resume.stored_settings(tmp_path, [])


def test_resume_takes_the_stored_configuration_and_what_is_no_setting(tmp_path):
    config = stored(tmp_path, "lock=refuse", "seed=20260423", "model=tiny", f"output={tmp_path}", "dry_run=true")
    assert (config["lock"], config["dry_run"], config["resume"], config["output"]) == (
        "refuse",
        True,
        None,
        str(tmp_path),
    )
    assert config["sweep"]["prompt_lengths"] == [10]
    assert manifest.settings(config) == json.loads((tmp_path / "settings.json").read_text())


@pytest.mark.parametrize(("override", "difference"), [
    ("seed=1", "seed: 20260423 -> 1"),
    ("sweep.prompt_lengths=[10,20]", r"sweep\.prompt_lengths: \[10\] -> \[10, 20\]"),
    ("model=llama2_7b", r'model\.name: "tiny" -> "Llama-2-7B", and \d+ more'),
    ("output=/elsewhere", 'output: "[^"]*" -> "/elsewhere"'),
    ("cases.fake.fail=exit", r'cases\.fake\.fail: null -> "exit"'),
])  # fmt: skip
def test_what_would_change_a_run_that_goes_on_is_refused_with_the_difference(tmp_path, override, difference, fault):
    tried = fault("Resume", "another configuration given beside resume=")
    with pytest.raises(ValueError, match=f"{difference}: a run goes on as it was configured: leave .* out"):
        stored(tmp_path, override)
    tried.happened("refused in one sentence: key: stored -> given")


@pytest.mark.parametrize("override", ["+x=1", "~seed", "seed=1,2", "hydra.verbose=true", "seed=[1"])
def test_only_plain_values_stand_beside_resume(tmp_path, override):
    with pytest.raises(ValueError, match=r"can't be given beside resume|cannot read"):
        stored(tmp_path, override)


@pytest.mark.parametrize(("text", "sentence"), [
    (None, r"holds no run that can go on \(no settings.json\)"),
    ("{", "is not as the harness wrote it"), ("[]", "is not as the harness wrote it"), ("{}", "is not as"),
])  # fmt: skip
def test_what_holds_no_settings_can_not_go_on(tmp_path, text, sentence):
    if text is not None:
        (tmp_path / "settings.json").write_text(text)
    with pytest.raises(ValueError, match=sentence):
        resume.stored_settings(tmp_path, [])


def test_from_the_command_line_a_run_goes_on_by_its_stored_configuration(tmp_path, capsys):
    assert execute_in(tmp_path) == 0
    whole = samples(tmp_path, "fake")
    capsys.readouterr()
    assert main.go_on([f"resume={tmp_path}", "dry_run=true"]) == 0
    assert "Fake" in capsys.readouterr().out
    assert main.go_on([f"resume={tmp_path}", "seed=1"]) == 2
    assert capsys.readouterr().err.startswith(f"error: resume={tmp_path}: seed: 20260423 -> 1: a run goes on as it was")
    assert main.go_on(["--multirun", f"resume={tmp_path}"]) == 2
    assert capsys.readouterr().err.startswith("error: resume goes on with one stored run")
    assert main.go_on(["seed=1"]) is None
    assert main.go_on([f"resume={tmp_path}"]) == 0
    said = capsys.readouterr().out
    assert f"every block of {tmp_path} is done: its tables and report are made again" in said
    assert "Preparation" not in said
    assert samples(tmp_path, "fake") == whole
    assert [line.text for line in validate(tmp_path) if line.state == "FAILED"] == []


def test_a_block_whose_samples_were_taken_away_is_measured_again(tmp_path):
    assert execute_in(tmp_path) == 0
    whole = samples(tmp_path, "fake")
    path = tmp_path / "blocks/fake-0/samples.csv"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    assert execute_in(tmp_path) == 0
    assert len(samples(tmp_path, "fake")) == len(whole)


def test_make_bench_adds_no_preset_to_a_run_that_goes_on(capsys):
    preset.main(["resume=results/x"])
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("name", ["manifest.json", "job.json"])
@pytest.mark.parametrize("text", ['{"cut', "[]", "{}", "\udcff"])
def test_a_damaged_file_of_a_run_that_goes_on_is_one_sentence(tmp_path, capsys, name, text):
    assert execute_in(tmp_path / "run", *FAILING) == 1
    (tmp_path / "run" / name).write_bytes(text.encode("utf-8", "surrogateescape"))
    assert main.go_on([f"resume={tmp_path / 'run'}"]) == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith(f"error: {tmp_path / 'run' / name} ")


def test_two_runs_of_one_second_have_two_folders(tmp_path, monkeypatch):
    """The second chooses its name, waits for the GPU, and finds the name taken."""

    class Stopped(datetime):
        @classmethod
        def now(cls, tz=None):
            return cls(2026, 1, 2, 3, 4, 5)

    first = tmp_path / "20260102-030405-tiny-controlled"
    monkeypatch.setattr(folders, "RESULTS", tmp_path)
    monkeypatch.setattr(folders, "datetime", Stopped)
    monkeypatch.setattr(start, "check_machine", lambda config: first.mkdir())
    composed = compose_raw(["run=[fake]", "experiment=smoke", "+case@cases.fake=fake"], EXTRA)
    begun = start.begin(to_config(composed), resolved(composed), "tests.stub_worker")
    begun.held.close()
    assert begun.folder == first.with_name(f"{first.name}-2")
