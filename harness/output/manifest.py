"""What a reader must know to believe a run: settings, code, versions, machine, weights, calibration."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import yaml

from harness.disk import write_json
from harness.job import Job
from harness.machine import placement
from harness.machine.gpu import Gpu
from harness.measure.prompts import digest
from harness.settings.compose import CONF, ROOT, flatten
from harness.settings.config import RunConfig

CODE = ("cases", "harness")
CODE_FILES = (".py", ".cu", ".cuh")
SWAYING = ("CUDA_*", "TRITON_*", "TORCHINDUCTOR_*", "NVIDIA_*", "OMP_NUM_THREADS")
PLACING = ("CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES")
"""Which card it is: another one of its kind may go on with a run."""
OF_CARD = ("name", "driver", "power_limit_w")
"""What another card must share to go on with a run, as far as the run states it."""
REVISION = re.compile("[0-9a-f]{40}")
NO_SETTING = ("output", "dry_run", "resume", "lock")
"""Keys in which two attempts at one run may differ."""
NOT_JUDGED = "not_judged"
"""The key that says why a run has no referee.csv, where it should have one."""
FROM_PREPARE = (
    "read_bandwidth_tb_s", "matmul_tflop_s", "weight_bytes", "flops_per_token", "loop_overhead_us", "sentence_source",
)  # fmt: skip
CALIBRATED = ("read_bandwidth_tb_s", "matmul_tflop_s", "loop_overhead_us")
"""Of these what each attempt finds anew: how fast its card and host were."""


def now() -> str:
    """The time as ISO 8601 in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def code_digest(root: Path = ROOT, suffixes: Sequence[str] = CODE_FILES) -> str:
    """SHA-256 over the names and contents of all files of code that a measurement passes through."""
    total = hashlib.sha256()
    every = (path for folder in CODE for path in (root / folder).rglob("*"))
    for path in sorted(path for path in every if path.suffix in suffixes and path.is_file()):
        total.update(f"{path.relative_to(root)}\0".encode() + path.read_bytes() + b"\0")
    return total.hexdigest()


def settings(resolved: Mapping[str, Any]) -> dict[str, Any]:
    """What two runs must share to be one: the resolved configuration and the code."""
    kept = {key: value for key, value in resolved.items() if key not in NO_SETTING}
    return {"config": kept, "code": code_digest()}


def first_difference(stored: Mapping[str, Any], asked: Mapping[str, Any]) -> str:
    """The first setting that differs, as `key is STORED there and ASKED here`; empty when none does."""
    before, after = dict(flatten(stored)), dict(flatten(asked))
    for key in [*before, *(key for key in after if key not in before)]:
        old, new = before.get(key), after.get(key)
        if old != new:
            name = key.removeprefix("config.")
            if name in ("code", "code_digest"):
                return f"the code has the digest {str(old)[:12]} there and {str(new)[:12]} here"
            return f"{name} is {json.dumps(old)} there and {json.dumps(new)} here"
    return ""


def unlike_machine(stored: Mapping[str, Any], gpu: Gpu | None, environment: Mapping[str, str]) -> str:
    """The first of code, GPU, driver and swaying variables in which a stored manifest differs from here and now; empty
    when none does."""
    card = None if gpu is None else _gpu_facts(gpu)
    here = {"code_digest": code_digest(), "gpu": card, "environment": swaying(environment)}
    told = [key for key in OF_CARD if (stored.get("gpu") or card or {}).get(key) is not None]
    now = here if "environment" in stored else here | {"environment": {}}
    return first_difference(_machine(stored, told), _machine(now, told))


def _machine(facts: Mapping[str, Any], told: Sequence[str]) -> dict[str, Any]:
    gpu, found = facts.get("gpu"), facts.get("environment", {})
    kept = None if gpu is None else {key: gpu.get(key) for key in told}
    variables = {f"environment.{key}": value for key, value in found.items() if key not in PLACING}
    return {"code_digest": facts.get("code_digest"), "gpu": kept, **variables}


