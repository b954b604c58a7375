"""What several tests share: a tiny random checkpoint, made once a session."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def tiny_model() -> dict[str, object]:
    """conf/model/tiny.yaml."""
    return yaml.safe_load((ROOT / "conf/model/tiny.yaml").read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory, tiny_model) -> str:
    """Folder of a random tiny Llama: vocabulary 1024, 2 layers, float32, grouped-query attention."""
    from cases.runtime.checkpoint import resolve

    return str(resolve(tiny_model, tmp_path_factory.mktemp("checkpoints"), seed=7)[0])
