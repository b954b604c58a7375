"""The measured half: the newest committed run of each kind, and what to say where there is none."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reports.paper.published import TITLES
from reports.run import Run, load
from reports.sound import load_manifest

COMMITTED = Path(__file__).resolve().parents[2] / "results" / "published"
PAPER, CONTROLLED = "paper", "controlled"
PUBLISHED_LENGTHS = [10, 50, 100, 150, 200, 250, 300, 350, 400]
NAMES = {PAPER: "Paper's protocol", CONTROLLED: "Controlled"}
"""The two protocols, as columns are headed."""
STUDIES = ("attribution", "capture_coverage", "coverage_policies", "rolling", "ipc", "ablation")
COMMANDS = {
    PAPER: "python -m harness experiment=paper",
    CONTROLLED: "python -m harness",
    **{study: f"python -m harness experiment={study}" for study in STUDIES},
}
Manifest = dict[str, Any]


class Missing(Exception):
    """A run, a case or samples that are not there: why, as a sentence."""


@dataclass(frozen=True)
class Runs:
    """What was measured; None, or no entry, where a run was not made yet. `others`: whole controlled runs beside it."""

    paper: Run | None = None
    controlled: Run | None = None
    studies: Mapping[str, Run] = field(default_factory=dict)
    others: Sequence[Run] = ()

    @property
    def both(self) -> dict[str, Run | None]:
        """The comparison of the five cases under both protocols."""
        return {PAPER: self.paper, CONTROLLED: self.controlled}

    def get(self, name: str) -> Run | None:
        """A run by `paper`, `controlled` or the name of its study."""
        return self.both[name] if name in NAMES else self.studies.get(name)

    def need(self, name: str) -> Run:
        """The same. Raises Missing with the command that measures it."""
        if run := self.get(name):
            return run
        raise Missing(absent(name))


def absent(name: str) -> str:
    """The footnote of a run that was not made."""
    return f"Not measured yet: {COMMANDS[name]}"


def find(folder: Path = COMMITTED, measured: Path | None = None, controlled: Path | None = None) -> Runs:
    """The runs of a folder of runs; `measured` and `controlled` name one themselves, a smoke run if need be.

    Raises:
        ValueError: one sentence on a run that can't be read.
    """
    ages: dict[str, list[tuple[bool, str, Path]]] = {}
    for path, manifest in manifests(folder):
        # A whole run stands before any that was interrupted, however old it is.
        age = (manifest.get("finished", "") is not None, str(manifest["started"]), path)
        if kind := kind_of(manifest):
            ages.setdefault(kind, []).append(age)
    for found in ages.values():
        found.sort(key=lambda age: age[:2], reverse=True)
    paths = {kind: found[0][-1] for kind, found in ages.items()}
    others = [] if controlled else [path for whole, _, path in ages.get(CONTROLLED, [])[1:] if whole]
    paths |= {kind: path for kind, path in ((PAPER, measured), (CONTROLLED, controlled)) if path}
    loaded = {kind: load(path) for kind, path in paths.items()}
    for kind in (PAPER, CONTROLLED):
        if kind in loaded:
            refuse_other(kind, loaded[kind])
    studies = {kind: run for kind, run in loaded.items() if kind in STUDIES}
    return Runs(loaded.get(PAPER), loaded.get(CONTROLLED), studies, tuple(load(path) for path in others))


def refuse_other(kind: str, run: Run) -> None:
    """A run goes under the name of the protocol that it followed. Raises ValueError."""
    found = protocol_of(run.manifest)
    if found != kind or run.study:
        said = f"experiment={run.study}" if run.study else f"protocol {found}"
        raise ValueError(f"{run.path} was measured under {said}: '{NAMES[kind]}' takes a run of {COMMANDS[kind]}")


def manifests(folder: Path) -> Iterator[tuple[Path, Manifest]]:
    """Every run of the folder with its manifest. Raises ValueError on one that is no manifest of a run."""
    for file in sorted(folder.glob("*/manifest.json")):
        yield file.parent, load_manifest(file)


def kind_of(manifest: Manifest) -> str:
    """Which of the runs that are looked for this one is, empty for none: a smoke run is none."""
    config = manifest["config"]
    lengths = config.get("sweep", {}).get("prompt_lengths", [])
    study, protocol, cases = config.get("study") or "", protocol_of(manifest), config.get("run", [])
    if manifest.get("smoke"):
        return ""
    if study in STUDIES:
        return study if study != "rolling" or len(cases) > 1 else ""
    if protocol == PAPER and not study:
        return PAPER if manifest.get("protocol") == PAPER and list(lengths) == PUBLISHED_LENGTHS else ""
    whole = set(TITLES) <= set(cases) and list(lengths) == PUBLISHED_LENGTHS
    return CONTROLLED if protocol == CONTROLLED and not study and whole else ""


def protocol_of(manifest: Manifest) -> str:
    """The name of a run's protocol."""
    return str((manifest["config"].get("protocol") or {}).get("name") or manifest.get("protocol", ""))


def engine(run: Run) -> str:
    """The case that is TensorRT-LLM itself, empty where the run has none: a stand-in under that name is none."""
    return "tensorrt_llm" if "tensorrt_llm" in run.cases and not impersonates(run, "tensorrt_llm") else ""


def impersonates(run: Run, case: str) -> bool:
    """Whether a case is the published stand-in: Transformers in TensorRT-LLM's place."""
    return run.manifest["config"]["cases"][case].get("impersonate") == "transformers"


def stand_in(run: Run) -> str:
    """The first case that is the published stand-in, empty where there is none."""
    return next((case for case in run.cases if impersonates(run, case)), "")


def fifth(run: Run) -> list[str]:
    """What stands in TensorRT-LLM's column: the engine where it gave samples or alone is there; a stand-in behind it.

    Without the engine's samples the stand-in has the column, under its own name.
    """
    real, other = engine(run), stand_in(run)
    if real and (real in set(run.samples["case"]) or not other):
        return [case for case in (real, other) if case]
    return [other] if other else []


def five(run: Run) -> list[str]:
    """The columns of a table of all cases: the four others that the run has, and what is in the fifth's place."""
    return [*(case for case in TITLES if case in run.cases and case != "tensorrt_llm"), *fifth(run)]


def why_no_engine(run: Run) -> str:
    """Why TensorRT-LLM has no figures in a run."""
    real = engine(run)
    return run.missing(real) if real else "TensorRT-LLM is not in this run."
