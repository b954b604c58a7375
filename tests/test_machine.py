"""What only the machine can show: interpreters and checkpoint folders, refused before anything is made."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from harness.settings.machine import check_python
from tests.runs import begin


def test_this_python_passes():
    assert check_python("key", sys.executable) is None


@pytest.mark.parametrize("program", ["/bin/true", "/bin/echo"])
def test_what_only_exits_well_is_no_python(program):
    with pytest.raises(ValueError, match=rf"^cases\.x\.python={program} starts, but is no Python: give the path"):
        check_python("cases.x.python", program)


def test_a_python_that_is_too_old_is_named_with_its_version(tmp_path):
    old = tmp_path / "python"
    old.write_text("#!/bin/sh\necho python 3 9\n")
    old.chmod(0o755)
    with pytest.raises(ValueError, match=r"is Python 3\.9: 3\.11 or later is needed$"):
        check_python("cases.x.python", str(old))


FAULTS = [
    ({"num_attention_heads": 4, "num_key_value_heads": 3}, "num_attention_heads=4 is not divisible by num_key_value"),
    ({"num_attention_heads": 0}, "num_attention_heads must be a whole number from 1 to 100000000, not 0$"),
    ({"rope_scaling": "abc"}, "rope_scaling must be an object, not 'abc'"),
    ({"intermediate_size": 350}, r"down_proj.weight has shape \[128, 352\], config.json asks for \[128, 350\]"),
]


@pytest.mark.parametrize(("change", "sentence"), FAULTS, ids=lambda value: str(value)[:40])
def test_a_folder_that_does_not_fit_starts_nothing(tiny_checkpoint, tmp_path, change, sentence):
    folder, output, cache = tmp_path / "mine", tmp_path / "run", tmp_path / "cache"
    folder.mkdir()
    for path in Path(tiny_checkpoint).glob("*.safetensors"):
        (folder / path.name).symlink_to(path)
    config = json.loads((Path(tiny_checkpoint) / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | change))
    overrides = ("model=checkpoint", "model.dtype=float32", f"model.weights={folder}", f"cache={cache}")
    with pytest.raises(ValueError, match=sentence):
        begin(output, *overrides)
    assert not output.exists()
    assert not cache.exists()
    (folder / "config.json").write_text(json.dumps(config))
    assert begin(output, *overrides).folder == output
