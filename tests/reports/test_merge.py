"""`python -m reports merge`: what stands in the tables, what is said of runs that are not alike or not whole."""

import json
import shutil
from types import SimpleNamespace

import pytest
from matplotlib import image

from reports import latency, readme
from reports.compare.manifests import ABSENT, at
from reports.merge.command import parts_of
from reports.merge.gather import gather
from reports.merge.tables import slugs
from reports.run import SMOKE, load
from tests.reports.pairs import manifest
from tests.reports.sweeps import (
    CASES,
    GPUS,
    MAKERS,
    MODELS,
    SLUGS,
    TABLES,
    cells,
    invented,
    merge,
    notes,
    plain,
    plainly,
    records,
    sweep,
    table,
)

SLOW = GPUS["slow"][0]
SMALL = {"iterations": 8, "blocks": 3, "cases": CASES[:2], "missing": (), "wrong": ()}


@pytest.fixture(scope="module")
def four(tmp_path_factory):
    """A sweep and its report."""
    folder = sweep(tmp_path_factory.mktemp("four") / "sweep")
    assert merge(folder) == 0
    return folder


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """One model on two GPUs."""
    folder = tmp_path_factory.mktemp("pair")
    return [invented(folder / f"{gpu}-two", gpu, **SMALL) for gpu in GPUS]


@pytest.fixture
def two(pair, tmp_path):
    """The same, free to spoil."""
    for folder in pair:
        shutil.copytree(folder, tmp_path / "sweep" / folder.name)
    return tmp_path / "sweep"


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("name", TABLES)
def test_a_merged_table_says_of_each_gpu_what_its_own_report_says(four, name, model):
    merged = cells((four / "merged" / f"{name}_{SLUGS[model]}.md").read_text())
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
    merged = cells((four / "merged" / "ttft_ratio_llama-2-7b.md").read_text())
    found = {gpu: merged["10", label] for gpu, (label, _) in GPUS.items()}
    for gpu in GPUS:
        stored = {(r["case"], r["prompt_length"]): r for r in records(four / f"{gpu}-two" / "ttft.csv")}
        assert found[gpu]["JIT-Only"] == f"{float(stored['jit', '10']['ratio_to_floor']):.2f}"
    assert found["fast"]["JIT-Only"] != found["slow"]["JIT-Only"]


@pytest.mark.parametrize("name", TABLES)
def test_averages_of_all_are_the_last_rows_of_each_model(four, name):
    found = cells((four / "merged" / f"{name}.md").read_text())
    assert set(found) == {(model, gpu) for model, _ in MODELS.values() for gpu, _ in GPUS.values()}
    for short, (model, _) in MODELS.items():
        own = cells((four / "merged" / f"{name}_{SLUGS[short]}.md").read_text())
        last = list(own)[-1][0]
        for gpu, _ in GPUS.values():
            assert list(found[model, gpu].values())[2:] == list(own[last, gpu].values())[2:]


def test_set_up_is_told_by_model_and_gpu(four):
    found = cells((four / "merged" / "set_up.md").read_text())
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
    assert not any(outside in text for outside in ("http://", "https://", "<script", 'src="/', "<link"))


def test_what_is_the_same_of_all_is_said_once_and_what_is_not_names_the_gpu(four):
    found = notes((four / "merged" / "ttft_llama-2-7b.md").read_text())
    assert sum("0 of 3 blocks ended well; unavailable" in line for line in found) == 1
    failed = [line for line in found if "Eager (control) fails the comparison with the baseline" in line]
    assert len(failed) == 1
    assert failed[0].startswith("<sup>†</sup> Eager")


def test_a_second_report_is_the_same_file_by_file_and_names_what_it_left_out(two, tmp_path, capsys):
    """Its own folder is no run and is not named; nor are hidden ones."""
    for name in (".submitit", "notes", "early"):
        (two / name).mkdir()
    shutil.copy(two / "fast-two" / "manifest.json", two / "early")
    said = [
        "reports: left out early (it has no ttft.csv: of a run that was killed `python -m harness summarise` makes it)",
        "reports: left out notes (it has no manifest.json)",
    ]
    copied = shutil.copytree(two, tmp_path / "other" / "sweep")
    for folder in (copied, two):
        assert merge(folder) == 0
        assert capsys.readouterr().err.splitlines() == said
    for path in (two / "merged").iterdir():
        assert (copied / "merged" / path.name).read_bytes() == path.read_bytes()
    assert len(gather([two], two / "merged").left_out) == 2
    page = plainly((two / "merged" / "machines.md").read_text())
    assert "Left out, since they are no runs with results: early (it has no ttft.csv" in page


