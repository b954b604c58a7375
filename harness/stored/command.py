"""`python -m harness validate RUN [RUN ...]`: whether the files of a stored run say what they should.

One line a check: `ok`, `note` for what can't be checked here and why, `FAILED` for what does not hold.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.job import Job
from harness.output.manifest import NOT_JUDGED
from harness.stored.blocks import check_requests, check_status
from harness.stored.check import Check, Sheet, failed, note, ok, read_object
from harness.stored.digests import check_code, check_files, check_manifest, check_prompts
from harness.stored.ids import check_given, check_referee
from harness.stored.joined import check_answered, check_energy
from harness.stored.plan import same_plan, stored_job
from harness.stored.summaries import check_summaries
from harness.stored.tables import read_tables
from harness.stored.times import check_latencies, check_order, check_telemetry, samples_of

USERS_MISTAKE = 2


def validate(folder: Path) -> list[Check]:
    """Every check of one run. Raises ValueError with one sentence when the folder holds no run."""
    if not folder.is_dir():
        there = f"{folder} is no folder" if folder.exists() else f"there is no folder {folder}"
        raise ValueError(f"{there}: name the folder of a run, such as results/<run>")
    if not (folder / "manifest.json").is_file():
        raise ValueError(f"{folder} has no manifest.json: it is no run's folder")
    try:
        manifest = read_object(folder / "manifest.json")
        job = stored_job(folder, manifest)
    except ValueError as error:
        return [failed("manifest.json", str(error)), *read_tables(folder)[1]]
    sheets, lines = read_tables(folder, whole=manifest.get("finished") is not None)
    return [stage(manifest), same_plan(folder, job), *lines, *check_sheets(folder, job, manifest, sheets)]


def stage(manifest: Mapping[str, Any]) -> Check:
    """Whether the run calls itself finished."""
    if manifest.get("finished") is None:
        return note("manifest.json", f"the run is unfinished: begun {manifest.get('started')}, no end is stamped")
    return ok("manifest.json", f"a run from {manifest.get('started')} to {manifest['finished']}")


def check_sheets(folder: Path, job: Job, manifest: Mapping[str, Any], sheets: Mapping[str, Sheet]) -> Iterator[Check]:
    """What the tables say together. A check whose table can't be read is left to the line on that table."""
    status, samples = sheets.get("status.csv"), sheets.get("samples.csv")
    if status is not None:
        yield check_status(job, status, manifest.get("finished") is not None)
    if status is not None and samples is not None:
        yield from check_requests(job, status, samples, sheets.get("p99_stops.csv"))
    if samples is not None:
        yield from check_samples(folder, job, manifest, sheets, samples)
    yield check_prompts(job, manifest)
    yield check_code(manifest)
    yield check_manifest(manifest)
    yield check_files(folder, manifest)


def check_samples(
    folder: Path, job: Job, manifest: Mapping[str, Any], sheets: Mapping[str, Sheet], samples: Sheet
) -> Iterator[Check]:
    """What the samples say, and other tables of them."""
    if strays := sorted(set(samples.column("case")) - set(job.cases)):
        yield failed("samples", f"samples.csv has the case {strays[0][:40]}, which the run does not have")
        return
    status, telemetry, timed = sheets.get("status.csv"), sheets.get("telemetry.csv"), samples_of(samples)
    yield check_latencies(job, timed)
    yield check_order(timed, manifest)
    yield from check_given(job, samples)
    if (referee := sheets.get("referee.csv")) is not None:
        yield from check_referee(job, samples, referee, status)
    if telemetry is not None:
        yield from (read := list(check_telemetry(timed, telemetry, manifest)))
        if (energy := sheets.get("energy.csv")) is not None:
            back = any(line.state == "FAILED" for line in read)
            yield unheld(manifest) if back or manifest.get("resumed") else check_energy(energy, telemetry)
    if status is not None:
        yield from check_answered(status, samples, sheets.get("identity.csv"))
    yield from missing(folder, manifest)
    yield from check_summaries(folder, job, sheets)


def unheld(manifest: Mapping[str, Any]) -> Check:
    """Why joules are not made again from the telemetry."""
    if manifest.get("resumed"):
        return note(
            "energy", "the run was resumed, maybe on another card or after a restart: joules are not made again"
        )
    return note("energy", "the readings in telemetry.csv do not hold: joules are not made again from them")


def missing(folder: Path, manifest: Mapping[str, Any]) -> Iterator[Check]:
    """Files that only some runs have, and without which nothing is held against the samples."""
    for name, key, what in (("energy", "no_energy", "joules"), ("referee", NOT_JUDGED, "ids that a referee judged")):
        if not (folder / f"{name}.csv").exists():
            why = manifest.get(key)
            said = f": {why[:200]}" if isinstance(why, str) and why else ""
            yield note(name, f"there is no {name}.csv, so no {what} are checked{said}")


def arguments(argv: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m harness validate", description=__doc__)
    parser.add_argument("run", type=Path, nargs="+", help="folder of a run, such as results/<run>")
    return parser.parse_args(argv)


def main(argv: Sequence[str]) -> int:
    """0 when every check of every run holds, 1 when one does not, 2 for what is no run."""
    worst = 0
    for folder in arguments(argv).run:
        try:
            lines = validate(folder)
        except (ValueError, OSError) as error:
            print(f"error: {error}", file=sys.stderr)
            worst = USERS_MISTAKE
            continue
        print(f"{folder}:")
        for line in lines:
            print(f"  {line.state:<6} {line.name:<22} {plain(line.text)}")
        bad = sum(line.state == "FAILED" for line in lines)
        print(f"  {bad} of {len(lines)} checks failed" if bad else f"  {len(lines)} checks, none failed")
        worst = max(worst, int(bad > 0))
    return worst


def plain(text: str) -> str:
    """A sentence on one line, without what a terminal would obey: it may quote a file."""
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in text)
