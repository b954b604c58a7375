"""`python -m reports merge`: what stands in the tables, what is said of runs that are not alike or not whole."""

import json
import shutil

import pytest
from matplotlib import image

from reports import latency
from reports.merge.tables import decode_ratio_grid
from reports.run import SMOKE, load
from tests.reports.pairs import manifest
from tests.reports.sweeps import GPUS, MODELS, SLUGS, TABLES, cells, invented, merge, notes, plain, records, sweep

MAKERS = {
    "ttft": latency.ttft_grid, "ttft_ratio": latency.ratio_grid, "p99": latency.p99_grid,
    "decode": latency.decode_grid, "decode_ratio": decode_ratio_grid,
}  # fmt: skip


@pytest.fixture(scope="module")
def four(tmp_path_factory):
    """A sweep and its report."""
    folder = sweep(tmp_path_factory.mktemp("four") / "sweep")
    assert merge(folder) == 0
    return folder


@pytest.fixture
def two(four, tmp_path):
    """One model on two GPUs, free to spoil."""
    for gpu in GPUS:
        shutil.copytree(four / f"{gpu}-two", tmp_path / "sweep" / f"{gpu}-two")
    return tmp_path / "sweep"


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("name", TABLES)
def test_a_merged_table_says_of_each_gpu_what_its_own_report_says(four, name, model):
    merged = cells(four / "merged" / f"{name}_{SLUGS[model]}.md")
    seen = 0
    for gpu, (label, _) in GPUS.items():
        run = load(four / f"{gpu}-{model}")
        own = latency.build(run, MAKERS[name](run))
        for row in own.rows:
            line = merged[plain(row[0].text), label]
            for column, cell in zip(own.columns[1:], row[1:], strict=True):
                assert line[column.head.text] == cell.text
            seen += 1
    assert seen == len(merged)


def test_ratios_are_by_each_runs_own_floor(four):
    found = {gpu: cells(four / "merged" / "ttft_ratio_llama-2-7b.md")["10", label] for gpu, (label, _) in GPUS.items()}
    for gpu in GPUS:
        stored = {(r["case"], r["prompt_length"]): r for r in records(four / f"{gpu}-two" / "ttft.csv")}
        assert found[gpu]["JIT-Only"] == f"{float(stored['jit', '10']['ratio_to_floor']):.2f}"
    assert found["fast"]["JIT-Only"] != found["slow"]["JIT-Only"]


@pytest.mark.parametrize("name", TABLES)
def test_averages_of_all_are_the_last_rows_of_each_model(four, name):
    found = cells(four / "merged" / f"{name}.md")
    assert set(found) == {(model, gpu) for model, _ in MODELS.values() for gpu, _ in GPUS.values()}
    for short, (model, _) in MODELS.items():
        own = cells(four / "merged" / f"{name}_{SLUGS[short]}.md")
        last = list(own)[-1][0]
        for gpu, _ in GPUS.values():
            assert list(found[model, gpu].values())[2:] == list(own[last, gpu].values())[2:]


def test_set_up_is_told_by_model_and_gpu(four):
    found = cells(four / "merged" / "set_up.md")
    assert {line["JIT-Only"] for line in found.values()} == {"11.5"}
    assert {line["TensorRT-LLM"] for line in found.values()} == {"–"}
    assert len(found) == 4


def test_every_table_and_figure_is_there_in_every_form_and_no_run_is_touched(four):
    names = {f"{name}{end}" for name in TABLES for end in ("", *(f"_{slug}" for slug in SLUGS.values()))}
    names |= {"set_up", "machines"}
    wanted = {f"{name}.{form}" for name in names for form in ("md", "csv", "tex")}
    wanted |= {f"{name}.{form}" for name in ("ttft", "ttft_ratio", "decode") for form in ("png", "pdf")}
    assert {path.name for path in (four / "merged").iterdir()} == wanted | {"tables.tex", "merged.html"}
    assert all(image.imread(path).std() > 0.05 for path in (four / "merged").glob("*.png"))
    assert not any((four / f"{gpu}-{model}" / "report").exists() for gpu in GPUS for model in MODELS)


