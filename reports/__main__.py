"""`python -m reports results/<run>`: tables, plots and a page from the files of a run; `compare A B` sets two side by
side, `spread RUN...` says how far several machines lie apart, `merge FOLDER` puts many runs into one report, and
`export RUN... --to FILE` into one file."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from pathlib import Path

from harness.output.spoken import spoken
from reports import (
    blocks,
    clocks,
    equivalence,
    export,
    headroom,
    latency,
    machine,
    markup,
    overview,
    page,
    plots,
    proofs,
    readme,
    terminal,
    verdicts,
)
from reports.compare import command as compare
from reports.experiments import ablation, section
from reports.experiments.section import Section
from reports.merge import command as merge
from reports.run import Run, load
from reports.spread import command as spread
from reports.table import Table
from reports.write import put, report_folder, write_figure, write_table

COMMANDS: dict[str, Callable[[Sequence[str]], int]] = {
    "compare": compare.main,
    "spread": spread.main,
    "merge": merge.main,
    "export": export.main,
}


def tables_of(run: Run) -> list[Table]:
    """The general tables of a run, in the order of the report: those that what it measured can fill."""
    makers = [latency.ttft_table, latency.ratio_table, latency.p99_table]
    makers += [latency.decode_table] if run.decodes else []
    makers += [overview.summary_table, overview.speedup_table, verdicts.significance_table, headroom.headroom_table]
    makers += [ablation.effects_table] if run.study != "ablation" and set(ablation.CELLS) <= set(run.cases) else []
    makers += [blocks.blocks_table, clocks.clocks_table, equivalence.equivalence_table]
    always = [*([proofs.identity_table] if proofs.known(run) else []), overview.status_table]
    found = [make(run) for make in [*(makers if run.compares else []), *state_tables(run), *always]]
    return [proofs.footnoted(run, table) if table.name == "summary" else table for table in found]


def state_tables(run: Run) -> list[Callable[[Run], Table]]:
    """Tables on what newer runs alone have: where ids diverge, the card beside the samples, energy."""
    makers: list[Callable[[Run], Table]] = []
    makers += [proofs.divergence_table] if run.compares and proofs.compared(run) else []
    makers += [machine.machine_table] if machine.known(run) else []
    return makers + ([machine.energy_table] if machine.measured(run) else [])


def write_report(run: Run, tables: list[Table], study: Section | None = None) -> Path:
    """Write report/ in the run's folder, the experiment's section first, and return the path of the page."""
    folder = report_folder(run.path)
    both = [*(study.tables if study else []), *tables]
    for table in both:
        write_table(table, folder)
    put(folder / "tables.tex", markup.latex_document([t for t in both if t.shown]))
    drawn = plots.plots(run)
    images = {plot.name: write_figure(plot, folder) for plot in [*(study.plots if study else []), *drawn]}
    put(folder / "report.html", page.render(run, tables, drawn, images, study))
    return folder / "report.html"


def arguments(argv: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m reports", description=__doc__)
    parser.add_argument("run", type=Path, help="folder of a run, such as results/<run>")
    parser.add_argument("--terminal", action="store_true", help="print all tables and write nothing")
    parser.add_argument("--readme", type=Path, metavar="FILE", help="put the tables between the markers of this file")
    parser.add_argument("--part", default=readme.WHOLE, help="name of the markers; any but results is brief")
    options = parser.parse_args(argv)
    if options.part != readme.WHOLE and not options.readme:
        parser.error("--part names the markers in the file of --readme, and --readme is not given")
    return options


def main(argv: Sequence[str]) -> int:
    """Run the command; 2 and one sentence on stderr when the input is not what it should be."""
    if argv and argv[0] in COMMANDS:
        return COMMANDS[argv[0]](argv[1:])
    words = [one for one in argv[:1] if not Path(one).exists()]
    if meant := next((close for word in words for close in get_close_matches(word, COMMANDS)), ""):
        return terminal.mistake(ValueError(f"{argv[0]} is no command and no run; did you mean '{meant}'?"))
    options = arguments(argv)
    console = terminal.console()
    try:
        run = load(options.run)
        tables, study = tables_of(run), section(run)
        if options.readme:
            readme.update(options.readme, run, tables, study, options.part)
        written = None if options.terminal or options.readme else write_report(run, tables, study)
    except (ValueError, OSError) as error:
        return terminal.mistake(error)
    shown = [table for table in [*(study.tables if study else []), *tables] if table.shown]
    for table in shown if options.terminal else shown[:1]:
        terminal.show(table, console)
    if written:
        console.print(f"Report: {written}", markup=False, highlight=False, soft_wrap=True)
    return 0


if __name__ == "__main__":
    sys.exit(spoken(lambda: main(sys.argv[1:])))
