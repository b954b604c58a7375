"""Checkpoints from elsewhere: what is damaged, hostile or code is refused by name, before anything is made of it."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from cases.baseline import Baseline
from cases.runtime import provision, weights
from cases.runtime.checkpoint import make_random, resolve
from cases.runtime.serve.text import Text
from cases.runtime.shape import read_shape
from cases.runtime.transformers_model import load_model
from cases.runtime.weights import load_weights
from cases.stand_in import StandIn
from cases.transformers_compile import TransformersCompile
from tests.runtime.llamas import plan, tiny_shape
from tests.runtime.test_checkpoint import NO_SHAPE, edit

OUT = "model.layers.1.self_attn.o_proj.weight"
Spoil = Callable[[Path], object]


@pytest.fixture
def made(tmp_path) -> Path:
    return make_random(tiny_shape(), "float32", 3, tmp_path / "cache", "Small")


def taken(folder: Path) -> Any:
    return resolve(NO_SHAPE | {"weights": str(folder)}, folder.parent, 3)


def header(change: Callable[[dict[str, Any]], object]) -> Spoil:
    """Rewrite the header of the weight file; its data stay."""

    def spoil(folder: Path) -> None:
        (path,) = folder.glob("*.safetensors")
        data = path.read_bytes()
        (size,) = struct.unpack("<Q", data[:8])
        stored = json.loads(data[8 : 8 + size])
        text = change(stored)
        packed = (text if isinstance(text, str) else json.dumps(stored)).encode()
        path.write_bytes(struct.pack("<Q", len(packed)) + packed + data[8 + size :])

    return spoil


def length(value: int) -> Spoil:
    """Another length of the header."""

    def spoil(folder: Path) -> None:
        (path,) = folder.glob("*.safetensors")
        path.write_bytes(struct.pack("<Q", value) + path.read_bytes()[8:])

    return spoil


def twice(stored: dict[str, Any]) -> str:
    """The header with one key twice."""
    text = json.dumps(stored)
    return text[:-1] + f', "{OUT}": ' + json.dumps(stored[OUT]) + "}"


def config(**changes: Any) -> Spoil:
    def spoil(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return spoil


def index(text: str) -> Spoil:
    return lambda folder: (folder / "model.safetensors.index.json").write_text(text)


def tensors(change: Callable[[dict[str, torch.Tensor]], object]) -> Spoil:
    return lambda folder: edit(folder, change)


def outside(folder: Path) -> None:
    """An index that points at a file beside the folder, which is there."""
    (path,) = folder.glob("*.safetensors")
    path.rename(folder.parent / "elsewhere.safetensors")
    save_file({"a": torch.zeros(1)}, folder / "decoy.safetensors")
    index(json.dumps({"weight_map": {OUT: "../elsewhere.safetensors"}}))(folder)


def doubled(folder: Path) -> None:
    """One tensor in two files."""
    (folder / "model.safetensors.index.json").unlink()
    save_file({OUT: torch.zeros(16, 16)}, folder / "zz.safetensors")


def named(suffix: str) -> Spoil:
    """The weights under another layout's name, with a program inside for whoever opens it."""

    def spoil(folder: Path) -> None:
        for path in folder.glob("*.safetensors"):
            path.unlink()
        (folder / "model.safetensors.index.json").unlink()
        (folder / f"pytorch_model{suffix}").write_bytes(b"cos\nsystem\n(S'touch opened'\ntR.")

    return spoil


