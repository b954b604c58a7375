"""Tables and figures into files."""

from __future__ import annotations

import fcntl
import io
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

import matplotlib as mpl

from reports import markup, style
from reports.plots import Plot
from reports.table import Table

DPI = 192  # twice the 96 dots of an inch on a page
ASIDE = ".new"
UNDATED: dict[str, dict[str, str | None]] = {".pdf": {"CreationDate": None}, ".png": {}}
"""Metadata that make a figure the same file whenever it is drawn."""


def report_folder(run: Path) -> Path:
    """report/ in a run's folder, made if need be. Raises ValueError where a link would lead outside."""
    folder = run / "report"
    if folder.is_symlink():
        raise ValueError(f"{folder} is a link: take it away, a report is written into the run's own folder")
    folder.mkdir(exist_ok=True)
    return folder


@contextmanager
def aside(path: Path) -> Iterator[BinaryIO]:
    """A file of this process's own beside `path`, which takes its place at the end: whole or absent, whoever else
    writes it meanwhile, and never through a link that lay under its name.

    It is locked while it is written. What a process left that was killed is locked no more, and is taken away.
    Raises OSError with the file's path; nothing is left aside then, whose room a full disk lacks.
    """
    try:
        sweep(path)
        file = own(path)
        done = False
        try:
            with file:
                yield file
                file.flush()
                Path(file.name).replace(path)
                done = True
        finally:
            if not done:
                with suppress(OSError):
                    Path(file.name).unlink(missing_ok=True)
    except OSError as error:
        if error.errno is None:  # it says more than a number
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


def own(path: Path) -> BinaryIO:
    """A new locked file beside `path`. Where the file system has no locks it has none, and nobody sweeps it away."""
    while True:
        file = path.with_name(f".{path.name}.{secrets.token_hex(4)}{ASIDE}").open("xb")
        with suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        if os.fstat(file.fileno()).st_nlink:  # else it was swept away before it was locked
            return file
        file.close()


def sweep(path: Path) -> None:
    """Take away what a killed process left beside `path`, and links that lie under such names."""
    for left in list(path.parent.iterdir()):
        if not (left.name.startswith(f".{path.name}.") and left.name.endswith(ASIDE)):
            continue
        with suppress(OSError):
            if left.is_symlink():
                left.unlink()
                continue
            found = os.open(left, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                fcntl.flock(found, fcntl.LOCK_EX | fcntl.LOCK_NB)
                left.unlink()
            finally:
                os.close(found)


def put(path: Path, data: bytes | str) -> None:
    """Write a file, as `aside` does."""
    with aside(path) as file:
        file.write(data.encode("utf-8") if isinstance(data, str) else data)


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
    if plot.figure is None:
        for file in files.values():
            file.unlink(missing_ok=True)
        return b""
    drawn = {suffix: io.BytesIO() for suffix in files}
    with mpl.rc_context(style.RC):
        for suffix, file in files.items():
            plot.figure.savefig(drawn[suffix], format=suffix, dpi=DPI, metadata=UNDATED[file.suffix])
            put(file, drawn[suffix].getvalue())
    return drawn["png"].getvalue()
