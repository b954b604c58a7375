"""The only door to the stand-in for TensorRT-LLM: it is importable inside `stand_in(release)` and nowhere else."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent / "engines/tensorrt_llm_standin"
RELEASES = ("1.0.0", "1.1.0", "1.2.0")
RELEASE, BEHAVIOUR = "TENSORRT_LLM_STANDIN", "TENSORRT_LLM_STANDIN_BEHAVIOUR"


def forget() -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "tensorrt_llm"]:
        del sys.modules[name]


@contextmanager
def stand_in(release: str) -> Iterator[None]:
    """`import tensorrt_llm` gives the stand-in of this release, here and in processes started from here."""
    before = {name: os.environ.get(name) for name in (RELEASE, "PYTHONPATH", "TLLM_WORKER_USE_SINGLE_PROCESS")}
    forget()
    sys.path.insert(0, str(FOLDER))
    os.environ[RELEASE] = release
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(FOLDER), before["PYTHONPATH"]]))
    try:
        yield
    finally:
        sys.path.remove(str(FOLDER))
        forget()
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def act(monkeypatch: Any, **behaviour: Any) -> None:
    """Have the stand-in behave so from the next request on; keys as in its behaviour.py."""
    monkeypatch.setenv(BEHAVIOUR, json.dumps(behaviour))
