"""Whoever reads the page finds a sentence for each heading of its tables."""

import html
import re

from reports import page
from reports.__main__ import tables_of


def test_every_heading_is_defined(full):
    said = " ".join([f"{term}: {text}" for term, text in page.definitions(full).items()]).lower()
    known = {*full.cases.values(), *(f"over {title}" for title in full.cases.values()), "Case", "Verdict"}
    headings = {column.head.text for table in tables_of(full) for column in table.columns} - known
    words = {re.sub(r" \(.*\)$", "", heading) for heading in headings}
    words = {re.sub(r"^Block \d+$", "Block", word).lower() for word in words}
    assert {"winner", "floor", "avg p99", "largest over smallest", "host's loop", "slow host"} <= words
    missing = [word for word in sorted(words) if word not in said]
    assert missing == []


def test_the_definitions_stand_on_the_page(full):
    text = html.unescape(page.render(full, tables_of(full), [], {}))
    assert all(term.split(",")[0] in text for term in page.definitions(full))
