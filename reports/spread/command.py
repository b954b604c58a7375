"""`python -m reports spread RUN RUN [RUN ...]`: one protocol on several machines, and how far they lie apart.

The exit code is 0, or 2 for what can't be set side by side.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Sequence
from pathlib import Path

from reports import terminal
from reports.compare.command import refuse
from reports.compare.manifests import Difference, differences
from reports.compare.tables import forced, name_of
from reports.run import Run, load
from reports.spread.figure import machines_figure
from reports.spread.hosts import hosts_figure
from reports.spread.pairs import between, pair_up, spreads
from reports.spread.tables import LETTERS, machines_table, pairs_table, spread_table
from reports.write import write_figure, write_table


def arguments(argv: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m reports spread", description=__doc__)
    parser.add_argument("runs", type=Path, nargs="*", metavar="RUN", help="folders of runs, results/<run>")
    parser.add_argument(
        "--cases", nargs="+", default=(), metavar="CASE", help="these alone, by their names in the .csv"
    )
    parser.add_argument("--force", action="store_true", help="take runs that differ in what matters, and say so")
    parser.add_argument("--to", type=Path, metavar="FOLDER", help="write tables and figure into this folder")
    return parser.parse_args(argv)


def main(argv: Sequence[str]) -> int:
    """Run the command; one sentence on stderr for a mistake."""
    options = arguments(argv)
    console = terminal.console()
    try:
        check_options(options)
        runs = [load(path) for path in options.runs]
        check_apart(runs)
        said = forced(checked(runs, force=options.force))
        paired = pair_up(runs, options.cases)
        each = between(paired)
        tables = [
            machines_table(runs, said), spread_table(runs, spreads(paired, each), said, paired.lost),
            pairs_table(runs, each, said),
        ]  # fmt: skip
        if options.to:
            options.to.mkdir(parents=True, exist_ok=True)
            for plot in (machines_figure(paired, runs, tables[1]), hosts_figure(each, runs)):
                write_figure(plot, options.to)
            for table in tables:
                write_table(table, options.to)
    except (ValueError, OSError) as error:
        return terminal.mistake(error)
    for table in tables:
        if table.shown:
            terminal.show(table, console)
        else:
            console.print(f"{table.title} {table.why_hidden}")
    return 0


def check_options(options: argparse.Namespace) -> None:
    """Raises ValueError with one sentence on options that can't be followed."""
    resolved = [path.resolve() for path in options.runs]
    if not resolved and options.cases:
        raise ValueError("--cases takes every word behind it, and no run is left: name the runs before it")
    if not 2 <= len(resolved) <= len(LETTERS):
        raise ValueError(f"runs to set side by side: {len(resolved)}; name two or more, at most {len(LETTERS)}")
    if twice := next((path for path in options.runs if resolved.count(path.resolve()) > 1), None):
        raise ValueError(f"{twice} is named twice: name each run once")
    if options.to and options.to.exists() and not options.to.is_dir():
        raise ValueError(f"--to {options.to} is a file: give a folder")
    if options.to and options.to.resolve() in resolved:
        raise ValueError(f"--to {options.to} is the folder of a run, whose files stay as they are: give another")


def check_apart(runs: Sequence[Run]) -> None:
    """Refuse two copies of one run, which have every latency alike. Raises ValueError."""
    for a, b in itertools.combinations(runs, 2):
        if a.samples["latency_ms"].equals(b.samples["latency_ms"]):
            raise ValueError(f"{b.path} is a copy of {a.path}: name each run once")


def checked(runs: Sequence[Run], *, force: bool) -> list[Difference]:
    """In what the runs differ, each thing once. Raises ValueError on one that matters, unless the user insists."""
    found: dict[str, Difference] = {}
    for a, b in itertools.combinations(runs, 2):
        between = differences(a, b)
        try:
            refuse(between, force=force)
        except ValueError as error:
            raise ValueError(f"{name_of(a)} (A) and {name_of(b)} (B): {error}") from None
        for one in between:
            found.setdefault(one.what, one)
    return list(found.values())
