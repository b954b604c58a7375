"""Types of what reports read from manifest.json, so that a foreign file ends in a sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

KINDS: dict[str, type] = {
    "config.run": list,
    "config.cases": dict,
    "config.study": str,
    "config.protocol": dict,
    "config.sweep.workload": str,
    "config.sweep.blocks": int,
    "config.sweep.prompt_lengths": list,
    "config.sweep.ttft_iterations": int,
    "config.sweep.p99_iterations": int,
    "config.sweep.decode.prompt_length": int,
    "config.sweep.decode.context": int,
    "config.sweep.decode.sequences": int,
    "gpu": dict,
    "gpu.name": str,
    "model.name": str,
    "model.dtype": str,
    "model.weights": str,
    "started": str,
    "smoke": bool,
    "neighbours": dict,
    "neighbours.runs": int,
    "neighbours.cores": list,
}
OF_A_CASE = {"title": str, "blocks": int, "procedure": dict}
NULL = (
    "gpu", "gpu.name", "config.study", "config.protocol", "blocks", "procedure", "neighbours", "neighbours.runs",
    "neighbours.cores",
)  # fmt: skip
"""What may be null; `gpu` is where there was none, `neighbours` where a run was alone on its host."""
WORD = {"config.sweep.p99_iterations": "auto"}
"""What may be this word instead."""
WORDS = {str: "a text", int: "a whole number", dict: "an object", list: "a list", bool: "true or false"}


def check(manifest: dict[str, Any], path: Path) -> None:
    """Raises ValueError with one sentence on the first value of the wrong type. What is absent is not asked for."""
    for place, kind in KINDS.items():
        value, there = found(manifest, place)
        if WORD.get(place) == value and there:
            continue
        refuse(value, kind, place, path, null=place in NULL or not there)
    for name in manifest["config"]["run"]:
        refuse(name, str, "a name in config.run", path)
    for length in manifest["config"]["sweep"]["prompt_lengths"]:
        refuse(length, int, "a length in config.sweep.prompt_lengths", path)
    for name, case in manifest["config"]["cases"].items():
        refuse(case, dict, f"config.cases.{name}", path)
        for key, kind in OF_A_CASE.items():
            refuse(case.get(key), kind, f"config.cases.{name}.{key}", path, null=key in NULL)


def found(manifest: dict[str, Any], place: str) -> tuple[Any, bool]:
    """The value at a dotted place, and whether there is one."""
    value: Any = manifest
    for part in place.split("."):
        if not isinstance(value, dict) or part not in value:
            return None, False
        value = value[part]
    return value, True


def refuse(value: Any, kind: type, name: str, path: Path, *, null: bool = False) -> None:
    """Raises ValueError unless a value is of this type, or null where it may be; true is no number."""
    if (value is None and null) or (isinstance(value, kind) and (kind is bool or not isinstance(value, bool))):
        return
    raise ValueError(f"{path}: {name} is {str(value)[:40]!r}, not {WORDS[kind]}")
