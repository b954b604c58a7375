"""The files of one run, read and checked: everything that tables and plots are made of."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from harness import schema
from harness.schema import REFERENCE
from reports import attempts
from reports.files import TEXT, load_table
from reports.sound import load_manifest
from reports.style import places

SMOKE = "SMOKE RUN, not a measurement"
STEPPED = {"attribution"}
"""Studies whose cases each follow a procedure of their own."""


FRAMES = ("status", "samples", "ttft", "p99", "decode", "equivalence")


@dataclass(frozen=True)
class Run:
    """One run. Frames have the columns of harness/schema.py; latencies in ms; `cases` maps name to title, in order.
    `machine` is the name of where it was measured, given to runs of GPUs of one name."""

    path: Path
    manifest: dict[str, Any]
    cases: dict[str, str]
    status: pd.DataFrame
    samples: pd.DataFrame
    ttft: pd.DataFrame
    p99: pd.DataFrame
    decode: pd.DataFrame
    equivalence: pd.DataFrame
    machine: str = field(default="", kw_only=True)
    memo: dict[Any, Any] = field(init=False, repr=False, compare=False, default_factory=dict)  # of `once`, not copied

    def once(self, key: Any, make: Callable[[], Any]) -> Any:
        """What `make` returns, made at the first call for this key."""
        if key not in self.memo:
            self.memo[key] = make()
        return self.memo[key]

    @property
    def measured(self) -> set[str]:
        """The cases that have samples."""
        return self.once("measured", lambda: set(self.samples["case"]))

    @property
    def smoke(self) -> bool:
        """Whether nothing here counts as a measurement."""
        return bool(self.manifest["smoke"])

    @property
    def study(self) -> str:
        """The experiment that this run is, empty for a plain comparison of cases."""
        return str(self.manifest["config"].get("study") or "")

    @property
    def compares(self) -> bool:
        """Whether the cases answered the sweep of prompt lengths by one procedure: general tables compare those."""
        return self._sweeps and self.study not in STEPPED

    @property
    def decodes(self) -> bool:
        """Whether the sweep has decode in it."""
        return self._sweeps and self.sweep["decode"].get("sequences", 1) > 0

    @property
    def _sweeps(self) -> bool:
        return bool(self.sweep.get("workload", "latency") == "latency")

    @property
    def sweep(self) -> dict[str, Any]:
        """The sweep of the resolved configuration."""
        return self.manifest["config"]["sweep"]

    @property
    def seed(self) -> int:
        """The seed of everything that is drawn at random."""
        return int(self.manifest["config"].get("seed", 0))

    def procedure(self, case: str) -> dict[str, Any]:
        """The procedure that a case followed; empty in runs from before cases had one."""
        found: dict[str, Any] = self.manifest["config"]["cases"][case].get("procedure") or {}
        return found

    def blocks(self, case: str) -> int:
        """How many blocks a case was planned with: its own number, else the sweep's (1 in runs that do not say)."""
        own = self.manifest["config"]["cases"][case].get("blocks")
        return int(self.sweep.get("blocks", 1) if own is None else own)

    @property
    def whole(self) -> tuple[int, int]:
        """The whole range of context lengths that was decoded."""
        return self.sweep["decode"]["prompt_length"], self.sweep["decode"]["context"]

    @property
    def gpu(self) -> str:
        """The name of the GPU, or that there was none, and of the machine where that tells it from others."""
        name = self.manifest["gpu"]["name"] if self.manifest["gpu"] else "CPU, no GPU"
        return f"{name} ({self.machine})" if self.machine else str(name)

    @property
    def model(self) -> str:
        """Model, type and where the weights come from."""
        model = self.manifest["model"]
        weights = "random weights" if model["weights"] == "random" else f"weights of {model['weights']}"
        return f"{model['name']}, {model['dtype']}, {weights}"

    def facts(self, counts: Iterable[float] = (), dates: str = "") -> str:
        """What must stand under every table and figure; `counts` are the samples behind its values. `dates` are those
        of several runs: then the remarks of this one are left out."""
        sizes = sorted({int(count) for count in counts})
        n = [] if not sizes else [f"n = {sizes[0]}" if len(sizes) == 1 else f"n = {sizes[0]} to {sizes[-1]}"]
        date, own = dates or str(self.manifest["started"])[:10], [] if dates else self.remarks
        words = [*n, self.gpu, date, f"protocol {self.manifest['protocol']}", self.model, "batch size 1", *own]
        return "; ".join(words) + "."

    @property
    def remarks(self) -> list[str]:
        """What is to be known of this run alone: that it is not whole, not alone, on several cards, or warned of."""
        told = (self.unfinished, self.neighbours, attempts.moved(self.manifest))
        warned = [f"warned before the run: {line}" for line in self.manifest.get("warnings", [])]
        return [*filter(None, told), *warned]

    @property
    def neighbours(self) -> str:
        """What ran on the same host meanwhile, in words; empty for a run that was alone, as far as it says.

        `runs` in the manifest are the others that there was room for, null where nobody counted; `cores` are theirs.
        """
        found: Mapping[str, Any] | None = self.manifest.get("neighbours")
        if found is None or found.get("runs") == 0:
            return ""
        if found.get("runs") is None:
            return "measured where other runs may have been on the same host, how many is not known"
        apart = ", on CPU cores of their own" if found.get("cores") else ""
        return (
            f"measured beside up to {found['runs']} other run{'s' if found['runs'] > 1 else ''} on the same host{apart}"
        )

    @property
    def cores(self) -> str:
        """How many CPU cores each attempt could use, as a launcher pinned it; empty where nobody launched the run."""
        lists = [place.get("cores") for place in self.manifest.get("placements", [])]
        return ", then ".join(dict.fromkeys(str(len(cores)) for cores in lists if isinstance(cores, list)))

    @property
    def unfinished(self) -> str:
        """How much of the plan an interrupted run has, empty for a whole one."""
        planned, there = sum(map(self.blocks, self.cases)), len(self.status)
        return f"interrupted: {there} of {planned} blocks" if there < planned else ""

    def why_missing(self, case: str) -> str:
        """The reason, from status.csv, that a case has no value."""
        rows = self.status[self.status["case"] == case]
        bad = rows[rows["state"] != "ok"]
        if rows.empty:
            return "not in status.csv: the run ended before this case"
        if bad.empty:
            return "ran, but left no such samples"
        return f"{bad['state'].iloc[0]}: {bad['reason'].iloc[0] or 'no reason given'}"

    def ended_well(self, case: str) -> int:
        """How many blocks of a case are `ok`."""
        return int(((self.status["case"] == case) & (self.status["state"] == "ok")).sum())

    def lost(self, case: str) -> int:
        """How many planned blocks of a case are not `ok`, or not there."""
        return max(1, self.blocks(case)) - self.ended_well(case)

    def lost_blocks(self, case: str) -> bool:
        """Whether there is such a block."""
        return self.lost(case) > 0

    def missing(self, case: str) -> str:
        """The footnote of a case that lacks figures or blocks: how many blocks ended well, and why not the others."""
        why, rows = self.why_missing(case), self.status[self.status["case"] == case]
        lost = len(rows) > 0 and self.lost_blocks(case)
        if lost and (rows["state"] == "ok").all():
            why = "the run ended before the others"
        counted = f"{self.ended_well(case)} of {self.blocks(case)} blocks ended well; " if lost else ""
        return f"{self.cases[case]}: {counted}{why}."

    def competes(self, case: str) -> bool:
        """Whether a case may win: it has a block that is `ok` and did not fail the comparison with the baseline."""
        return self.ended_well(case) > 0 and not self.failed_equivalence(case)

    def uncompared(self, case: str) -> str:
        """Why a case that ran was not compared with the baseline, empty when it was or when it is the baseline."""
        if case == REFERENCE or case not in self.measured or self.failed_equivalence(case):
            return ""
        if REFERENCE not in self.cases:
            return "there is none in this run"
        rows = self.equivalence[self.equivalence["case"] == case]
        left = rows[rows["passed"].isna()]
        if rows.empty:
            return "equivalence.csv has no row of it"
        return "" if left.empty else str(left["reason"].iloc[0] or "no reason given")

    def judged(self, case: str) -> bool:
        """Whether ids of a case were judged at each prompt length by the baseline."""
        rows, column = self.equivalence[self.equivalence["case"] == case], schema.EQUIVALENCE_JUDGED[0]
        return column in rows and len(rows) > 0 and bool(rows[column].gt(0).all())

    def failed_equivalence(self, case: str) -> str:
        """Why the comparison with the baseline failed, empty when it passed or could not be made."""
        rows = self.equivalence[(self.equivalence["case"] == case) & self.equivalence["passed"].eq(False)]
        if rows.empty:
            return ""
        return f"{rows['reason'].iloc[0] or 'no reason given'} (at {rows['prompt_length'].iloc[0]:.0f} tokens)"