def test_runs_can_be_named_one_by_one(two):
    one, other = gather([two]), gather([two / "slow-two", two / "fast-two"])
    assert [run.path for run in one.runs] == [run.path for run in other.runs]


def test_other_lengths_leave_empty_cells_and_averages_take_the_shared_ones(two):
    shutil.rmtree(two / "slow-two")
    invented(two / "slow-two", "slow", **{**SMALL, "lengths": (10, 100)})
    text, made = table(two, "ttft_model")
    found = cells(text)
    assert [row for row, gpu in found if gpu == SLOW] == ["10", "100", "400", "Average"]
    assert {found["400", SLOW][title] for title in ("Baseline", "JIT-Only", "Floor", "Winner")} == {"–"}
    assert f"{SLOW}: No prompts of 400 tokens were planned." in " ".join(notes(text))
    for gpu in (SLOW, GPUS["fast"][0]):
        assert found["Average", gpu]["JIT-Only"] == found["10", gpu]["JIT-Only"]
    assert "Averages are over the prompt lengths that all runs share: 10." in text
    average = made.frame[made.frame["prompt_length"] == "average"]
    shortest = made.frame[made.frame["prompt_length"] == "10"]
    assert sorted(average["p50_ms"]) == sorted(shortest["p50_ms"])
    assert cells(table(two, "ttft")[0])["Llama-2-7B", SLOW]["JIT-Only"] == found["10", SLOW]["JIT-Only"]


def test_a_case_of_one_run_has_its_column_and_the_other_says_it_has_none(two):
    shutil.rmtree(two / "slow-two")
    invented(two / "slow-two", "slow", **{**SMALL, "cases": ("baseline",)})
    text, _ = table(two, "decode")
    assert cells(text)["Llama-2-7B", SLOW]["JIT-Only"] == "–"
    assert cells(text)["Llama-2-7B", GPUS["fast"][0]]["JIT-Only"] != "–"
    assert f"Llama-2-7B on {SLOW}: JIT-Only: not in this run." in " ".join(notes(text))


@pytest.mark.parametrize("name", ["ttft", "decode_model", "set_up", "machines"])
def test_an_interrupted_run_keeps_its_rows_and_is_marked_everywhere(two, name):
    status = (two / "slow-two" / "status.csv").read_text().splitlines(keepends=True)
    (two / "slow-two" / "status.csv").write_text("".join(status[:-1]))
    text, _ = table(two, name)
    marked = [line for line in notes(text) if "Interrupted: 5 of 6 blocks." in line]
    assert len(marked) == 1
    mark = marked[0].split("<sup>")[1].split("</sup>")[0]
    rows = [line for line in text.splitlines() if line.startswith("| ")][1:]
    with_mark = [line for line in rows if f"<sup>{mark}</sup>" in " | ".join(line.split(" | ")[:2])]
    assert with_mark == [line for line in rows if SLOW in plainly(line)]


NEIGHBOURS = {
    "one": (
        {"runs": 1, "gpus": [1], "cores": [[4, 5]]},
        "beside up to 1 other run on the same host, on CPU cores of th",
    ),
    "three": ({"runs": 3}, "beside up to 3 other runs on the same host."),
    "not known": ({"runs": None}, "where other runs may have been on the same host, how many is not known."),
}


@pytest.mark.parametrize("kind", NEIGHBOURS)
def test_neighbours_are_a_footnote_and_being_alone_is_none(two, kind):
    stated, said = NEIGHBOURS[kind]
    manifest(two / "slow-two", neighbours=stated)
    manifest(two / "fast-two", neighbours=None)
    found = [line for line in notes(table(two, "decode_model")[0]) if "Measured" in line]
    assert len(found) == 1
    assert f"{SLOW}: Measured {said}" in found[0]


