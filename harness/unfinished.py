"""`python -m harness summarise RUN`: the tables of a run that was killed and does not go on, of its blocks that ended.

Ctrl-C makes them by itself. The run stays unfinished: its tables say how many blocks there are, and it may go on yet.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from harness.attempt import is_done
from harness.disk import Stopped, told
from harness.folder import read_manifest
from harness.job import Job, read_job
from harness.machine import lock
from harness.output import record
from harness.output.spoken import FAILED
from harness.output.summary import as_written, summarise

USERS_MISTAKE = 2


def summarise_unfinished(folder: Path) -> str:
    """Make the tables of a run without an end from the blocks that are over; what is there then, in one sentence.

    Raises:
        ValueError: one sentence on why there is nothing to do: no run, one under way, a finished one, no block over.
        Stopped: what the file system refuses.
    """
    job = _plan(folder)
    with lock.hold_folder(folder), told(folder):
        over = [pair for pair in job.order if record.read_verdict(job, *pair) is not None]
        if not over:
            raise ValueError(f"no block of {folder} ended: go on with python -m harness resume={folder}")
        for pair in over:
            _check_whole(job, *pair)
        with as_written(folder):
            record.rebuild(job)
            summarise(folder)
    return f"the tables of {folder} are of {len(over)} of {len(job.order)} blocks"


def _check_whole(job: Job, case: str, block: int) -> None:
    """Refuse a block that ended well and no longer has its samples: the run's own table may still have them."""
    row = record.read_verdict(job, case, block)
    if row is not None and row["state"] in record.DONE and not is_done(job, case, block):
        raise ValueError(
            f"{job.block_dir(case, block)} lost samples since it ended: nothing was made or changed; put them back, "
            f"or have it measured again with python -m harness resume={job.run_dir}"
        )


def _plan(folder: Path) -> Job:
    if absent := [name for name in ("job.json", "manifest.json") if not (folder / name).is_file()]:
        raise ValueError(f"{folder} has no {' and no '.join(absent)}: name the folder of a run that began to measure")
    if read_manifest(folder / "manifest.json").get("finished") is not None:
        raise ValueError(f"{folder} is finished and has its tables: python -m reports {folder} shows them")
    return read_job(folder / "job.json", folder)


def main(argv: Sequence[str]) -> int:
    """0 when every run named has its tables, 1 for what the file system refuses, 2 for a user's mistake."""
    parser = argparse.ArgumentParser(prog="python -m harness summarise", description=__doc__)
    parser.add_argument("run", type=Path, nargs="+", help="folder of a run that was killed, such as results/<run>")
    worst = 0
    for folder in parser.parse_args(argv).run:
        try:
            made = summarise_unfinished(folder)
        except ValueError as error:
            print(f"error: {error}", file=sys.stderr)
            worst = USERS_MISTAKE
        except Stopped as error:
            print(f"failed: {error}", file=sys.stderr)
            worst = max(worst, error.exit_code)
        except OSError as error:
            print(f"failed: {error.filename or folder}: {error.strerror}", file=sys.stderr)
            worst = max(worst, FAILED)
        else:
            print(f"{made}; they are shown by: python -m reports {folder}")
    return worst
