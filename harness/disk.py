"""Files that are whole or absent, and one sentence for what the file system refuses while a run writes.

The rule: every file that a reader may take for a whole one is written aside and renamed. What can't be made again
(the settings, the plan, the manifest, verdicts) is also put on the disk, with fsync: the file before it gets its name,
its folder after that. That is not for a killed process, whose writes the kernel keeps, but for a machine that loses
power: without it a name may come back with nothing behind it. A block's verdict vouches for the block's other files,
so these are put on the disk before it. The run's tables are made from the blocks' again by every attempt, so they are
not. samples.csv of a running block and telemetry.csv grow in place: they may end within a line, which every reader
leaves out.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

PART = ".part"
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
CLOSED = (errno.EROFS, errno.EACCES, errno.EPERM)
GONE = (errno.ENOENT, errno.ENOTDIR, errno.ESTALE)
BROKEN = (errno.EIO,)


class Stopped(Exception):
    """No block can run; `exit_code` is 2 for a user's mistake that only the checkpoint could show, else 1."""

    def __init__(self, sentence: str, exit_code: int = 1) -> None:
        super().__init__(sentence)
        self.exit_code = exit_code


def write_aside(path: Path, text: str, lasting: bool = False) -> None:
    """Write a whole file or none of it; `lasting` puts it on the disk as well.

    Raises:
        OSError: with the file's path; nothing is left aside then.
    """
    part = path.with_name(path.name + PART)
    try:
        part.unlink(missing_ok=True)  # what a killed run left; or a link, and what that names is not ours
        with part.open("x", encoding="utf-8", newline="") as file:
            file.write(text)
            if lasting:
                file.flush()
                os.fsync(file.fileno())
        part.replace(path)
        if lasting:
            sync(path.parent)
    except OSError as error:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        raise OSError(error.errno, error.strerror, str(path)) from error


def write_json(path: Path, value: Any) -> None:
    """Write `value` as JSON, whole or not at all, and put it on the disk."""
    write_aside(path, json.dumps(value, indent=1) + "\n", lasting=True)


def sync(path: Path) -> None:
    """Put a file, or the names in a folder, on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_files(folder: Path) -> None:
    """Put the files of a folder on the disk, and their names."""
    for path in folder.iterdir():
        if path.is_file():
            sync(path)
    sync(folder)


def whole_lines(text: str) -> str:
    """Text up to its last end of a line: what stands behind that was cut off while it was written."""
    return text[: text.rfind("\n") + 1]


@contextmanager
def told(folder: Path) -> Iterator[None]:
    """What the file system refuses in here ends the run with one sentence (Stopped)."""
    try:
        yield
    except OSError as error:
        sentence = explain(error, folder)
        if not sentence:
            raise
        raise Stopped(sentence) from error


def explain(error: OSError, folder: Path) -> str:
    """What is wrong, where, and how to mend it; empty for an error that is none of the file system's."""
    if error.errno not in (*FULL, *CLOSED, *GONE, *BROKEN):
        return ""
    if not (folder / "settings.json").is_file() and not _closed(folder):
        return f"the run's folder {folder} was removed while the run went on: start the run again"
    path = error.filename or folder
    again = f"go on with: python -m harness resume={folder}"
    if error.errno in GONE:
        return f"{path} was removed while the run went on: {again}"
    if error.errno in FULL:
        return f"{path} can't be written ({error.strerror}): free some space, then {again}"
    return f"{path} can't be written ({error.strerror}): mend that, then {again}"


def _closed(folder: Path) -> bool:
    """Whether it can't be told what the folder holds."""
    try:
        folder.stat()
    except OSError as error:
        return error.errno not in GONE
    return False