def test_numbers_behind_a_table_say_of_which_run_they_are(four):
    rows = records(four / "merged" / "ttft_llama-2-7b.csv")
    assert {(r["model"], r["gpu"], r["folder"]) for r in rows} == {
        ("Llama-2-7B", label, f"{gpu}-two") for gpu, (label, _) in GPUS.items()
    }
    stored = records(four / "slow-two" / "ttft.csv")
    mine = [r for r in rows if r["folder"] == "slow-two" and r["prompt_length"] != "average"]
    assert {(r["case"], r["prompt_length"]): float(r["p50_ms"]) for r in mine} == pytest.approx(
        {(r["case"], r["prompt_length"]): float(r["p50_ms"]) for r in stored}
    )


def test_the_page_has_all_and_needs_nothing_else(four):
    text = (four / "merged" / "merged.html").read_text()
    assert text.count("data:image/png;base64,") == 3
    assert all(f'id="{name}_{slug}"' in text for name in TABLES for slug in SLUGS.values())
    assert "Slow &amp; cheap_GPU" in text
    assert "Slow & cheap" not in text
    assert not any(outside in text for outside in ("http://", "https://", "<script", "src=\"/", "<link"))


def test_what_is_the_same_of_all_is_said_once_and_what_is_not_names_the_gpu(four):
    found = notes(four / "merged" / "ttft_llama-2-7b.md")
    assert sum("0 of 3 blocks ended well; unavailable" in line for line in found) == 1
    failed = [line for line in found if "Eager (control) fails the comparison with the baseline" in line]
    assert len(failed) == 1
    assert failed[0].startswith("<sup>†</sup> Eager")


def test_a_second_report_is_the_same_file_by_file_and_not_taken_for_a_run(four, tmp_path, capsys):
    copied = shutil.copytree(four, tmp_path / "sweep")
    assert merge(copied) == 0
    assert "left out" not in capsys.readouterr().err
    for path in (four / "merged").iterdir():
        assert (copied / "merged" / path.name).read_bytes() == path.read_bytes()


def test_folders_that_are_no_runs_are_named_and_hidden_ones_are_not(two, capsys):
    for name in (".submitit", "notes", "early"):
        (two / name).mkdir()
    shutil.copy(two / "fast-two" / "manifest.json", two / "early")
    assert merge(two) == 0
    said = capsys.readouterr().err.splitlines()
    assert said == [
        "reports: left out early (it has no ttft.csv: the run did not get as far as its summaries)",
        "reports: left out notes (it has no manifest.json)",
    ]
    page = (two / "merged" / "machines.md").read_text().replace("\\", "")
    assert "Left out, since they are no runs with results: early (it has no ttft.csv" in page


def test_runs_can_be_named_one_by_one(two, tmp_path):
    assert merge(two / "fast-two", two / "slow-two", "--to", tmp_path / "out") == 0
    merge(two)
    for path in (tmp_path / "out").glob("*.csv"):
        assert path.read_bytes() == (two / "merged" / path.name).read_bytes()


def test_other_lengths_leave_empty_cells_and_averages_take_the_shared_ones(two):
    shutil.rmtree(two / "slow-two")
    invented(two / "slow-two", "slow", lengths=(10, 100))
    assert merge(two) == 0
    path = two / "merged" / "ttft_llama-2-7b.md"
    found, slow = cells(path), GPUS["slow"][0]
    assert [row for row, gpu in found if gpu == slow] == ["10", "100", "400", "Average"]
    assert {found["400", slow][title] for title in ("Baseline", "JIT-Only", "Floor", "Winner")} == {"–"}
    assert f"{slow}: No prompts of 400 tokens were planned." in " ".join(notes(path))
    for gpu in (slow, GPUS["fast"][0]):
        assert found["Average", gpu]["JIT-Only"] == found["10", gpu]["JIT-Only"]
    assert "Averages are over the prompt lengths that all runs share: 10." in path.read_text()
    average = [r for r in records(two / "merged" / "ttft.csv") if r["case"] == "jit"]
    assert {r["prompt_length"] for r in average} == {"average"}


def test_a_case_of_one_run_has_its_column_and_the_other_says_it_has_none(two):
    shutil.rmtree(two / "slow-two")
    invented(two / "slow-two", "slow", cases=("baseline", "jit"), missing=(), wrong=())
    assert merge(two) == 0
    path, slow = two / "merged" / "decode.md", GPUS["slow"][0]
    assert cells(path)["Llama-2-7B", slow]["Eager (control)"] == "–"
    assert cells(path)["Llama-2-7B", GPUS["fast"][0]]["Eager (control)"] != "–"
    assert f"Llama-2-7B on {slow}: Eager (control): not in this run." in " ".join(notes(path)).replace("&amp;", "&")


