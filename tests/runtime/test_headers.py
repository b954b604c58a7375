"""Headers of weight files, held against config.json: what does not fit is named in one sentence."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from cases.runtime.checkpoint import make_random, resolve
from tests.runtime.llamas import tiny_shape
from tests.runtime.test_checkpoint import NO_SHAPE, Change, edit, model, read


@pytest.fixture
def made(tmp_path) -> Path:
    return make_random(tiny_shape(), "float32", 3, tmp_path / "cache", "Small")


OUT = "model.layers.1.self_attn.o_proj.weight"
BIAS = "model.layers.0.self_attn.q_proj.bias"
TENSOR_FAULTS: dict[str, tuple[Change, str]] = {
    "missing": (lambda tensors: tensors.pop(OUT), rf"lacks tensors: {re.escape(OUT)}$"),
    "five missing": (
        lambda tensors: [tensors.pop(name) for name in sorted(tensors)[:5]],
        r"lacks tensors: \S+, \S+, \S+ and 2 more$",
    ),
    "extra": (lambda tensors: tensors.update({BIAS: torch.zeros(16)}), rf"has unknown tensors: {re.escape(BIAS)}$"),
    "wrong shape": (
        lambda tensors: tensors.update({OUT: torch.zeros(16, 8)}),
        rf"{re.escape(OUT)} has shape \[16, 8\], config.json asks for \[16, 16\]$",
    ),
    "another vocabulary": (
        lambda tensors: tensors.update({"lm_head.weight": torch.zeros(39, 16)}),
        r"lm_head.weight has shape \[39, 16\], config.json asks for \[40, 16\]$",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("change", "sentence"), TENSOR_FAULTS.values(), ids=TENSOR_FAULTS.keys())
def test_tensors_that_do_not_fit_are_named(made, change, sentence):
    edit(made, change)
    with pytest.raises(ValueError, match=sentence):
        read(made)
    with pytest.raises(ValueError, match=sentence):
        resolve(NO_SHAPE | {"weights": str(made)}, made.parent, 3)
    with pytest.raises(ValueError, match=sentence):  # the same folder, found in the cache
        resolve(model(), made.parent, 3)


@pytest.mark.parametrize("data", [b"", b"half", b"\xff" * 64, None], ids=["empty", "short", "no header", "cut off"])
def test_a_damaged_file_is_named_in_one_sentence(made, data):
    (path,) = made.glob("*.safetensors")
    path.write_bytes(path.read_bytes()[:-8] if data is None else data)
    sentence = rf"^{re.escape(str(path))} is damaged or no safetensors file \(.+\): copy or download it again$"
    for weights in (str(made), "random"):
        with pytest.raises(ValueError, match=sentence):
            resolve(model(weights=weights), made.parent, 3)


def test_copies_in_another_layout_are_not_read(made):
    """Some repositories hold the same weights twice, under the names of another program."""
    save_file({"tok_embeddings.weight": torch.zeros(40, 16)}, made / "consolidated.safetensors")
    read(made)
    assert resolve(NO_SHAPE | {"weights": str(made)}, made.parent, 3)[1] == tiny_shape()
    (name,) = [path.name for path in made.glob("model-*.safetensors")]
    (made / name).rename(made / "model.safetensors")
    read(made)
    (made / "model.safetensors").rename(made / "other.safetensors")
    with pytest.raises(ValueError, match=rf"lacks {name}, which model.safetensors.index.json names: copy or download"):
        read(made)


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"weight_map": []}'])
def test_a_damaged_index_is_one_sentence(made, text):
    (made / "model.safetensors.index.json").write_text(text)
    with pytest.raises(ValueError, match=r"index\.json is damaged, it has no weight_map: copy or download it again$"):
        read(made)


def test_a_folder_is_checked_without_torch(made):
    code = (
        "import sys; from pathlib import Path; from cases.runtime.headers import check_folder;"
        f"check_folder({NO_SHAPE!r}, Path({str(made)!r})); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_the_constants_of_old_exports_are_no_fault(made):
    edit(made, lambda tensors: tensors.update({"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}))
    read(made)


def test_a_tied_model_may_come_with_a_head(tmp_path):
    """Some exports store it although it is the embedding."""
    shape = tiny_shape(tie_word_embeddings=True)
    folder = make_random(shape, "float32", 3, tmp_path, "tied")
    edit(folder, lambda tensors: tensors.update({"lm_head.weight": tensors["model.embed_tokens.weight"].clone()}))
    read(folder)


def test_no_safetensors_file_is_refused(made):
    next(made.glob("*.safetensors")).rename(made / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"holds no \*\.safetensors file \(pytorch_model\.bin is none, and is"):
        read(made)


@pytest.mark.parametrize("kind", ["a pipe", "a folder", "a link to itself", "a device without end"])
def test_weights_that_are_no_file_are_refused_and_not_waited_for(made, kind, fault):
    tried = fault("Checkpoint", f"{kind} in place of the weights")
    (path,) = made.glob("*.safetensors")
    path.unlink()
    make = {"a pipe": os.mkfifo, "a folder": os.mkdir, "a link to itself": lambda at: at.symlink_to(at.name),
            "a device without end": lambda at: at.symlink_to("/dev/zero")}  # fmt: skip
    make[kind](path)
    with pytest.raises(ValueError, match=f"{path.name} is no file"):
        resolve(NO_SHAPE | {"weights": str(made)}, made.parent, 3)
    tried.happened("refused in one sentence with the file; nothing waits for it")
