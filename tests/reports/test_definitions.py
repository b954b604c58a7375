"""Whoever reads the page finds a sentence for each heading of its tables."""

import html
import json
import re
from pathlib import Path

import pytest

from reports import experiments, page
from reports.__main__ import tables_of
from reports.definitions import definitions
from reports.run import load

PUBLISHED = sorted((Path(__file__).resolve().parents[2] / "results" / "published").glob("*/"))
NEWEST = {json.loads((path / "manifest.json").read_text())["config"].get("study"): path for path in PUBLISHED}
SELF_EVIDENT = {"Case", "Verdict", "Metric", "Prompt", "n", "Requests", "Pair", "Cell"}


def words_of(run, tables):
    """What the headings of tables are made of: without units, names of cases and numbers of blocks."""
    found = set()
    for heading in {column.head.text for table in tables for column in table.columns} - SELF_EVIDENT:
        for title in sorted(run.cases.values(), key=len, reverse=True):
            heading = heading.replace(title, "")
        parts = re.sub(r" \([^)]*\)$", "", heading).split(", ")
        found |= {re.sub(r"^Block \d+$", "Block", part.strip()).lower() for part in parts}
    return found - {"", "over", "published"}


def missing(run, tables):
    """Words of headings that neither the definitions have nor the text under the heading's own table."""
    said = " ".join(f"{term}: {text}" for term, text in definitions(run).items()).lower()
    found = {word for table in tables for word in words_of(run, [table]) if word not in table.facts.lower()}
    return sorted(word for word in found if word not in said)


def test_every_heading_is_defined(full):
    tables = tables_of(full)
    assert {"winner", "floor", "avg p99", "largest over smallest", "host's loop", "slow host"} <= words_of(full, tables)
    assert missing(full, tables) == []


@pytest.mark.parametrize("path", NEWEST.values(), ids=lambda path: path.name)
def test_every_heading_of_a_published_run_is_defined(path):
    run = load(path)
    study = experiments.section(run)
    assert missing(run, [*tables_of(run), *(study.tables if study else [])]) == []


def test_the_definitions_stand_on_the_page(full):
    text = html.unescape(page.render(full, tables_of(full), [], {}))
    assert all(term.split(",")[0] in text for term in definitions(full))
