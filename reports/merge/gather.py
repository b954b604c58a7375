"""The runs of a sweep: which folders are runs, which are left out and why, and what belongs together."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from reports.compare.cells import check as check_latencies
from reports.run import Run, load
from reports.style import places

MANIFEST, SUMMARY = "manifest.json", "ttft.csv"


@dataclass(frozen=True)
class Sweep:
    """Runs of one kind, ordered by model and GPU, and the folders left out, each with the reason."""

    runs: tuple[Run, ...]
    left_out: tuple[str, ...] = ()

    @property
    def smoke(self) -> bool:
        """Whether nothing here counts as a measurement."""
        return any(run.smoke for run in self.runs)

    @property
    def models(self) -> list[str]:
        """The names of the models, in order."""
        return list(dict.fromkeys(map(model_of, self.runs)))

    @property
    def gpus(self) -> list[str]:
        """The names of the GPUs, in order."""
        return sorted({run.gpu for run in self.runs})

    @property
    def titles(self) -> dict[str, str]:
        """Every case by its title, in the order of tables: a title that runs give to other cases is one column."""
        found = {title: case for run in self.runs for case, title in run.cases.items()}
        order = places(found.values())
        return dict(sorted(found.items(), key=lambda pair: order.index(pair[1])))

    @property
    def shared(self) -> list[int]:
        """The prompt lengths that every run planned."""
        planned = [set(run.sweep["prompt_lengths"]) for run in self.runs]
        return sorted(set.intersection(*planned))

    @property
    def narrow(self) -> bool:
        """Whether a run has prompt lengths that another has not."""
        return any(set(run.sweep["prompt_lengths"]) != set(self.shared) for run in self.runs)

    def of_model(self, model: str) -> list[Run]:
        """The runs of a model, by GPU."""
        return [run for run in self.runs if model_of(run) == model]


def model_of(run: Run) -> str:
    """The name of a run's model."""
    return str(run.manifest["model"]["name"])


def name_of(run: Run) -> str:
    """The run's folder, which tells it from others."""
    return run.path.resolve().name


def gather(paths: Sequence[Path], output: Path | None = None, machines: bool = False) -> Sweep:
    """The runs named, and those directly in folders that are none; `output`, where the report goes, is not looked at.

    `machines`: runs of one model on GPUs of one name come from several machines, and their folders tell them apart.

    Raises:
        ValueError: one sentence on a folder that is no sweep, on a damaged run, or on fewer than two runs.
    """
    found, left_out = expanded(paths, output)
    if len(found) < 2:
        words = f"; left out: {', '.join(left_out)}" if left_out else ""
        raise ValueError(f"{found[0]} is the only run here: a merge takes two runs or more{words}")
    runs = [loaded(path) for path in found]
    if machines:
        cells = Counter((model_of(run), run.gpu) for run in runs)
        runs = [of_machine(run) if cells[model_of(run), run.gpu] > 1 else run for run in runs]
    return Sweep(tuple(sorted(runs, key=lambda run: (model_of(run), run.gpu, name_of(run)))), tuple(left_out))


def of_machine(run: Run) -> Run:
    """The run with its folder's name behind that of its GPU."""
    return replace(run, machine=name_of(run))


def loaded(path: Path) -> Run:
    """A run whose every sample is a latency. Raises ValueError with one sentence."""
    run = load(path)
    check_latencies(run)
    return run


def expanded(paths: Sequence[Path], output: Path | None = None) -> tuple[list[Path], list[str]]:
    """The folders of runs, and the other folders with the reason why they are left out.

    Raises:
        ValueError: one sentence on a folder that neither is a run nor has one directly in it, or on a run named twice.
    """
    found: list[Path] = []
    left_out: list[str] = []
    for path in paths:
        runs, others = ([path], []) if (path / MANIFEST).is_file() else inside(path, output)
        found += runs
        left_out += others
    if repeated := [path for path in found if sum(path.resolve() == other.resolve() for other in found) > 1]:
        raise ValueError(f"{repeated[0]} is named twice: name each run once")
    return found, left_out


def inside(folder: Path, output: Path | None) -> tuple[list[Path], list[str]]:
    """The runs directly in a folder, and its other folders with the reason why they are left out; hidden ones are not
    looked at."""
    if not folder.is_dir():
        raise ValueError(f"there is no folder {folder}: name a run, or the folder of a sweep, such as results/<sweep>")
    found, left_out = [], []
    for path in sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")):
        if output is not None and path.resolve() == output.resolve():
            continue
        if not (path / MANIFEST).is_file():
            left_out.append(f"{path.name} (it has no {MANIFEST})")
        elif not (path / SUMMARY).is_file():
            left_out.append(
                f"{path.name} (it has no {SUMMARY}: of a run that was killed `python -m harness summarise` makes it)"
            )
        else:
            found.append(path)
    if not found:
        words = f"; left out: {', '.join(left_out)}" if left_out else ""
        raise ValueError(f"{folder} is no run and has none directly in it: name the folder of a sweep or runs{words}")
    return found, left_out


def narrowed(run: Run, lengths: Iterable[int]) -> Run:
    """The run as if these prompt lengths, all of them its own, had been all that were asked for."""
    kept = sorted(lengths)
    if kept == sorted(run.sweep["prompt_lengths"]):
        return run
    found: Run = run.once(("narrowed", tuple(kept)), lambda: _narrowed(run, kept))
    return found


def _narrowed(run: Run, kept: list[int]) -> Run:
    manifest: dict[str, Any] = copy.deepcopy(run.manifest)
    manifest["config"]["sweep"]["prompt_lengths"] = kept
    samples = run.samples[(run.samples["metric"] != "ttft") | run.samples["prompt_length"].isin(kept)]
    ttft, p99 = (frame[frame["prompt_length"].isin(kept)] for frame in (run.ttft, run.p99))
    return replace(run, manifest=manifest, samples=samples, ttft=ttft, p99=p99)
