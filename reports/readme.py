"""The tables of a run between the markers of a README."""

from __future__ import annotations

import os
import re
from pathlib import Path

from reports.experiments.section import Section
from reports.markup import markdown, markdown_escape
from reports.run import SMOKE, Run
from reports.table import Table
from reports.write import put

WHOLE = "results"
"""The part that has all of SHOWN and FIGURES; any other has BRIEF and the first figure."""
SHOWN = ("ttft", "summary", "speedup", "p99", "decode", "clocks")
BRIEF = ("ttft", "summary")
FIGURES = (("ttft", "Time to first token by prompt length"), ("decode", "Decode latency by context length"))


def markers(part: str = WHOLE) -> tuple[str, str]:
    """What a part of a README stands between. Raises ValueError for a name that is not of small letters, digits, _."""
    if not re.fullmatch(r"[a-z][a-z0-9_]*", part):
        raise ValueError(f"--part {part!r} must be small letters, digits and underscores, such as engines")
    return f"<!-- {part}:begin -->", f"<!-- {part}:end -->"


def update(path: Path, run: Run, tables: list[Table], study: Section | None = None, part: str = WHOLE) -> None:
    """Replace what stands between a part's markers. Raises ValueError when they are not there once each, in order."""
    begin, end = markers(part)
    if not path.is_file():
        raise ValueError(f"there is no file {path}")
    text = path.read_text(encoding="utf-8")
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
        raise ValueError(f"{path} needs the markers {begin} and {end} once each, in this order")
    before, after = text.split(begin)[0], text.split(end)[1]
    put(path, f"{before}{begin}\n{results(run, tables, path.parent, study, part)}\n{end}{after}")


def results(run: Run, tables: list[Table], root: Path, study: Section | None = None, part: str = WHOLE) -> str:
    """The facts of a run, its main figures and tables, as Markdown; links are relative to `root`."""
    names, drawn = (SHOWN, FIGURES) if part == WHOLE else (BRIEF, FIGURES[:1])
    named = {table.name: table for table in tables}
    manifest = run.manifest
    name = re.sub(r"[`<>|\n]", "_", manifest["run"])  # in backticks nothing else is read
    facts = markdown_escape(f"started {manifest['started']}: {run.gpu}, {run.model}. {versions(run)}")
    stamp = [f"**{SMOKE}.**"] if run.smoke else []
    folder = Path(os.path.relpath(run.path.resolve(), root.resolve())).as_posix()
    files = f"All its files, raw samples included: [{folder}]({folder})."
    pictures = [(plot.name, plot.title) for plot in study.plots if plot.figure] if study else drawn
    figures = [f"![{markdown_escape(title)}]({folder}/report/{name}.png)" for name, title in pictures]
    chosen = study.tables if study else [named[name] for name in names if name in named]
    tables_text = [markdown(table).rstrip() for table in chosen if table.shown]
    intro = f"Run `{name}`, {facts} {files}"
    return "\n\n".join([*stamp, intro, *tables_text[:1], *figures, *tables_text[1:]])


def versions(run: Run) -> str:
    """What computed, and under which code: one sentence from the manifest."""
    found = run.manifest.get("versions", {})
    packages = ", ".join(f"{name} {number}" for name, number in found.items() if number)
    git = run.manifest.get("git") or {}
    commit = str(git.get("same_code_as") or git.get("sha") or "unknown")[:8]
    changed = ", with changes" if git.get("dirty") and not git.get("same_code_as") else ""
    return f"Software: {packages or 'not recorded'}; code of commit {commit}{changed} of this repository."
