"""The table of a benchmark of kernels, from files made by the benchmark's own writer."""

from __future__ import annotations

import json

import pytest

from cases.runtime.kernels import bench
from reports.kernels import kernels_table, main

FACTS = {
    "model": "llama2_7b", "dtype": "float16", "gpu": "Invented GPU", "started": "2026-01-02T00:00:00+00:00",
    "torch": "0.0", "layers": 32, "replays": 15, "read_bandwidth_tb_s": 4.0, "matmul_tflop_s": 800.0, "shape": {},
}  # fmt: skip


def kernel(**changes):
    made = {"phase": "prefill", "name": "down", "rows": 16, "context": 0, "work": print, "times": 2}
    return bench.Kernel(**{**made, "bytes": 80e6, "flops": 1e9, **changes})


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(bench, "seconds", lambda work, times: 25e-6)
    ceiling = bench.Ceiling(4.0, 800.0)
    some = [kernel(phase="decode", rows=1, context=200), kernel(), kernel(rows=400, flops=16e9, name="up")]
    return bench.write(tmp_path / "x", [bench.measured(one, ceiling) for one in some], FACTS)


def test_a_floor_is_the_longer_of_reading_and_computing():
    ceiling = bench.Ceiling(4.0, 800.0)
    assert ceiling.microseconds(kernel()) == pytest.approx(20.0)
    assert ceiling.microseconds(kernel(flops=40e9)) == pytest.approx(50.0)


def test_the_table_has_time_floor_rates_and_the_share_of_the_ceiling(folder):
    table = kernels_table(folder)
    assert [[cell.text for cell in row] for row in table.rows] == [
        ["decode", "down", "1", "200", "25.0", "20.0", "3.20", "40", "80 %"],
        ["prefill", "down", "16", "", "25.0", "20.0", "3.20", "40", "80 %"],
        ["prefill", "up", "400", "", "25.0", "20.0", "3.20", "640", "80 %"],
    ]
    assert table.rules == frozenset({1, 2})
    assert "median of 15 replays" in table.facts
    assert "4.00 TB/s" in table.facts
    assert main([str(folder)]) == 0
    assert (folder / "report" / "kernels.md").is_file()


def test_a_table_says_which_driver_and_which_code_it_comes_from_where_it_knows(folder):
    assert kernels_table(folder).facts.endswith("torch 0.0.")
    stored = folder / "kernels.json"
    stored.write_text(json.dumps({**FACTS, "driver": "580.1", "code": "abc and changes"}))
    assert kernels_table(folder).facts.endswith("torch 0.0; driver 580.1; code of commit abc and changes.")
    stored.write_text(json.dumps({**FACTS, "driver": 580}))
    with pytest.raises(ValueError, match="driver"):
        kernels_table(folder)


def test_outputs_of_an_earlier_benchmark_do_not_stay_beside_new_kernels(folder):
    (folder / "accuracy.csv").write_text("old")
    (folder / "replays.csv").write_text("old")
    bench.write(folder, [], FACTS)
    assert sorted(path.name for path in folder.iterdir()) == ["kernels.csv", "kernels.json"]


@pytest.mark.parametrize(
    ("arguments", "measured"),
    [([], [((10, 100, 200, 400), 5000)]), (["--no-accuracy"], []), (["--lengths", "9,3,9"], [((3, 9), 5000)])],
)
def test_outputs_are_measured_after_the_kernels_unless_left_out(tmp_path, monkeypatch, arguments, measured):
    """Where the GPU's part is stubbed: which measurements are asked for, and what lies there by then."""
    asked = []

    def outputs(shape, dtype, lengths, times, say, folder):
        assert (folder / "kernels.csv").is_file()
        asked.append((tuple(lengths), times))

    monkeypatch.setattr(bench.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(bench.torch.cuda, "get_device_name", lambda: "Invented GPU")
    monkeypatch.setattr(bench, "calibrate", lambda device, dtype: {"read_bandwidth_tb_s": 4.0, "matmul_tflop_s": 800.0})
    monkeypatch.setattr(bench, "time_kernels", lambda *_: [bench.measured(kernel(), bench.Ceiling(4.0, 800.0))])
    monkeypatch.setattr(bench, "seconds", lambda work, times: 25e-6)
    monkeypatch.setattr(bench, "measure_kernels", outputs)
    assert bench.main([*arguments, "--to", str(tmp_path)]) == 0
    assert asked == measured
    assert (tmp_path / "llama2_7b-float16" / "kernels.json").is_file()


def test_files_that_are_missing_or_lack_facts_are_one_sentence(folder, capsys):
    (folder / "kernels.json").write_text(json.dumps({key: FACTS[key] for key in FACTS if key != "gpu"}))
    assert main([str(folder)]) == 2
    assert capsys.readouterr().err.strip() == f"reports.kernels: {folder / 'kernels.json'} has no gpu"
    (folder / "kernels.json").unlink()
    assert main([str(folder)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--model", "llama9"], "there is no such model; choose"),
        (["--model", "checkpoint"], "has no shape of its own"),
        (["--rows", "16,x"], "--rows takes whole numbers from 1 on"),
        (["--rows", "16,513"], "--rows holds 513, but here there is room for 512 at most"),
        (["--contexts", "0"], "--contexts takes whole numbers from 1 on"),
        (["--contexts", "512"], "--contexts holds 512, but here there is room for 511 at most"),
        (["--layers", "0"], "--layers takes 1 to 32"),
        (["--layers", "-3"], "--layers takes 1 to 32"),
        (["--layers", "33"], "--layers takes 1 to 32"),
        (["--rows", "512", "--contexts", "511", "--layers", "32"], "the kernels need a CUDA GPU"),
        (["--lengths", "10,0"], "--lengths takes whole numbers from 1 on"),
        (["--lengths", "100000"], "has positions for prompts of at most 4092 tokens"),
        (["--replays", "1"], "--replays takes one whole number from 2 on"),
        (["--replays", "many"], "--replays takes one whole number from 2 on"),
        ([], "the kernels need a CUDA GPU"),
        (["--no-accuracy"], "the kernels need a CUDA GPU"),
    ],
)
def test_what_the_benchmark_can_not_do_is_one_sentence(arguments, sentence, capsys, monkeypatch):
    monkeypatch.setattr(bench.torch.cuda, "is_available", lambda: False)
    assert bench.main(arguments) == 2
    said = capsys.readouterr().err
    assert sentence in said
    assert said.count("\n") == 1
