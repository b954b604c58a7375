"""manifest.json, and the types and bounds of what reports read from it, so that a foreign file ends in a sentence."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from reports.files import read_object

PLACES = (
    "run", "protocol", "smoke", "started", "gpu", "model.name", "model.dtype", "model.weights", "config.run",
    "config.cases", "config.sweep.prompt_lengths", "config.sweep.ttft_iterations", "config.sweep.decode.prompt_length",
    "config.sweep.decode.context",
)  # fmt: skip
"""What every manifest has."""
KINDS: dict[str, type] = {
    "run": str,
    "protocol": str,
    "smoke": bool,
    "started": str,
    "finished": str,
    "warnings": list,
    "no_energy": str,
    "not_judged": str,
    "versions": dict,
    "git": dict,
    "gpu": dict,
    "gpu.name": str,
    "gpu.memory_mib": float,
    "model.name": str,
    "model.dtype": str,
    "model.weights": str,
    "neighbours": dict,
    "neighbours.runs": int,
    "neighbours.cores": list,
    "placements": list,
    "attempts": list,
    "weight_bytes": float,
    "read_bandwidth_tb_s": float,
    "matmul_tflop_s": float,
    "config.run": list,
    "config.cases": dict,
    "config.study": str,
    "config.seed": int,
    "config.protocol": dict,
    "config.protocol.name": str,
    "config.sweep": dict,
    "config.sweep.workload": str,
    "config.sweep.blocks": int,
    "config.sweep.prompt_lengths": list,
    "config.sweep.ttft_iterations": int,
    "config.sweep.p99_iterations": int,
    "config.sweep.p99_width": float,
    "config.sweep.decode": dict,
    "config.sweep.decode.prompt_length": int,
    "config.sweep.decode.context": int,
    "config.sweep.decode.sequences": int,
    "config.sweep.equivalence": dict,
    "config.sweep.equivalence.tolerance": float,
}
OF_A_CASE: dict[str, type] = {
    "title": str, "blocks": int, "procedure": dict, "sampling": dict, "graph": dict, "impersonate": str,
    "transport": str,
}  # fmt: skip
NULL = (
    "gpu", "gpu.name", "gpu.memory_mib", "finished", "no_energy", "git", "weight_bytes", "read_bandwidth_tb_s",
    "matmul_tflop_s", "config.study", "config.protocol", "blocks", "procedure", "sampling", "graph", "impersonate",
    "transport", "neighbours", "neighbours.runs", "neighbours.cores",
)  # fmt: skip
"""What may be null; `gpu` is where there was none, `neighbours` where a run was alone on its host."""
WORD = {"config.sweep.p99_iterations": "auto"}
"""What may be this word instead."""
WORDS: dict[type, str] = {
    str: "a text", int: "a whole number", float: "a number", dict: "an object", list: "a list", bool: "true or false",
}  # fmt: skip
POSITIVE = (
    "weight_bytes", "read_bandwidth_tb_s", "matmul_tflop_s", "config.sweep.ttft_iterations", "config.sweep.blocks",
    "blocks",
)  # fmt: skip
"""Numbers that are above 0; the others are 0 or above."""
MOST, MOST_SEED, MOST_ENTRIES = 10**16, 2**64, 10_000
MOST_COUNTED = 10_000_000
"""The largest number of any kind, of a seed, of entries in a list, and of tokens or requests."""
LONGEST, LONGEST_NAME = 2000, 200
"""Characters of any text that a page shows, and of one that stands in figures."""
NAMES = ("run", "started", "gpu.name", "model.name", "model.dtype", "model.weights", "title")
CASE = re.compile(r"[A-Za-z0-9_.-]{1,100}")
"""How a case may be named: it is part of the names of its blocks' folders."""


def load_manifest(path: Path) -> dict[str, Any]:
    """manifest.json with all keys that a report needs. Raises ValueError with one sentence."""
    manifest = read_object(path)
    for place in PLACES:
        if lost := absent(manifest, place):
            raise ValueError(f"{path} has no {lost}: was it written by this version of the harness?")
    check(manifest, path)
    if (manifest.get("versions") or {}).get("cuda") == "None":  # so wrote runs with a PyTorch without CUDA before
        manifest["versions"]["cuda"] = ""
    if strays := [name for name in manifest["config"]["run"] if name not in manifest["config"]["cases"]]:
        raise ValueError(f"{path} runs the case {strays[0]}, which its config.cases does not describe")
    return manifest