def git_state(root: Path = ROOT, *under: str) -> dict[str, Any]:
    """Commit and whether files differ from it. In an exported tree the commit is what the export wrote in .revision.

    An exported tree may lie inside another checkout, whose commit says nothing about it. Folders `under` the root: only
    changes there count.
    """
    top = _git(root, "rev-parse", "--show-toplevel")
    sha, status = _git(root, "rev-parse", "HEAD"), _git(root, "status", "--porcelain", "--", *under)
    if top is None or sha is None or status is None or Path(top).resolve() != root.resolve():
        return {"sha": _exported_revision(root), "dirty": None}
    return {"sha": sha, "dirty": bool(status)}


def commit_text(root: Path = ROOT, *under: str) -> str:
    """The same in words: the commit, `and changes` where there are any, or `unknown`."""
    state = git_state(root, *under)
    return f"{state['sha'] or 'unknown'}{' and changes' if state['dirty'] else ''}"


def _exported_revision(root: Path) -> str | None:
    """The commit that `git archive` put in place of the keyword, or None where nothing did."""
    path = root / ".revision"
    found = path.read_text(encoding="utf-8").strip() if path.is_file() else ""
    return found if REVISION.fullmatch(found) else None


def _git(root: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=False)  # noqa: S603, S607  no shell
    except FileNotFoundError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def swaying(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables that can change a latency. Tokens and paths of persons are none of these."""
    return {key: value for key, value in sorted(environment.items()) if any(fnmatchcase(key, form) for form in SWAYING)}


def build(
    config: RunConfig,
    resolved: Mapping[str, Any],
    job: Job,
    prepared: Mapping[str, Any],
    gpu: Gpu | None,
    environment: Mapping[str, str],
    started: str,
) -> dict[str, Any]:
    """manifest.json as it stands when the first block starts; `started` is when the command did."""
    return {
        "run": Path(job.run_dir).name,
        "protocol": protocol_of(config),
        "smoke": config.device == "cpu",
        "started": started,
        "finished": None,
        "resumed": [],
        "config": dict(resolved),
        "code_digest": code_digest(),
        "versions": prepared.get("versions", {}),
        "environment": swaying(environment),
        "git": git_state(),
        "gpu": None if gpu is None else _gpu_facts(gpu),
        "device_name": prepared.get("device_name"),
        "model": {
            "name": config.model.name,
            "weights": prepared.get("weights_source", config.model.weights),
            "dtype": config.model.dtype,
            "digest": prepared.get("digest"),
            "shape": prepared.get("shape"),
        },
        "prompt_digest": digest(job),
        **{key: prepared.get(key) for key in FROM_PREPARE},
        "preparation_s": {**prepared.get("seconds", {}), "whole": prepared.get("wall_s")},
    }


def protocol_of(config: RunConfig, folder: Path = CONF / "protocol") -> str:
    """The protocol's name, and what is set otherwise than in its file: no table calls that by the name alone."""
    protocol = config.protocol
    path = folder / f"{protocol.name}.yaml"
    name = protocol.name
    if path.is_file():
        stored = yaml.safe_load(path.read_text(encoding="utf-8"))
        usual = dict(flatten(stored.get("protocol", stored)))
        changed = [f"{key}={value}" for key, value in flatten(asdict(protocol)) if usual.get(key) != value]
        sweep = dict(flatten(asdict(config.sweep)))
        asked = dict(flatten(stored.get("sweep", {}))) if "protocol" in stored else {}
        changed += [f"sweep.{key}={sweep[key]}" for key, value in asked.items() if sweep[key] != value]
        own = {case: config.cases[case].blocks for case in config.run if "blocks" in asked}
        changed += [f"cases.{case}.blocks={n}" for case, n in own.items() if n not in (None, asked["blocks"])]
        name = f"{name} but {', '.join(changed)}" if changed else name
    others = [case for case in config.run if config.cases[case].procedure != protocol]
    if len(others) == len(config.run):
        return f"{name} (each case its own)"
    return f"{name} (another for {', '.join(others)})" if others else name


def _gpu_facts(gpu: Gpu) -> dict[str, Any]:
    return {
        "index": gpu.index,
        "name": gpu.name,
        "uuid": gpu.uuid,
        "driver": gpu.driver,
        "memory_mib": gpu.memory_mib,
        "free_mib": gpu.free_mib,
        "other_processes": len(gpu.processes),
        "persistence": gpu.persistence,
        "energy_counter": gpu.energy_counter,
        "power_limit_w": gpu.power_limit_w,
    }


def file_digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every CSV of a run, by name."""
    return {path.name: file_digest(path) for path in sorted(folder.glob("*.csv")) if path.is_file()}


def file_digest(path: Path) -> str:
    """SHA-256 of a file of any size."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def resumed(path: Path, at: str) -> None:
    """Note that the run went on at the time `at`: from started to finished it was not always running.

    An end that an earlier attempt stamped is taken away with its digests: the files change again.
    """
    stored = json.loads(path.read_text(encoding="utf-8"))
    kept = {key: value for key, value in stored.items() if key not in ("files", "digest")}
    write_json(path, {**kept, "finished": None, "resumed": [*stored.get("resumed", []), at]})


def placed(path: Path, gpu: Gpu | None, at: str) -> None:
    """Note where the launcher or scheduler put this attempt, and the runs beside it, of which none is forgotten."""
    stored = json.loads(path.read_text(encoding="utf-8"))
    places = [*stored.get("placements", []), *([placement.facts(gpu, at)] if placement.scheduled() else [])]
    beside = placement.neighbours() or stored.get("neighbours")
    write_json(path, {**stored, "placements": places, "neighbours": beside})


def attempted(path: Path, gpu: Gpu | None, at: str, prepared: Mapping[str, Any]) -> None:
    """Note on which card this attempt measures and what its calibration found there: one that goes on may be on another
    card of the kind, while the floor stays that of the first."""
    stored = json.loads(path.read_text(encoding="utf-8"))
    found = {key: prepared.get(key) for key in CALIBRATED}
    this = {"at": at, "gpu_uuid": None if gpu is None else gpu.uuid, **found}
    write_json(path, {**stored, "attempts": [*stored.get("attempts", []), this]})


def measured_nothing(path: Path, gpu: Gpu | None, prepared: Mapping[str, Any]) -> None:
    """Forget the machine of attempts that ended before any block did: what is measured now has this one's floor."""
    stored = json.loads(path.read_text(encoding="utf-8"))
    here: dict[str, Any] = {"gpu": None if gpu is None else _gpu_facts(gpu), "attempts": [], "placements": []}
    write_json(path, {**stored, **here, **{key: prepared.get(key) for key in FROM_PREPARE}})


def warned(path: Path, lines: Sequence[str]) -> None:
    """Add what was warned of before the first block, each sentence once."""
    stored = json.loads(path.read_text(encoding="utf-8"))
    write_json(path, {**stored, "warnings": list(dict.fromkeys([*stored.get("warnings", []), *lines]))})


def judged(path: Path, why_not: str) -> None:
    """Note why the referee of this run failed, or that it no longer does."""
    stored = json.loads(path.read_text(encoding="utf-8"))
    if stored.get(NOT_JUDGED, "") != why_not:
        kept = {key: value for key, value in stored.items() if key != NOT_JUDGED}
        write_json(path, {**kept, NOT_JUDGED: why_not} if why_not else kept)


def finish(path: Path) -> None:
    """Stamp the end of the run, its report included, with a digest of every CSV and one of all that stands here.

    `harness validate` asks for them.
    """
    stored = json.loads(path.read_text(encoding="utf-8"))
    whole = {**stored, "finished": now(), "files": file_digests(path.parent)}
    write_json(path, {**whole, "digest": own_digest(whole)})


def own_digest(manifest: Mapping[str, Any]) -> str:
    """SHA-256 of a manifest but for this digest, and for the commit that harness.output.provenance adds later."""
    kept = {key: value for key, value in manifest.items() if key != "digest"}
    if isinstance(kept.get("git"), dict):
        kept["git"] = {key: value for key, value in kept["git"].items() if key != "same_code_as"}
    kept["git"] = kept.get("git") or None
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()
