"""The committed reports: every table is what the run's files give today, so that none is edited by hand or left old."""

import shutil
from pathlib import Path

import pytest

from reports import markup, readme
from reports.__main__ import tables_of
from reports.compare import command
from reports.experiments import section
from reports.merge import command as merge
from reports.paper.__main__ import main as paper
from reports.run import load
from reports.spread import command as spread

ROOT = Path(__file__).resolve().parents[2]
RUNS = ROOT / "results" / "published"
PUBLISHED = sorted(path.parent for path in RUNS.glob("*/manifest.json"))
COMPARED = {
    "again": ("h200-2026-11-23-default-8", "h200-2026-11-23-default-9"),
    "again/unpinned": ("h200-2026-11-23-default-4", "h200-2026-11-23-default-6"),
    "again/busy": ("h200-2026-11-23-default-4", "h200-2026-11-23-default-7"),
    "again/day": ("h200-2026-11-22-default-3", "h200-2026-11-23-default-4"),
    "again/older": ("h200-2026-11-22-default-2", "h200-2026-11-22-default-4", "--force"),
    "two_gpus/compare": ("h200x2-2026-11-22-alone", "h200x2-2026-11-22-beside_llama2_7b"),
}
NEW_KERNELS = (
    "h200-2026-11-23-default-4",
    "h200-2026-11-23-default-6",
    "h200-2026-11-23-default-5",
    "h200-2026-11-23-default-3",
)
BEFORE = (
    "h200-2026-11-23-default",
    "h200-2026-11-23-default-2",
    "h200-2026-11-22-default-3",
    "h200-2026-11-22-default-4",
)
SPREAD = {
    "again/machines": (NEW_KERNELS, ()),
    "again/before": (BEFORE, ()),
    "again/hosts": ((*NEW_KERNELS, *BEFORE), ("--cases", "baseline", "cuda_graph")),
}
MERGED = ("h200x2-2026-11-22-beside_llama2_7b", "h200x2-2026-11-22-beside_llama3_8b")
WRITTEN = ("csv", "md", "tex")


def texts(folder, suffix):
    """What stands in the files of a folder that end so, by name."""
    return {path.name: path.read_text(encoding="utf-8") for path in folder.glob(f"*.{suffix}")}


def unlike(made, stored):
    """The names under which two folders have other texts."""
    return sorted(name for name in made.keys() | stored.keys() if made.get(name) != stored.get(name))


def differing(folder):
    """The tables of a run's report that its files do not give."""
    run = load(folder)
    study = section(run)
    tables = [*(study.tables if study else []), *tables_of(run)]
    shown = [table for table in tables if table.shown]
    made = {f"{table.name}.csv": table.csv() for table in tables}
    made |= {f"{table.name}.md": markup.markdown(table) for table in shown}
    made |= {f"{table.name}.tex": markup.latex(table) for table in shown}
    stored = {name: text for suffix in WRITTEN for name, text in texts(folder / "report", suffix).items()}
    stored.pop("tables.tex", None)
    return unlike(made, stored)


@pytest.mark.parametrize("folder", PUBLISHED, ids=lambda path: path.name)
def test_the_committed_tables_are_those_of_the_runs_files(folder):
    assert differing(folder) == []


def test_the_committed_papers_tables_are_those_of_the_newest_runs(tmp_path):
    assert paper(["--to", str(tmp_path)]) == 0
    stored = ROOT / "results" / "paper" / "report"
    for suffix in WRITTEN:
        assert unlike(texts(tmp_path, suffix), texts(stored, suffix)) == [], suffix


def test_an_edited_table_is_seen_whatever_its_format(tmp_path):
    folder = shutil.copytree(RUNS / "h200-2026-11-22-host_a", tmp_path / "run")
    for suffix in WRITTEN:
        path = folder / "report" / f"ttft.{suffix}"
        path.write_text(path.read_text().replace("2", "1", 1))
    assert differing(folder) == ["ttft.csv", "ttft.md", "ttft.tex"]


@pytest.mark.parametrize("part", ["results", "engines"])
def test_the_front_page_quotes_the_run_that_it_names(part):
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    begin, end = readme.markers(part)
    stored = text.split(begin)[1].split(end)[0].strip()
    folder = RUNS / stored.split("`")[1]
    run = load(folder)
    assert stored == readme.results(run, tables_of(run), ROOT, section(run), part).strip()


@pytest.mark.parametrize("name", COMPARED)
def test_the_committed_comparisons_are_those_of_their_runs(name, tmp_path, monkeypatch):
    monkeypatch.setattr(command, "write_figure", lambda plot, folder: b"")
    first, second, *options = COMPARED[name]
    command.main([str(RUNS / first), str(RUNS / second), *options, "--to", str(tmp_path)])
    for suffix in WRITTEN:
        assert unlike(texts(tmp_path, suffix), texts(ROOT / "results" / name, suffix)) == []


def test_the_committed_merged_report_is_that_of_its_runs(tmp_path):
    assert merge.main([*(str(RUNS / name) for name in MERGED), "--to", str(tmp_path)]) == 0
    for suffix in WRITTEN:
        assert unlike(texts(tmp_path, suffix), texts(ROOT / "results" / "two_gpus" / "merged", suffix)) == []


@pytest.mark.parametrize("name", SPREAD)
def test_the_committed_spread_is_that_of_its_runs(name, tmp_path, monkeypatch):
    monkeypatch.setattr(spread, "write_figure", lambda plot, folder: b"")
    runs, options = SPREAD[name]
    assert spread.main([*(str(RUNS / run) for run in runs), *options, "--to", str(tmp_path)]) == 0
    for suffix in WRITTEN:
        assert unlike(texts(tmp_path, suffix), texts(ROOT / "results" / name, suffix)) == []