def absent(manifest: dict[str, Any], place: str) -> str:
    """The first part of a dotted place that a manifest does not have, empty when it has them all."""
    at: Any = manifest
    parts = place.split(".")
    for depth, part in enumerate(parts, 1):
        if not isinstance(at, dict) or part not in at:
            return ".".join(parts[:depth])
        at = at[part]
    return ""


def check(manifest: dict[str, Any], path: Path) -> None:
    """Raises ValueError with one sentence on the first value of the wrong type. What is absent is not asked for."""
    for place, kind in KINDS.items():
        value, there = found(manifest, place)
        if place in WORD and WORD[place] == value:
            continue
        refuse(value, kind, place, path, null=place in NULL or not there)
    check_lists(manifest, path)
    for name, case in manifest["config"]["cases"].items():
        refuse(case, dict, f"config.cases.{name[:40]}", path)
        for key, kind in OF_A_CASE.items():
            refuse(case.get(key), kind, f"config.cases.{name[:40]}.{key}", path, null=key in NULL)


def check_lists(manifest: dict[str, Any], path: Path) -> None:
    """What lists hold. Raises ValueError with one sentence."""
    config = manifest["config"]
    for name in [*config["run"], *config["cases"]]:
        refuse(name, str, "a name in config.run", path)
        if not CASE.fullmatch(name):
            raise ValueError(f"{path}: {name[:40]!r} is no case's name: letters, digits, _ . and - make one")
    lengths = config["sweep"]["prompt_lengths"]
    for length in lengths:
        refuse(length, int, "a length in config.sweep.prompt_lengths", path)
    for line in manifest.get("warnings", []):
        refuse(line, str, "a sentence in warnings", path)
    for place in manifest.get("placements", []):
        refuse(place, dict, "an entry in placements", path)
    for attempt in manifest.get("attempts", []):
        refuse(attempt, dict, "an entry in attempts", path)
        refuse(attempt.get("gpu_uuid"), str, "gpu_uuid in attempts", path, null=True)
        refuse(attempt.get("read_bandwidth_tb_s"), float, "read_bandwidth_tb_s in attempts", path, null=True)
    for place, values in (("config.run", config["run"]), ("config.sweep.prompt_lengths", lengths)):
        if not values or len(values) > MOST_ENTRIES:
            raise ValueError(f"{path}: {place} has {len(values)} entries, not from 1 to {MOST_ENTRIES}")
        if len(set(values)) < len(values):
            raise ValueError(f"{path}: {place} has an entry twice")


def found(manifest: dict[str, Any], place: str) -> tuple[Any, bool]:
    """The value at a dotted place, and whether there is one."""
    value: Any = manifest
    for part in place.split("."):
        if not isinstance(value, dict) or part not in value:
            return None, False
        value = value[part]
    return value, True


def refuse(value: Any, kind: type, name: str, path: Path, *, null: bool = False) -> None:
    """Raises ValueError unless a value is of this type and size, or null where it may be; true is no number."""
    if value is None and null:
        return
    kinds = (int, float) if kind is float else (kind,)
    if not isinstance(value, kinds) or (isinstance(value, bool) and kind is not bool):
        raise ValueError(f"{path}: {name} is {str(value)[:40]!r}, not {WORDS[kind]}")
    for said in faults(value, name):
        raise ValueError(f"{path}: {name} is {str(value)[:40]!r}, {said}")


def faults(value: Any, name: str) -> Iterator[str]:
    """What else is wrong with a value of the right type: of its size."""
    last = name.rsplit(".", 1)[-1]
    if isinstance(value, str):
        most = LONGEST_NAME if name in NAMES or last in NAMES else LONGEST
        if len(value) > most:
            yield f"and so on: a text of {len(value)} characters, where {most} are the most"
    elif isinstance(value, int | float) and not isinstance(value, bool):
        most = MOST_SEED if last == "seed" else MOST_COUNTED if isinstance(value, int) and "config" in name else MOST
        least = 1 if name in POSITIVE or last in POSITIVE or name.startswith("a length") else 0
        if not (value > 0 if least else value >= 0) or value > most:
            yield f"not {'above 0' if least else '0 or above'} and at most {most}"
