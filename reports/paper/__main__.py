"""`python -m reports.paper`: the published tables and figures, their audit, what was measured, and the claims."""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl

from harness.output.spoken import spoken
from reports import markup, style, terminal
from reports.paper import audit, claims, figures, pattern, published, runs, tables
from reports.table import Table
from reports.write import DPI, UNDATED, write_table

COMPILE_S = 120
LANDSCAPE = r"""\IfFileExists{pdflscape.sty}{\usepackage{pdflscape}}{\usepackage{lscape}}
"""
SIDEWAYS = ("claims", "measured_against_tensorrt", "paper_summary")
"""Tables that need a page turned by a quarter."""


def document(made: Sequence[Table], pictures: Sequence[str]) -> str:
    """One LaTeX document of all tables and figures, beside their files."""
    inputs = [placed(table.name) for table in made]
    shown = [rf"\noindent\includegraphics[width=\linewidth]{{{name}.pdf}}\par\medskip" for name in pictures]
    body = "\n".join([*shown, r"\clearpage", *inputs])
    title = r"\begin{center}\Large The published figures, measured again, and what of them holds\end{center}"
    begin = rf"\begin{{document}}\extrafloats{{200}}{title}"
    return f"{markup.PREAMBLE}\\pdftrailerid{{}}\n{LANDSCAPE}{begin}\n{body}\n\\end{{document}}\n"


def placed(name: str) -> str:
    """The line that sets a table, on a page of its own and turned where it is wide.

    One a page: of two floats on a turned page LaTeX sets the second on an upright one.
    """
    line = rf"\input{{{name}.tex}}"
    return f"\\begin{{landscape}}\n{line}\n\\end{{landscape}}" if name in SIDEWAYS else line


def compile_pdf(folder: Path) -> str:
    """Make paper.pdf from paper.tex; what there is to say of it. Without a compiler the .tex has to do.

    Raises:
        ValueError: the compiler failed; the last lines of its log.
    """
    compiler = shutil.which("pdflatex")
    if compiler is None:
        return f"{folder / 'paper.tex'} (no pdflatex here: compile it where there is one)"
    call = [compiler, "-interaction=nonstopmode", "-halt-on-error", "paper.tex"]
    done = subprocess.run(  # noqa: S603  pdflatex on a file that was just written
        call, cwd=folder, capture_output=True, text=True, errors="replace", timeout=COMPILE_S, check=False,
        env={**os.environ, "SOURCE_DATE_EPOCH": "0", "FORCE_SOURCE_DATE": "1"},
    )  # fmt: skip
    for left in ("aux", "log", "out"):
        (folder / f"paper.{left}").unlink(missing_ok=True)
    if done.returncode != 0:
        raise ValueError(f"pdflatex failed on {folder / 'paper.tex'}: {' '.join(done.stdout.split()[-40:])}")
    return str(folder / "paper.pdf")


def write(paper: published.Published, measured: runs.Runs, folder: Path) -> tuple[list[Table], str]:
    """Write everything; the tables, claims and audit first, and where the document lies."""
    folder.mkdir(parents=True, exist_ok=True)
    first = [claims.claims_table(paper, measured), pattern.pattern_table(measured)]
    made = [*first, *audit.audit_tables(paper), *tables.tables(paper, measured)]
    for table in made:
        write_table(table, folder)
    drawn = figures.figures(paper, measured)
    with mpl.rc_context(style.RC):
        for name, figure in drawn.items():
            for suffix in ("png", "pdf"):
                figure.savefig(folder / f"{name}.{suffix}", dpi=DPI, metadata=UNDATED[f".{suffix}"])
    (folder / "paper.tex").write_text(document(made, list(drawn)), encoding="utf-8")
    return made, compile_pdf(folder)


def main(argv: Sequence[str]) -> int:
    """0, or 2 with one sentence on stderr."""
    parser = argparse.ArgumentParser(prog="python -m reports.paper", description=__doc__)
    parser.add_argument("--data", type=Path, default=published.PAPER, help="folder of the published figures")
    parser.add_argument("--to", type=Path, help="folder to write to (default: report/ beside the figures)")
    parser.add_argument("--runs", type=Path, default=runs.COMMITTED, help="folder of the committed runs")
    for name in (runs.PAPER, runs.CONTROLLED):
        option = "--measured" if name == runs.PAPER else "--controlled"
        words = f"folder of the run to show as '{runs.NAMES[name]}' (default: the newest committed one)"
        parser.add_argument(option, type=Path, metavar="DIR", help=words)
    options = parser.parse_args(argv)
    try:
        with mpl.rc_context(style.RC):
            found = runs.find(options.runs, options.measured, options.controlled)
            made, where = write(published.read(options.data), found, options.to or options.data / "report")
    except (ValueError, OSError) as error:
        return terminal.mistake(error, "reports.paper")
    console = terminal.console()
    for table in made[:2]:
        terminal.show(table, console)
    console.print(f"Paper: {where}", markup=False, highlight=False, soft_wrap=True)
    return 0


if __name__ == "__main__":
    sys.exit(spoken(lambda: main(sys.argv[1:])))
