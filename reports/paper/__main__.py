"""`python -m reports.paper`: the published tables, figures and their audit, from results/paper, into its report/."""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl

from reports import markup, style, terminal
from reports.paper import audit, figures, published, tables
from reports.table import Table
from reports.write import DPI, write_table

COMPILE_S = 120


def document(made: Sequence[Table], pictures: Sequence[str]) -> str:
    """One LaTeX document of all tables and figures, beside their files."""
    inputs = [rf"\input{{{table.name}.tex}}" for table in made]
    shown = [
        rf"\begin{{figure}}[htbp]\centering\includegraphics[width=\linewidth]{{{name}.pdf}}\end{{figure}}"
        for name in pictures
    ]
    body = "\n".join([*shown, r"\clearpage", *inputs])
    title = r"\title{The published figures, and what of them adds up}\date{}\author{}"
    begin = r"\begin{document}\maketitle\extrafloats{100}"
    return f"{markup.PREAMBLE}{title}\n{begin}\n{body}\n\\end{{document}}\n"


def compile_pdf(folder: Path) -> str:
    """Make paper.pdf from paper.tex; what there is to say of it. Without a compiler the .tex has to do.

    Raises:
        ValueError: the compiler failed; the last lines of its log.
    """
    compiler = shutil.which("pdflatex")
    if compiler is None:
        return f"{folder / 'paper.tex'} (no pdflatex here: compile it where there is one)"
    call = [compiler, "-interaction=nonstopmode", "-halt-on-error", "paper.tex"]
    done = subprocess.run(
        call, cwd=folder, capture_output=True, text=True, errors="replace", timeout=COMPILE_S, check=False
    )
    for left in ("aux", "log", "out"):
        (folder / f"paper.{left}").unlink(missing_ok=True)
    if done.returncode != 0:
        raise ValueError(f"pdflatex failed on {folder / 'paper.tex'}: {' '.join(done.stdout.split()[-40:])}")
    return str(folder / "paper.pdf")


def write(paper: published.Published, folder: Path) -> tuple[list[Table], str]:
    """Write everything; the tables, the audit first, and where the document lies."""
    folder.mkdir(parents=True, exist_ok=True)
    made = [*audit.audit_tables(paper), *tables.tables(paper)]
    for table in made:
        write_table(table, folder)
    drawn = figures.figures(paper)
    with mpl.rc_context(style.RC):
        for name, figure in drawn.items():
            for suffix in ("png", "pdf"):
                figure.savefig(folder / f"{name}.{suffix}", dpi=DPI)
    (folder / "paper.tex").write_text(document(made, list(drawn)), encoding="utf-8")
    return made, compile_pdf(folder)


def main(argv: Sequence[str]) -> int:
    """0, or 2 with one sentence on stderr."""
    parser = argparse.ArgumentParser(prog="python -m reports.paper", description=__doc__)
    parser.add_argument("--data", type=Path, default=published.PAPER, help="folder of the published figures")
    parser.add_argument("--to", type=Path, help="folder to write to (default: report/ beside the figures)")
    options = parser.parse_args(argv)
    try:
        with mpl.rc_context(style.RC):
            made, where = write(published.read(options.data), options.to or options.data / "report")
    except (ValueError, OSError) as error:
        print(f"reports.paper: {error}", file=sys.stderr)
        return 2
    console = terminal.console()
    terminal.show(made[0], console)
    console.print(f"Paper: {where}", markup=False, highlight=False, soft_wrap=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