def load(path: Path) -> Run:
    """Read results/<run>.

    Raises:
        ValueError: one sentence on what is missing or malformed.
    """
    if not path.is_dir():
        raise ValueError(f"there is no folder {path}: name the folder of a run, such as results/<run>")
    manifest = load_manifest(path / "manifest.json")
    config = manifest["config"]
    frames = {
        name: load_table(path / f"{name}.csv", columns)
        for name, columns in (
            ("status", schema.STATUS_ALWAYS),
            ("samples", schema.SAMPLES_ALWAYS),
            ("ttft", schema.TTFT_ALWAYS),
            ("p99", schema.P99),
            ("decode", schema.DECODE_ALWAYS),
            ("equivalence", schema.EQUIVALENCE_ALWAYS),
        )
    }
    as_today(frames)
    frames["samples"] = answered(frames["samples"], frames["status"])  # as the run's own summaries have it
    names = config["run"] if config.get("study") else places(config["run"])  # an experiment has an order of its own
    cases = told_apart({name: str(config["cases"][name]["title"]) for name in names})
    for name, frame in frames.items():
        if stray := sorted(set(frame["case"]) - set(cases)):
            raise ValueError(
                f"{path / name}.csv names the case {stray[0]}, which the run of manifest.json does not have"
            )
    return Run(path, manifest, cases, *map(frames.__getitem__, FRAMES))


