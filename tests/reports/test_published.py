"""The committed reports: every table is what the run's files give today, so that none is edited by hand or left old."""

from pathlib import Path

import pytest

from reports import markup
from reports.__main__ import tables_of
from reports.experiments import section
from reports.run import load

ROOT = Path(__file__).resolve().parents[2]
PUBLISHED = sorted(path.parent for path in (ROOT / "results" / "published").glob("*/manifest.json"))


def differing(folder):
    """The Markdown tables of a run's report that its files do not give."""
    run = load(folder)
    study = section(run)
    tables = [*(study.tables if study else []), *tables_of(run)]
    made = {f"{table.name}.md": markup.markdown(table) for table in tables if table.shown}
    stored = {path.name: path.read_text(encoding="utf-8") for path in (folder / "report").glob("*.md")}
    return sorted(name for name in made.keys() | stored.keys() if made.get(name) != stored.get(name))


@pytest.mark.parametrize("folder", PUBLISHED, ids=lambda path: path.name)
def test_the_committed_tables_are_those_of_the_runs_files(folder):
    assert differing(folder) == []
