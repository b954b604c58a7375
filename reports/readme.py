"""The tables of a run between the markers of a README."""

from __future__ import annotations

from pathlib import Path

from reports.markup import markdown, markdown_escape
from reports.run import SMOKE, Run
from reports.table import Table

BEGIN, END = "<!-- results:begin -->", "<!-- results:end -->"
SHOWN = ("ttft", "summary", "speedup", "p99", "decode")


def update(path: Path, run: Run, tables: list[Table]) -> None:
    """Replace what stands between the markers. Raises ValueError when they are not there once each, in order."""
    if not path.is_file():
        raise ValueError(f"there is no file {path}")
    text = path.read_text(encoding="utf-8")
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise ValueError(f"{path} needs the markers {BEGIN} and {END} once each, in this order")
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    aside = path.with_name(f".{path.name}.new")
    aside.write_text(f"{before}{BEGIN}\n{results(run, tables)}\n{END}{after}", encoding="utf-8")
    aside.replace(path)


def results(run: Run, tables: list[Table]) -> str:
    """The facts of a run and its main tables, as Markdown."""
    named = {table.name: table for table in tables}
    manifest = run.manifest
    facts = f"Run `{manifest['run']}`, started {manifest['started']}: {run.gpu}, {run.model}."
    stamp = [f"**{SMOKE}.**"] if run.smoke else []
    return "\n\n".join(
        [*stamp, markdown_escape(facts).replace("\\`", "`"), *(markdown(named[n]).rstrip() for n in SHOWN)]
    )
