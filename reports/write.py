"""Tables and figures into files."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl

from reports import markup, style
from reports.plots import Plot
from reports.table import Table

DPI = 192  # twice the 96 dots of an inch on a page
UNDATED: dict[str, dict[str, str | None]] = {".pdf": {"CreationDate": None}, ".png": {}}
"""Metadata that make a figure the same file whenever it is drawn."""


def write_table(table: Table, folder: Path) -> None:
    """Write a table as .csv, and as .md and .tex where it can be read; otherwise take an older run's away."""
    (folder / f"{table.name}.csv").write_text(table.csv(), encoding="utf-8")
    for suffix, text in (("md", markup.markdown), ("tex", markup.latex)):
        file = folder / f"{table.name}.{suffix}"
        if table.shown:
            file.write_text(text(table), encoding="utf-8")
        else:
            file.unlink(missing_ok=True)


def write_figure(plot: Plot, folder: Path) -> bytes:
    """Write a figure as .png and .pdf and return the PNG; without a figure, take an older run's away."""
    files = {suffix: folder / f"{plot.name}.{suffix}" for suffix in ("png", "pdf")}
    for file in files.values():
        file.unlink(missing_ok=True)
    if plot.figure is None:
        return b""
    with mpl.rc_context(style.RC):
        for file in files.values():
            plot.figure.savefig(file, dpi=DPI, metadata=UNDATED[file.suffix])
    return files["png"].read_bytes()
