"""Tables on a terminal."""

from __future__ import annotations

import io
import sys

from rich import box
from rich.console import Console
from rich.table import Table as Grid
from rich.text import Text

from reports.run import SMOKE
from reports.table import Cell, Table

PIPE_WIDTH = 200
MISTAKE = 2


def console() -> Console:
    """A console as wide as the terminal; a file or pipe has no width, so nothing is wrapped to fit one.

    What the encoding of standard output lacks is shown as `?`.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
    found = Console()
    return found if found.is_terminal else Console(width=PIPE_WIDTH, soft_wrap=True)


def mistake(error: Exception, program: str = "reports") -> int:
    """Tell the user on stderr what is wrong, one that the file system refuses by its path; the exit code is 2."""
    path = error.filename if isinstance(error, OSError) else None
    said = f"{path}: {error.strerror}" if isinstance(error, OSError) and path is not None else str(error)
    print(f"{program}: {said}", file=sys.stderr)
    return MISTAKE


def show(table: Table, console: Console) -> None:
    """Print a table with its facts and footnotes; what it says is never read as markup."""
    title = Text(table.title, style="bold")
    if table.smoke:
        title = Text.assemble((f"{SMOKE}: ", "bold red"), title)
    grid = Grid(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for column in table.columns:
        grid.add_column(text_of(column.head, "\n"), justify=column.align, overflow="fold")
    for place, row in enumerate(table.rows):
        grid.add_row(*map(text_of, row), end_section=place + 1 in table.rules)
    console.print(title)
    console.print(grid)
    for line in (table.facts, *(f"[{mark}] {text}" for mark, text in table.notes.lines())):
        console.print(Text(line, style="dim"))
    console.print()


def text_of(cell: Cell, before_marks: str = " ") -> Text:
    """A cell, bold where it won, its marks in brackets."""
    marks = f"{before_marks}[{','.join(cell.marks)}]" if cell.marks else ""
    return Text.assemble((cell.text, "bold green" if cell.bold else ""), (marks, "dim"))
