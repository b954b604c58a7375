"""The cases of conf/case and the fake, as the tests of the contract use them."""

from __future__ import annotations

import random
from array import array
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from harness.contract import Case, Plan, Sampling, Unavailable, Unsupported
from harness.ipc.client import RemoteCase
from harness.loader import load_case
from harness.settings.compose import compose_raw, to_config
from tests.standin import RELEASES, stand_in

ROOT = Path(__file__).resolve().parent.parent
VOCABULARY = 1024
CONTEXT = 96
FORCED = 5
TRANSPORTS = ("inproc", "unix")


class Entry(NamedTuple):
    """A case as its yaml describes it, with the options that a CPU needs; `release`: over the engine's stand-in."""

    name: str
    target: str
    options: dict[str, Any]
    release: str = ""

    def plan(self, checkpoint: str, sampling: Sampling | None = None) -> Plan:
        device: Any = "cuda" if self.release else "cpu"
        return Plan(self.name, checkpoint, device, "float32", CONTEXT, sampling or Sampling(), self.options)

    def there(self) -> AbstractContextManager[None]:
        """While it is entered, the engine's package can be imported."""
        return stand_in(self.release) if self.release else nullcontext()

    def new(self, transport: str) -> Case:
        return RemoteCase(self.target) if transport == "unix" else load_case(self.target)()


def read_entry(path: Path) -> Entry:
    """The case as a run composes it, whether the defaults name it or not."""
    name = path.stem
    case = DEFAULTS.get(name) or to_config(compose_raw([f"+case@cases.{name}={name}"])).cases[name]
    options = dict(case.options)
    if "jit" in options:
        options["jit"] = {**options["jit"], "backend": "torchscript"}
    return Entry(name, case.target, options)


DEFAULTS = to_config(compose_raw([])).cases
FAKE = Entry("fake", "tests.fakes.FakeCase", {})
CONFIGURED = [read_entry(path) for path in sorted((ROOT / "conf/case").glob("*.yaml"))]
ABSENT = [entry for entry in CONFIGURED if entry.name in ("tensorrt_llm", "vllm", "vllm_covering")]
STOOD_IN = [
    entry._replace(name=f"{entry.name}-{release}", release=release, options={**entry.options, "worker": "single"})
    for entry in ABSENT
    if entry.name == "tensorrt_llm"
    for release in RELEASES
]
PRESENT = [FAKE, *(entry for entry in CONFIGURED if entry not in ABSENT), *STOOD_IN]
EVERY = [*PRESENT, *ABSENT]
REFUSALS = (Unavailable, Unsupported, RuntimeError, ValueError, OSError)


def by_name(entries: list[Entry]) -> list[Any]:
    return [pytest.param(entry, id=entry.name) for entry in entries]


def over_transports(entries: list[Entry]) -> list[Any]:
    pairs = [(entry, transport) for entry in entries for transport in TRANSPORTS]
    return [pytest.param(pair, id=f"{pair[0].name}-{pair[1]}") for pair in pairs]


def prompt(length: int, seed: int = 0) -> list[int]:
    return random.Random(f"{length} {seed}").choices(range(VOCABULARY), k=length)


def generate(case: Case, ids: list[int], new_tokens: int) -> list[int]:
    return [case.prefill(ids, new_tokens), *(case.decode() for _ in range(new_tokens - 1))]


def likeliest(row: array[float]) -> int:
    return max(range(len(row)), key=row.__getitem__)


def is_token(token: object) -> bool:
    return type(token) is int and 0 <= token < VOCABULARY