def test_other_software_is_allowed_and_said(two):
    manifest(two / "slow-two", versions__torch="9.9", code_digest="4" * 64, gpu__driver="1.2")
    text, _ = table(two, "machines")
    assert "not the same on all machines: driver, torch, code (table of machines)" in text
    assert "torch 9.9" in text


@pytest.mark.parametrize("cuda", ["", "None"])
def test_a_pytorch_without_cuda_has_no_version_of_it(two, cuda):
    """`None` is what runs wrote before."""
    for name in ("fast-two", "slow-two"):
        manifest(two / name, versions__cuda=cuda)
    text, _ = table(two, "machines")
    assert "python 3.11, torch 0.0" in text
    assert "cuda" not in text
    run = load(two / "slow-two")
    assert readme.versions(run).startswith("Software: python 3.11, torch 0.0 (invented); code of commit")
    assert at(run.manifest, "versions.cuda") == ABSENT


def test_an_option_set_otherwise_is_a_footnote(two):
    manifest(two / "slow-two", config__cases__jit__jit={"backend": "other"})
    said = notes(table(two, "decode_model")[0])
    assert sum("Set otherwise: cases.jit.jit is" in line for line in said) == 1
    manifest(two / "slow-two", model__name="Other")
    said = notes(table(two, "decode")[0])
    assert sum("Set otherwise: cases.jit.jit is" in line for line in said) == 1, "of another model too"


def test_energy_stands_where_it_was_measured(two):
    rows = ["case,block,metric,prompt_length,n,tokens,began_ns,ended_ns,joules,joules_per_request,joules_per_token,"
            "idle_w,method", "jit,0,ttft,10,20,200,1,2,50,2.5,0.25,90,counter",
            "jit,0,decode,10,20,20,3,4,30,,1.5,90,counter", "jit,0,rest,0,0,0,5,6,90,,,90,counter"]  # fmt: skip
    (two / "fast-two" / "energy.csv").write_text("\n".join([*rows, ""]))
    text, _ = table(two, "energy_model")
    assert {row: line["JIT-Only"] for (row, _), line in cells(text).items()} == {
        "10 tokens, J a request": "2.50", "Decode, J a token": "1.50", "At rest, W": "90.00"}  # fmt: skip
    assert f"Not measured on {SLOW}." in plainly(text)


def test_smoke_runs_merge_among_themselves_and_are_stamped(two, capsys):
    for gpu in GPUS:
        manifest(two / f"{gpu}-two", smoke=True)
    assert merge(two) == 0
    assert SMOKE in capsys.readouterr().out
    for name in ("ttft.md", "machines.tex", "merged.html"):
        assert SMOKE in (two / "merged" / name).read_text()


def test_models_whose_names_make_one_file_name_are_told_apart(two):
    manifest(two / "slow-two", model__name="llama 2 7b")
    found = gather([two])
    assert slugs(found) == {"Llama-2-7B": "llama-2-7b", "llama 2 7b": "llama-2-7b-2"}
    names = [made.name for part in parts_of(found).values() for made in part]
    assert len(names) == len(set(names)) == 5 * 3 + 2
    assert slugs(SimpleNamespace(models=["A", "a 2", "a"])) == {"A": "a", "a 2": "a-2", "a": "a-3"}


def test_machines_with_gpus_of_one_name_are_told_apart_by_their_folders(tmp_path):
    folders = [invented(tmp_path / name, iterations=8, blocks=1, cases=("baseline",), missing=(), wrong=())
               for name in ("box-1", "box-2")]  # fmt: skip
    assert merge(tmp_path) == 2
    assert merge(tmp_path, "--machines") == 0
    text = (tmp_path / "merged/machines.md").read_text()
    assert all(f"Fast GPU ({folder.name})" in text for folder in folders)
    for folder in folders:
        path = folder / "manifest.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"gpu": None}))
    assert merge(tmp_path, "--machines") == 0
    text = (tmp_path / "merged/machines.md").read_text()
    assert all(f"CPU, no GPU ({folder.name})" in text for folder in folders)