def as_today(frames: dict[str, pd.DataFrame]) -> None:
    """Give tables of older runs the columns that came later, filled with what they would have said."""
    compared = [column for column in schema.EQUIVALENCE if column not in schema.EQUIVALENCE_JUDGED]  # may be absent
    for name, columns in (("status", schema.STATUS), ("equivalence", compared)):  # as they are today
        new = {column: "" if column in TEXT else math.nan for column in columns if column not in frames[name]}
        frames[name] = frames[name].assign(**new)
    samples = frames["samples"]
    if "latency_ms" not in samples:  # it came with the server's clock: before, all latencies were the client's
        samples = samples.assign(latency_ms=samples["host_ms"])
    lacking = [column for column in schema.SAMPLES if column not in samples]
    frames["samples"] = samples.assign(
        **{column: math.nan if column in schema.SAMPLES_UNKNOWN else 0.0 for column in lacking}
    )
    for name in ("ttft", "decode"):
        frames[name] = frames[name].assign(**{} if "coalesced" in frames[name] else {"coalesced": 0})


def answered(samples: pd.DataFrame, status: pd.DataFrame) -> pd.DataFrame:
    """The samples without those of blocks in which something else answered than the case says."""
    told = status[status["identity"].str.startswith(schema.CONTRADICTED)]
    foreign = pd.MultiIndex.from_frame(told[["case", "block"]])
    return samples[~pd.MultiIndex.from_frame(samples[["case", "block"]]).isin(foreign)]


def told_apart(titles: dict[str, str]) -> dict[str, str]:
    """Titles by case; those that several cases share have the case's name behind them."""
    shared = {title for title, count in Counter(titles.values()).items() if count > 1}
    return {case: f"{title} [{case}]" if title in shared else title for case, title in titles.items()}
