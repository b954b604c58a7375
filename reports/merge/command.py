"""`python -m reports merge results/<sweep>`: one report over the runs of a sweep, by GPU and model."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from reports import markup, terminal
from reports.merge import page
from reports.merge.alike import check
from reports.merge.figures import figures
from reports.merge.gather import MANIFEST, Sweep, gather
from reports.merge.tables import of_all, of_model, slugs
from reports.table import Table
from reports.write import put, write_figure, write_table

MACHINES = "machines"
ALL = "By GPU and model"
SHOWN = ("ttft", "decode")
"""Tables that the command prints; the page has all."""


def arguments(argv: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m reports merge", description=__doc__)
    parser.add_argument(
        "runs", type=Path, nargs="+", metavar="FOLDER", help="a folder with runs directly in it, or the runs themselves"
    )
    parser.add_argument(
        "--to", type=Path, metavar="FOLDER", help="where the report goes (merged/ in the folder of the sweep)"
    )
    parser.add_argument(
        "--machines",
        action="store_true",
        help="runs of one model on GPUs of one name come from several machines: each is named by its folder too",
    )
    return parser.parse_args(argv)


def main(argv: Sequence[str]) -> int:
    """Run the command; 2 and one sentence on stderr when the input is not what it should be."""
    options = arguments(argv)
    console = terminal.console()
    try:
        target = target_of(options)
        sweep = gather(options.runs, target, options.machines)
        check(sweep)
        parts = parts_of(sweep)
        name = options.runs[0].resolve().name if len(options.runs) == 1 else target.resolve().name
        written = write_report(sweep, name, parts, target)
    except (ValueError, OSError) as error:
        return terminal.mistake(error)
    for one in sweep.left_out:
        print(f"reports: left out {one}", file=sys.stderr)
    for table in parts[ALL]:
        if table.name in SHOWN:
            terminal.show(table, console)
    console.print(f"Report: {written}", markup=False, highlight=False, soft_wrap=True)
    return 0


def target_of(options: argparse.Namespace) -> Path:
    """Where the report goes. Raises ValueError with one sentence where that can't be told, or is a file."""
    to: Path | None = options.to
    if to is None and len(options.runs) == 1:
        to = options.runs[0] / "merged"
    if to is None:
        raise ValueError("--to is missing: with several runs named, give the folder that their report goes into")
    if to.exists() and not to.is_dir():
        raise ValueError(f"--to {to} is a file: give a folder")
    if (to / MANIFEST).is_file():
        raise ValueError(f"--to {to} is the folder of a run, whose files stay as they are: give another")
    return to


def parts_of(sweep: Sweep) -> dict[str, list[Table]]:
    """All tables, by the headings of the page."""
    every = of_all(sweep)
    found = {ALL: [table for table in every if table.name != MACHINES]}
    found |= {f"Model {model}": of_model(sweep, model, name) for model, name in slugs(sweep).items()}
    return {**found, "Runs and machines": [table for table in every if table.name == MACHINES]}


def write_report(sweep: Sweep, name: str, parts: dict[str, list[Table]], folder: Path) -> Path:
    """Write tables, figures and the page, and return the path of the page."""
    folder.mkdir(parents=True, exist_ok=True)
    tables = [table for part in parts.values() for table in part]
    for table in tables:
        write_table(table, folder)
    put(folder / "tables.tex", markup.latex_document([t for t in tables if t.shown]))
    drawn = figures(sweep)
    images = {plot.name: write_figure(plot, folder) for plot in drawn}
    put(folder / "merged.html", page.render(sweep, name, parts, drawn, images))
    return folder / "merged.html"
