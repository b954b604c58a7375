"""Tables and figures into files."""

from __future__ import annotations

import io
from contextlib import suppress
from pathlib import Path

import matplotlib as mpl

from reports import markup, style
from reports.plots import Plot
from reports.table import Table

DPI = 192  # twice the 96 dots of an inch on a page
UNDATED: dict[str, dict[str, str | None]] = {".pdf": {"CreationDate": None}, ".png": {}}
"""Metadata that make a figure the same file whenever it is drawn."""


def report_folder(run: Path) -> Path:
    """report/ in a run's folder, made if need be. Raises ValueError where a link would lead outside."""
    folder = run / "report"
    if folder.is_symlink():
        raise ValueError(f"{folder} is a link: take it away, a report is written into the run's own folder")
    folder.mkdir(exist_ok=True)
    return folder


def put(path: Path, data: bytes | str) -> None:
    """Write a file aside and rename it: whole or absent, and never through a link that lay under its name.

    Raises:
        OSError: with the file's path; nothing is left aside then, whose room a full disk lacks.
    """
    aside = path.with_name(f".{path.name}.new")
    try:
        aside.unlink(missing_ok=True)
        with aside.open("xb") as file:
            file.write(data.encode("utf-8") if isinstance(data, str) else data)
        aside.replace(path)
    except OSError as error:
        with suppress(OSError):
            aside.unlink(missing_ok=True)
        raise OSError(error.errno, error.strerror, str(path)) from error


def write_table(table: Table, folder: Path) -> None:
    """Write a table as .csv, and as .md and .tex where it can be read; otherwise take an older run's away."""
    put(folder / f"{table.name}.csv", table.csv())
    for suffix, text in (("md", markup.markdown), ("tex", markup.latex)):
        file = folder / f"{table.name}.{suffix}"
        if table.shown:
            put(file, text(table))
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
        for suffix, file in files.items():
            drawn = io.BytesIO()
            plot.figure.savefig(drawn, format=suffix, dpi=DPI, metadata=UNDATED[file.suffix])
            put(file, drawn.getvalue())
    return files["png"].read_bytes()
