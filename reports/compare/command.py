"""`python -m reports compare A B`: whether run B is faster or slower than run A, cell by cell.

The exit code is 0 when no cell is slower (with --strict: none is unclear either) and B has no case that fails where
A's does not; else 1, and 2 for what can't be compared.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from reports import terminal
from reports.compare.cells import cells_of
from reports.compare.forest import forest
from reports.compare.manifests import Difference, differences
from reports.compare.moves import moves_table
from reports.compare.tables import both_facts, cells_latex, cells_table, counted, forced, runs_table
from reports.compare.verdict import MARGIN
from reports.plots import Plot
from reports.run import Run, load
from reports.table import Table
from reports.write import put, write_figure, write_table

WORSE = 1
SHOWN = 6
"""Differences that a refusal names before it counts the rest."""


def arguments(argv: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m reports compare", description=__doc__)
    parser.add_argument("a", type=Path, metavar="A", help="folder of the run that is compared with, results/<run>")
    parser.add_argument("b", type=Path, metavar="B", help="folder of the run that is compared")
    parser.add_argument("--force", action="store_true", help="compare runs that differ in what matters, and say so")
    parser.add_argument("--strict", action="store_true", help="end with 1 for an unclear cell too, as for a slower one")
    parser.add_argument("--to", type=Path, metavar="FOLDER", help="write tables and figure into this folder")
    parser.add_argument(
        "--margin", type=float, default=100 * MARGIN, metavar="PERCENT", help="what counts as no change (%(default)g)"
    )
    return parser.parse_args(argv)


def main(argv: Sequence[str]) -> int:
    """Run the command; one sentence on stderr for a mistake."""
    options = arguments(argv)
    console = terminal.console()
    margin = options.margin / 100
    try:
        check_options(options)
        a, b = load(options.a), load(options.b)
        found = differences(a, b)
        refuse(found, force=options.force)
        cells = cells_of(a, b, margin)
        moves = moves_table(cells, forced(found), a.smoke or b.smoke)
        tables = [runs_table(a, b, found), moves, cells_table(a, b, cells, found, margin)]
        if options.to:
            plot = forest(cells, tables[-1].title, both_facts(a, b), a.smoke or b.smoke, margin)
            write(options.to, tables, cells_latex(a, b, cells, found, margin), plot)
    except (ValueError, OSError) as error:
        return terminal.mistake(error)
    for table in tables:
        terminal.show(table, console)
    failing = fails_in(a, b)
    last = " ".join(
        [f"B against A: {counted(cells)}", *failing, *([f"Written to {options.to}."] if options.to else [])]
    )
    console.print(last, markup=False, highlight=False, soft_wrap=True)
    bad = {"slower", "unclear"} if options.strict else {"slower"}
    return WORSE if failing or any(cell.verdict in bad for cell in cells) else 0


def fails_in(a: Run, b: Run) -> list[str]:
    """A sentence on each case of both runs that lost more blocks in B, or all, or fails the equivalence there alone."""
    found = []
    for case in sorted(a.cases.keys() & b.cases.keys()):
        if b.lost(case) > a.lost(case) or (a.ended_well(case) and not b.ended_well(case)):
            found.append(f"Fails in B: {b.missing(case)}")
        elif (why := b.failed_equivalence(case)) and not a.failed_equivalence(case):
            found.append(f"Fails in B: {b.cases[case]}, against the baseline: {why}.")
    return found


def check_options(options: argparse.Namespace) -> None:
    """Raises ValueError with one sentence on options that can't be followed."""
    if not 0 < options.margin < 100:
        raise ValueError(f"--margin {options.margin:g} is no share between 0 and 100 percent: 3 is usual")
    to: Path | None = options.to
    if to is None:
        return
    if to.exists() and not to.is_dir():
        raise ValueError(f"--to {to} is a file: give a folder")
    if any(to.resolve() == run.resolve() for run in (options.a, options.b)):
        raise ValueError(f"--to {to} is the folder of a run, whose files stay as they are: give another")


def refuse(found: Sequence[Difference], *, force: bool) -> None:
    """Raises ValueError unless the runs are alike in what matters, or the user insists."""
    matter = [str(one) for one in found if one.matters]
    if not matter or force:
        return
    more = f"; and {len(matter) - SHOWN} more" if len(matter) > SHOWN else ""
    raise ValueError(
        f"the runs differ in what matters ({'; '.join(matter[:SHOWN])}{more}): compare runs of one kind, or add --force"
    )


def write(folder: Path, tables: Sequence[Table], parts: str, plot: Plot) -> None:
    """The tables and the figure, under names of their own; as LaTeX the cells come in `parts`."""
    folder.mkdir(parents=True, exist_ok=True)
    for table in tables:
        write_table(table, folder)
    put(folder / "compare.tex", parts)
    write_figure(plot, folder)
    if plot.figure is None:
        print(f"No figure: {plot.reason}.", file=sys.stderr)
