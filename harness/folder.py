"""The folder of a run: which it is, whether this run may write there, and whether it is still what it was."""

from __future__ import annotations

import errno
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from harness.attempt import is_done
from harness.disk import PART, Stopped, write_json
from harness.job import Job, read_job
from harness.machine.gpu import Gpu
from harness.machine.lock import IN_RUN
from harness.output import manifest, record
from harness.settings.compose import ROOT
from harness.settings.config import RunConfig

RESULTS = ROOT / "results"
SETTINGS = "settings.json"
NOTHING_YET = {IN_RUN, SETTINGS + PART}
"""What a run that was killed before its first file leaves."""


def choose_folder(config: RunConfig) -> Path:
    """The folder of the run: `output`, or one of its own under results/."""
    if config.output is not None:
        return Path(config.output).expanduser().resolve()
    said = f"{config.model.name}-{config.protocol.name}"
    slug = "".join(letter if letter.isalnum() or letter in "-._" else "-" for letter in said)
    name = f"{datetime.now():%Y%m%d-%H%M%S}-{slug}"
    candidates = (RESULTS / (name if number == 1 else f"{name}-{number}") for number in range(1, 1000))
    return next(path for path in candidates if not path.exists())


def check_folder(folder: Path, settings: Mapping[str, Any]) -> None:
    """Refuse a folder that holds anything but this very run. Raises ValueError."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"output={folder} is a file: give a folder")
    if not folder.is_dir() or {path.name for path in folder.iterdir()} <= NOTHING_YET:
        return
    stored = folder / SETTINGS
    if not stored.is_file():
        raise ValueError(f"output={folder} exists and holds no run: choose another folder")
    difference = manifest.first_difference(record.read_json(stored), settings)
    if difference:
        raise ValueError(f"output={folder} holds a run with other settings ({difference}): choose another folder")


def check_machine_of(folder: Path, gpu: Gpu | None, environment: Mapping[str, str]) -> None:
    """Refuse to go on with a run that another GPU, driver or code began, or other variables of the environment that its
    workers see. Raises ValueError with the difference."""
    path = folder / "manifest.json"
    difference = manifest.unlike_machine(read_manifest(path), gpu, environment) if path.is_file() else ""
    if difference:
        raise ValueError(f"output={folder} holds a run of another machine ({difference}): choose another folder")


def read_manifest(path: Path) -> dict[str, Any]:
    """A run's manifest.json, with what going on needs of it. Raises ValueError with one sentence."""
    stored = record.read_json(path)
    model = stored.get("model")
    if not (
        isinstance(model, dict) and "digest" in model and isinstance(stored.get("versions"), dict)
        and isinstance(stored.get("gpu"), dict | None)
    ):  # fmt: skip
        raise ValueError(f"{path} lacks what the harness wrote (model.digest, versions, gpu): this run can't go on")
    return stored


def write_settings(folder: Path, settings: Mapping[str, Any]) -> None:
    """Write settings.json, by which a folder is a run's. Raises ValueError where it can't be written."""
    try:
        write_json(folder / SETTINGS, settings)
    except OSError as error:
        raise ValueError(
            f"output={folder} can't be written to ({error.strerror}): mend that, or choose another folder"
        ) from error


def check_same_weights(folder: Path, prepared: Mapping[str, Any]) -> None:
    """Refuse to go on with other weights, or with other versions of what computes."""
    stored = read_manifest(folder / "manifest.json")
    digest = stored["model"]["digest"]
    if digest != prepared.get("digest"):
        raise Stopped(f"the run in {folder} measured other weights (digest {digest}): choose another output", 2)
    difference = manifest.first_difference({"versions": stored["versions"]}, {"versions": prepared.get("versions", {})})
    if difference:
        raise Stopped(f"the run in {folder} was begun with other software ({difference}): choose another output", 2)


def check_same_plan(path: Path, stored: Job, asked: Job) -> None:
    """Refuse a stored plan other than the configuration's: its cases name folders, and what is measured how often.

    Left out: how long energy is taken, which the card decides, and the interpreters, whose paths may have been
    relative to another working directory.
    """

    def compared(job: Job) -> dict[str, Any]:
        cases = {name: replace(case, python=None) for name, case in job.cases.items()}
        alike = replace(job, cases=cases, energy_s=0.0, energy_blocks=0)
        return dict(json.loads(json.dumps(asdict(alike))))

    if difference := manifest.first_difference(compared(stored), compared(asked)):
        raise Stopped(f"{path} is not the plan of this run's configuration ({difference}): this run can't go on", 2)


def done_of(config: RunConfig) -> list[tuple[str, int]]:
    """The blocks, by case and number, of the run in `output` that are done; none where no run began there.

    Raises ValueError as `all_done` does.
    """
    folder = None if config.output is None else choose_folder(config)
    if folder is None or not (folder / "job.json").is_file():
        return []
    job = read_job(folder / "job.json", folder)
    return [pair for pair in job.order if is_done(job, *pair)]


def all_done(folder: Path) -> bool:
    """Whether every block of the plan in a folder is over and did not fail: only tables and report can be missing.

    Raises ValueError for a plan or a verdict that is not as the harness wrote it.
    """
    path = folder / "job.json"
    if not path.is_file():
        return False
    job = read_job(path, folder)
    done = [is_done(job, case, block) for case, block in job.order]  # of every block: a damaged verdict is told here
    return all(done)


def check_there(folder: Path, files: Iterable[Path]) -> None:
    """What was written must be there when more is: a run never goes on beside files that somebody took away.

    Raises:
        FileNotFoundError: the first that is not.
    """
    for path in (folder / SETTINGS, folder / "job.json", *files):
        if not path.exists():
            raise FileNotFoundError(errno.ENOENT, "it is not there any more", str(path))
