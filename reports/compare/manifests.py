"""What two runs must share to be compared, and what else is worth knowing of them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from reports.machine import pinning_of, unkept
from reports.run import Run

ABSENT = "not stated"
KEPT = "kept on quick CPUs"
MATTERS = {
    "gpu.name": "GPU", "gpu.driver": "driver", "versions.torch": "torch", "versions.cuda": "CUDA",
    "model.digest": "digest of the weights", "model.dtype": "dtype", "protocol": "protocol",
    "prompt_digest": "digest of the prompts", "smoke": "smoke run",
}  # fmt: skip
"""Places in manifest.json that must be alike, and what they are called."""
WHERE_TOLD = {"gpu.power_limit_w": "power limit (W)"}
"""Places that must be alike where both runs have them: older ones don't, and then that is only said."""
SAMPLED = (
    "workload", "pause_ms", "warmup_iterations", "ttft_iterations", "p99_iterations", "prompt_lengths",
    "decode.prompt_length", "decode.context", "stream", "interference",
)  # fmt: skip
"""Keys of config.sweep that change what a sample is, or which are taken together."""
WORKLOAD_ONLY = ("stream", "interference")
ALSO = {
    "code_digest": "code", "versions.python": "Python", "versions.triton": "Triton",
    "versions.transformers": "Transformers", "versions.numpy": "NumPy", "config.seed": "seed",
    "config.sweep.blocks": "blocks a case",
}  # fmt: skip
"""Places that may differ, and are said: a change of the code or of a case is what one compares for."""
BEFORE: dict[str, Any] = {
    "model_code": "lean", "decode": "kv_cache", "logits": "last", "capture_set": "policy", "clock": "client",
    "warmup": "apart", "prompt": "random", "pinning": "none", "engine_check": True, "sampling.repetition_penalty": 1.0,
}  # fmt: skip
"""What every run did before a protocol had these keys. `rehearse` is not among them: what was done then depended on the
code, so a run that does not state it differs from one that does."""
OF_PROCEDURE = ("model_code", "decode", "logits")
"""Options of cases that are their procedure's unless someone set them."""
NO_OPTION = (
    *OF_PROCEDURE, "title", "expected", "procedure", "timeout_s", "python", "sampling", "blocks",
)  # fmt: skip


class Difference(NamedTuple):
    """One thing in which two runs differ; `matters` is whether that forbids to compare them."""

    what: str
    a: str
    b: str
    matters: bool

    def __str__(self) -> str:
        return f"{self.what} is {self.a} in A and {self.b} in B"


def differences(a: Run, b: Run) -> list[Difference]:
    """What differs, first what matters."""
    pairs = [(name, at(a.manifest, place), at(b.manifest, place), True) for place, name in MATTERS.items()]
    told = {place: [at(run.manifest, place) for run in (a, b)] for place in WHERE_TOLD}
    pairs += [(WHERE_TOLD[place], *found, ABSENT not in found) for place, found in told.items()]
    pairs += [(f"sweep.{key}", at(a.sweep, key), at(b.sweep, key), True) for key in sampled(a, b)]
    protocol = list(unlike("protocol", *(procedure_of(run.manifest["config"].get("protocol")) for run in (a, b))))
    pairs += [(*one, True) for one in protocol]
    same = [case for case in a.cases if case in b.cases]
    said = [(what.removeprefix("protocol"), old, new) for what, old, new in protocol]
    for case in same:
        own = f"cases.{case}.procedure"
        found = unlike(own, *(case_procedure(run, case) for run in (a, b)))
        pairs += [(*one, True) for one in found if (one[0].removeprefix(own), *one[1:]) not in said]
    pairs += [(name, at(a.manifest, place), at(b.manifest, place), False) for place, name in ALSO.items()]
    pairs += [(*one, True) for case in same for one in threads(a, b, case)]
    pairs += [(*one, False) for case in same for one in case_options(a, b, case)]
    pairs += [("CPU cores", a.cores or ABSENT, b.cores or ABSENT, False)]
    pairs += [("beside it", a.neighbours or "nothing", b.neighbours or "nothing", False)]
    return [Difference(what, text(old), text(new), matters) for what, old, new, matters in pairs if old != new]


def sampled(a: Run, b: Run) -> Iterator[str]:
    """The keys of the sweep that count for these runs' workloads."""
    workloads = {run.sweep.get("workload", "latency") for run in (a, b)}
    return (key for key in SAMPLED if key not in WORKLOAD_ONLY or key in workloads)


def procedure_of(stored: Mapping[str, Any] | None) -> dict[str, Any]:
    """A procedure by its leaves, early ones with what was done before a key had a name."""
    return {**BEFORE, **dict(leaves(stored or {}))}


def case_procedure(run: Run, case: str) -> dict[str, Any]:
    """The procedure of a case by its leaves: its own, else that of the run; and its sampling where that is its own."""
    entry = run.manifest["config"]["cases"][case]
    found = procedure_of(run.procedure(case) or run.manifest["config"].get("protocol"))
    found |= {key: entry[key] for key in OF_PROCEDURE if isinstance(entry.get(key), str)}
    return found | dict(leaves({"sampling": entry["sampling"]} if isinstance(entry.get("sampling"), dict) else {}))


def leaves(value: Mapping[str, Any], under: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted places and what stands there."""
    for key, one in value.items():
        if isinstance(one, Mapping):
            yield from leaves(one, f"{under}{key}.")
        else:
            yield f"{under}{key}", one


def case_options(a: Run, b: Run, case: str) -> Iterator[tuple[str, Any, Any]]:
    """Where the own keys of a case differ."""
    ours, theirs = (
        {key: value for key, value in run.manifest["config"]["cases"][case].items() if key not in NO_OPTION}
        for run in (a, b)
    )
    yield from unlike(f"cases.{case}", ours, theirs)


def threads(a: Run, b: Run, case: str) -> Iterator[tuple[str, str, str]]:
    """Where one procedure for both kept a case's threads on quick CPUs in one of the runs alone, or in part of it."""
    if case_procedure(a, case).get("pinning") == case_procedure(b, case).get("pinning"):
        ours, theirs = ({unkept(text) for text in pinning_of(run, case)} for run in (a, b))
        if ours and theirs and ours != theirs:
            told, other = ("; ".join(sorted(one or KEPT for one in whys)) for whys in (ours, theirs))
            yield f"cases.{case}, threads", told, other


def unlike(name: str, a: Any, b: Any) -> Iterator[tuple[str, Any, Any]]:
    """Every leaf in which two parts of a manifest differ; one that is missing is not stated."""
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        for key in dict.fromkeys([*a, *b]):
            yield from unlike(f"{name}.{key}", a.get(key, ABSENT), b.get(key, ABSENT))
    elif a != b:
        yield name, ABSENT if a is None else a, ABSENT if b is None else b


def at(value: Any, place: str) -> Any:
    """What stands at a dotted place, `not stated` where nothing or an empty text does."""
    for part in place.split("."):
        if not isinstance(value, Mapping) or value.get(part) in (None, ""):
            return ABSENT
        value = value[part]
    return value


def text(value: Any) -> str:
    """A value in a few words; a digest by its beginning."""
    if isinstance(value, str):
        return value[:12] if len(value) == 64 and " " not in value else value[:120]
    return json.dumps(value)[:120]