DAMAGED = r"is damaged or no safetensors file \(.+\)"
FAULTS: dict[str, tuple[Spoil, str]] = {
    "offsets beyond the file": (header(lambda h: h[OUT].update(data_offsets=[0, 10**12])), DAMAGED),
    "offsets that overlap": (header(lambda h: h[OUT].update(data_offsets=[0, 1024])), DAMAGED),
    "offsets below 0": (header(lambda h: h[OUT].update(data_offsets=[-1024, 0])), DAMAGED),
    "a header of 2^60 bytes": (length(2**60), DAMAGED),
    "a header of no bytes": (length(0), DAMAGED),
    "a shape that overflows": (header(lambda h: h[OUT].update(shape=[2**62, 2**62])), DAMAGED),
    "a shape that does not fill its bytes": (header(lambda h: h[OUT].update(shape=[16, 17])), DAMAGED),
    "whole numbers for weights": (
        tensors(lambda t: t.update({OUT: torch.zeros(16, 16, dtype=torch.int8)})), rf"{OUT} is stored as I8, and",
    ),
    "float64 for weights": (
        tensors(lambda t: t.update({OUT: torch.zeros(16, 16, dtype=torch.float64)})), rf"{OUT} is stored as F64, and",
    ),
    "an unknown dtype": (header(lambda h: h[OUT].update(dtype="PICKLE")), DAMAGED),
    "a tensor in two files": (doubled, rf"zz.safetensors: {OUT} is in another file of the checkpoint too"),
    "an index that points outside": (outside, r"lacks \.\./elsewhere.safetensors, which"),
    "an index nested 200,000 deep": (index("[" * 200_000), "index.json is damaged"),
    "an index of another type": (index('{"weight_map": 5}'), "index.json is damaged"),
    **{
        f"pytorch_model{end} alone": (named(end), rf"\(pytorch_model{end} is none, and is not opened\): convert")
        for end in (".bin", ".pt", ".pkl", ".gguf")
    },
    "auto_map in config.json": (config(auto_map={"AutoModel": "m.M"}), "config.json: auto_map asks for code"),
    "trust_remote_code in config.json": (config(trust_remote_code=True), "trust_remote_code asks for code"),
    "a size below 0": (config(hidden_size=-16), "hidden_size must be a whole number from 1 to"),
    "a size beyond all": (config(vocab_size=10**15), "vocab_size must be a whole number from 1 to"),
    "100 million layers": (config(num_hidden_layers=10**8), "num_hidden_layers=100000000 is above 1000"),
    "a size of a million digits": (
        lambda folder: (folder / "config.json").write_text('{"vocab_size": ' + "9" * 1_000_000 + "}"), "is not JSON",
    ),
    "config.json nested 200,000 deep": (
        lambda folder: (folder / "config.json").write_text("[" * 200_000), "config.json is nested too deeply",
    ),
    "another vocabulary": (config(vocab_size=41), r"has shape \[40, 16\], config.json asks for \[41, 16\]"),
    "quantised weights": (config(quantization_config={"quant_method": "awq"}), "quantization_config is not supported"),
    "an adapter to another model": (
        lambda folder: (folder / "adapter_config.json").write_text("{}"), "so it is an adapter to another model",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", FAULTS)
def test_what_is_no_checkpoint_is_refused_by_name(made, fault, kind, monkeypatch):
    """Before anything is allocated: of torch nothing is called."""
    row = fault("Checkpoint", kind)
    spoil, sentence = FAULTS[kind]
    spoil(made)
    monkeypatch.chdir(made)
    monkeypatch.setattr(torch, "empty", lambda *_: pytest.fail("allocated"))
    with pytest.raises(ValueError, match=sentence) as found:
        taken(made)
    assert "\n" not in str(found.value)
    assert len(str(found.value)) < 500 + 2 * len(str(made))
    assert not (made / "opened").exists()
    row.happened("refused in one sentence with the file, tensor or key, before anything is allocated")


def test_one_key_twice_in_a_header_does_not_pass_unseen(made, fault):
    """The library takes the last one; the bytes of both are the same tensor's, so nothing else is read."""
    row = fault("Checkpoint", "a tensor twice in one header")
    before = load_weights(made, tiny_shape(), torch.float32, "cpu").layers[1].out.clone()
    header(twice)(made)
    with suppress(ValueError):
        taken(made)
        assert torch.equal(load_weights(made, tiny_shape(), torch.float32, "cpu").layers[1].out, before)
    row.happened("the tensor's own bytes are read, or the file is refused as damaged")


def test_a_weight_file_itself_is_no_folder(made, fault):
    row = fault("Checkpoint", "model.weights names a file")
    (path,) = made.glob("*.safetensors")
    for file in (path, made / "config.json"):
        with pytest.raises(ValueError, match="is a file: give the folder, with config"):
            taken(file)
    row.happened("refused in one sentence", times=2)


def flawed(made: Path, value: float) -> None:
    """One element of one tensor."""
    edit(made, lambda stored: stored[OUT].__setitem__((3, 5), value))


@pytest.mark.parametrize(("value", "dtype"), [
    (float("nan"), "float32"), (float("inf"), "float32"), (float("-inf"), "float32"), (1e30, "float16"),
])  # fmt: skip
def test_a_tensor_that_is_not_finite_is_named(made, fault, value, dtype, tiny_model, tmp_path, monkeypatch):
    """By the preparation, so for every engine, and by our own loader, which a server by hand uses alone."""
    row = fault("Checkpoint", f"{value} in a tensor, computed in {dtype}")
    flawed(made, value)
    sentence = rf"model-00001-of-00001.safetensors: {OUT} holds NaN or infinity in {dtype}: copy or convert"
    monkeypatch.setattr(provision, "digest", lambda *_, **__: pytest.fail("went on"))
    spec = {
        "model": NO_SHAPE | {"weights": str(made), "dtype": dtype},
        "device": "cpu",
        "cache": str(tmp_path),
        "seed": 7,
    }
    with pytest.raises(ValueError, match=sentence):
        provision.provision(spec, lambda stage, detail: None)
    with pytest.raises(ValueError, match=sentence):
        load_weights(made, read_shape(made), getattr(torch, dtype), "cpu")
    row.happened("refused with the tensor's name by the preparation and by the loader", times=2)


def test_random_weights_are_not_read_twice(tiny_model, tmp_path, monkeypatch):
    monkeypatch.setattr(provision, "check_finite", lambda *_: pytest.fail("read"))
    monkeypatch.setattr(provision, "calibrate", lambda device, dtype: {})
    spec = {"model": tiny_model, "device": "cpu", "cache": str(tmp_path), "seed": 7}
    provision.provision(spec, lambda stage, detail: None)


MODULE = "import pathlib\npathlib.Path({marker!r}).write_text('ran')\n"


def with_code(folder: Path) -> Path:
    """A folder whose configuration and tokenizer ask for Python files that are there; returns what they would write."""
    marker = folder.parent / "ran"
    for name in ("modeling_x", "configuration_x", "tokenization_x", "conftest", "__init__"):
        (folder / f"{name}.py").write_text(MODULE.format(marker=str(marker)) + "class X: pass\n")
    auto = {"AutoConfig": "configuration_x.X", "AutoModelForCausalLM": "modeling_x.X", "AutoModel": "modeling_x.X"}
    config(auto_map=auto, trust_remote_code=True)(folder)
    told = {"auto_map": {"AutoTokenizer": ["tokenization_x.X", None]}, "tokenizer_class": "X"}
    (folder / "tokenizer_config.json").write_text(json.dumps(told))
    return marker


def stopped(*_: Any) -> int:
    raise ValueError("compiles no code here")


@pytest.mark.parametrize("case", [Baseline, StandIn, TransformersCompile])
def test_code_beside_the_weights_is_never_run(made, fault, case, monkeypatch):
    """Nor is it asked on the terminal whether it should be, which Transformers does unless it is told."""
    row = fault("Checkpoint", f"code beside the weights, and {case.__name__}")
    marker = with_code(made)
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked on the terminal"))
    monkeypatch.setattr(os, "environ", os.environ.copy() | {"HF_HUB_OFFLINE": "1"})
    monkeypatch.setattr(TransformersCompile, "prefill", stopped)  # behind its loading: what it compiles is no part
    one = case()
    with closing(one), suppress(ValueError):
        one.prepare(plan(made, compile_mode="default"))
    with pytest.raises(ValueError, match="auto_map asks for code that came with the weights, which is never run"):
        taken(made)
    assert not marker.exists()
    row.happened("never imported; a run refuses the folder by the key auto_map")


def test_code_of_a_tokenizer_is_never_run(made, fault, monkeypatch):
    row = fault("Checkpoint", "code beside the tokenizer")
    marker = with_code(made)
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked on the terminal"))
    with pytest.raises((ValueError, OSError)):
        Text(made)
    assert not marker.exists()
    row.happened("never imported; the tokenizer is refused")


def test_nothing_trusts_remote_code(made, monkeypatch):
    """What each engine and Transformers are told."""
    from cases import vllm_engine
    from cases.tensorrt import versions

    seen: list[Any] = []
    monkeypatch.setattr(
        "transformers.AutoModelForCausalLM.from_pretrained",
        lambda *_, **more: seen.append(more) or pytest.skip.Exception,
    )
    with pytest.raises((TypeError, AttributeError, ValueError)):
        load_model(made, "float32", "cpu")
    assert seen[0]["trust_remote_code"] is False
    assert seen[0]["use_safetensors"] is True
    options = {"memory_fraction": 0.9, "max_num_seqs": None, "async_scheduling": None}
    options |= {"capture_sizes": None, "cudagraph_mode": None}
    assert vllm_engine.arguments(plan(made, **options))["trust_remote_code"] is False
    options = {"overlap_scheduler": True, "early_first_token": False, "worker": "auto", "memory_fraction": 0.9}
    version = versions.Version("1.2.0", (1, 2, 0))
    assert versions.llm_arguments(plan(made, **options), version)["trust_remote_code"] is False


def test_the_loader_checks_each_tensor_once(made, monkeypatch):
    checked: list[str] = []
    monkeypatch.setattr(weights, "refuse_infinite", lambda tensor, name, path: checked.append(name))
    load_weights(made, tiny_shape(), torch.float32, "cpu")
    (path,) = made.glob("*.safetensors")
    assert sorted(checked) == sorted(load_file(path))