def test_an_interrupted_run_keeps_its_rows_and_is_marked_everywhere(two):
    status = (two / "slow-two" / "status.csv").read_text().splitlines(keepends=True)
    (two / "slow-two" / "status.csv").write_text("".join(status[:-1]))
    assert merge(two) == 0
    for name in ("ttft", "decode_llama-2-7b", "set_up", "machines"):
        assert any("Interrupted: 11 of 12 blocks." in line for line in notes(two / "merged" / f"{name}.md"))
    assert "11 of 12 blocks" in (two / "merged" / "merged.html").read_text()
    assert "11 of 12" not in (two / "merged" / "ttft.md").read_text().split("<sup>", 1)[0]


@pytest.mark.parametrize("runs", [1, 3])
def test_neighbours_are_a_footnote_and_being_alone_is_none(two, runs):
    manifest(two / "slow-two", neighbours={"runs": runs, "cores": [0, 1, 2, 3]})
    manifest(two / "fast-two", neighbours=None)
    assert merge(two) == 0
    said = [line for line in notes(two / "merged" / "ttft_llama-2-7b.md") if "Measured beside" in line]
    word = "1 other run" if runs == 1 else "3 other runs"
    assert len(said) == 1
    assert f"GPU: Measured beside {word} on the same host, on 4 CPU cores of its own." in said[0]


def test_other_software_is_allowed_and_said(two):
    manifest(two / "slow-two", versions__torch="9.9", code_digest="4" * 64, gpu__driver="1.2")
    assert merge(two) == 0
    assert "not the same on all machines: driver, torch, code (table of machines)" in (
        two / "merged" / "ttft.md"
    ).read_text()
    assert "torch 9.9" in (two / "merged" / "machines.md").read_text()


def test_an_option_set_otherwise_is_a_footnote(two):
    manifest(two / "slow-two", config__cases__jit__jit={"backend": "other"})
    assert merge(two) == 0
    assert any("Set otherwise: cases.jit.jit is" in line for line in notes(two / "merged" / "decode_llama-2-7b.md"))


def test_energy_stands_where_it_was_measured(two):
    head = "case,block,metric,prompt_length,n,tokens,began_ns,ended_ns,joules,joules_per_request,joules_per_token,idle_w,method"
    rows = ["jit,0,ttft,10,20,200,1,2,50,2.5,0.25,90,counter", "jit,0,decode,10,20,20,3,4,30,,1.5,90,counter",
            "jit,0,rest,0,0,0,5,6,90,,,90,counter"]  # fmt: skip
    (two / "fast-two" / "energy.csv").write_text("\n".join([head, *rows, ""]))
    assert merge(two) == 0
    found = cells(two / "merged" / "energy_llama-2-7b.md")
    assert {row: line["JIT-Only"] for (row, _), line in found.items()} == {
        "10 tokens, J a request": "2.50", "Decode, J a token": "1.50", "At rest, W": "90.00"}  # fmt: skip
    assert f"Not measured on {GPUS['slow'][0]}." in (two / "merged" / "energy_llama-2-7b.md").read_text().replace(
        "\\", "").replace("&amp;", "&")  # fmt: skip


def test_smoke_runs_merge_among_themselves_and_are_stamped(two, capsys):
    for gpu in GPUS:
        manifest(two / f"{gpu}-two", smoke=True)
    assert merge(two) == 0
    assert SMOKE in capsys.readouterr().out
    for name in ("ttft.md", "machines.tex", "merged.html"):
        assert SMOKE in (two / "merged" / name).read_text()


def test_models_whose_names_make_one_file_name_are_told_apart(two):
    path = two / "slow-two" / "manifest.json"
    stored = json.loads(path.read_text())
    stored["model"]["name"] = "llama 2 7b"
    path.write_text(json.dumps(stored))
    assert merge(two) == 0
    assert {(two / "merged" / f"ttft_llama-2-7b{end}.md").is_file() for end in ("", "-2")} == {True}
