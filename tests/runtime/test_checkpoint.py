"""Checkpoints: made from a seed, read as others wrote them, and refused in one sentence."""

from __future__ import annotations

import json
import shutil
from collections import namedtuple
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from huggingface_hub import errors
from safetensors.torch import load_file, save_file

from cases.runtime import checkpoint
from cases.runtime.checkpoint import digest, make_random, resolve
from cases.runtime.shape import LlamaShape, read_shape, shape_from
from cases.runtime.weights import load_weights
from tests.runtime.llamas import tiny_shape

Usage = namedtuple("Usage", ["total", "used", "free"])
Change = Callable[[dict[str, torch.Tensor]], object]


def model(shape: LlamaShape | None = None, **more: Any) -> dict[str, Any]:
    """A model's configuration as it reaches `resolve`."""
    return {"name": "Small", "weights": "random", "dtype": "float32", **asdict(shape or tiny_shape()), **more}


NO_SHAPE = {**dict.fromkeys(asdict(tiny_shape())), "name": "checkpoint", "dtype": "float32"}


@pytest.fixture
def made(tmp_path) -> Path:
    return make_random(tiny_shape(), "float32", 3, tmp_path / "cache", "Small")


def read(folder: Path) -> None:
    shape = read_shape(folder)
    load_weights(folder, shape, torch.float32, "cpu")


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in sorted(folder.iterdir())}


def visible(cache: Path) -> list[str]:
    """What lies in a cache folder, locks apart."""
    return sorted(path.name for path in cache.iterdir() if not path.name.startswith("."))


def test_the_same_seed_makes_the_same_bytes_in_any_cache(made, tmp_path):
    again = make_random(tiny_shape(), "float32", 3, tmp_path / "other", "Small")
    assert again != made
    assert digest(again) == digest(made)
    assert {name: data for name, (data, _) in contents(again).items()} == {
        name: data for name, (data, _) in contents(made).items()
    }


@pytest.mark.parametrize("change", [{"seed": 4}, {"dtype": "bfloat16"}, {"shape": tiny_shape(vocab_size=41)}])
def test_another_seed_dtype_or_shape_is_another_checkpoint(made, tmp_path, change):
    arguments = {"shape": tiny_shape(), "dtype": "float32", "seed": 3, "cache": tmp_path / "cache", "name": "Small"}
    other = make_random(**arguments | change)
    assert other != made
    assert digest(other) != digest(made)


def test_a_second_call_writes_nothing(made, tmp_path):
    before = contents(made)
    assert make_random(tiny_shape(), "float32", 3, tmp_path / "cache", "Small") == made
    assert contents(made) == before


def test_an_unfinished_checkpoint_is_made_anew(made, tmp_path):
    whole = contents(made)
    (made / checkpoint.DIGEST_FILE).unlink()
    next(made.glob("*.safetensors")).write_bytes(b"half")
    assert make_random(tiny_shape(), "float32", 3, tmp_path / "cache", "Small") == made
    assert {name: data for name, (data, _) in contents(made).items()} == {
        name: data for name, (data, _) in whole.items()
    }
    assert visible(made.parent) == [made.name]


def test_linears_are_normal_with_the_stated_deviation_and_norms_are_one(tmp_path):
    shape = tiny_shape(vocab_size=4000, hidden_size=64, intermediate_size=128)
    folder = make_random(shape, "float32", 3, tmp_path, "small")
    weights = load_weights(folder, shape, torch.float32, "cpu")
    assert weights.embedding.mean().abs() < 5e-4
    torch.testing.assert_close(weights.embedding.std(), torch.tensor(0.02), atol=2e-4, rtol=0)
    assert torch.equal(weights.layers[0].mlp_norm, torch.ones(64))
    assert not torch.equal(weights.layers[0].qkv, weights.layers[1].qkv)


def test_shards_hold_every_tensor_once_and_how_many_there_are_changes_no_weight(made, tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "SHARD_BYTES", 2000)
    sharded = make_random(tiny_shape(), "float32", 3, tmp_path / "sharded", "Small")
    files = sorted(sharded.glob("*.safetensors"))
    assert len(files) > 2
    index = json.loads((sharded / "model.safetensors.index.json").read_text())["weight_map"]
    found = {name: file.name for file in files for name in load_file(file)}
    assert index == found
    assert found.keys() == tiny_shape().tensors().keys()
    one, other = (load_weights(folder, tiny_shape(), torch.float32, "cpu") for folder in (made, sharded))
    assert torch.equal(one.layers[1].gate_up, other.layers[1].gate_up)
    assert torch.equal(one.head, other.head)


def test_a_tied_checkpoint_stores_no_head(tmp_path):
    shape = tiny_shape(tie_word_embeddings=True)
    folder = make_random(shape, "float32", 3, tmp_path, "tied")
    weights = load_weights(folder, shape, torch.float32, "cpu")
    assert weights.head is weights.embedding
    assert "lm_head.weight" not in {name for file in folder.glob("*.safetensors") for name in load_file(file)}


def test_queries_keys_and_values_are_packed_in_this_order(made):
    stored = {name: tensor for file in made.glob("*.safetensors") for name, tensor in load_file(file).items()}
    weights = load_weights(made, tiny_shape(), torch.float32, "cpu")
    prefix = "model.layers.1."
    parts = [stored[f"{prefix}self_attn.{part}_proj.weight"] for part in "qkv"]
    assert torch.equal(weights.layers[1].qkv, torch.cat(parts))
    parts = [stored[f"{prefix}mlp.{part}_proj.weight"] for part in ("gate", "up")]
    assert torch.equal(weights.layers[1].gate_up, torch.cat(parts))


def test_weights_are_converted_to_the_dtype_asked_for(made):
    weights = load_weights(made, tiny_shape(), torch.bfloat16, "cpu")
    assert weights.layers[0].out.dtype == torch.bfloat16
    exact = load_weights(made, tiny_shape(), torch.float32, "cpu")
    assert torch.equal(weights.layers[0].out, exact.layers[0].out.bfloat16())


def test_a_full_disk_is_refused_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**9, 10**9, 10_000))
    with pytest.raises(ValueError, match=r"^the checkpoint needs 0\.0 GB in .*, where 0\.0 GB are free; set cache="):
        make_random(tiny_shape(), "float32", 3, tmp_path / "cache", "Small")
    assert visible(tmp_path / "cache") == []


@pytest.mark.parametrize("tied", [False, True])
def test_the_room_asked_for_is_what_the_files_take(tmp_path, monkeypatch, tied):
    shape = tiny_shape(tie_word_embeddings=tied)
    folder = make_random(shape, "float32", 3, tmp_path / "first", "small")
    data = sum(4 * tensor.numel() for file in folder.glob("*.safetensors") for tensor in load_file(file).values())
    for free, enough in ((int(data * 1.03), True), (data - 1, False)):
        monkeypatch.setattr(shutil, "disk_usage", lambda path, free=free: Usage(10**9, 0, free))
        if enough:
            make_random(shape, "float32", 3, tmp_path / "enough", "small")
        else:
            with pytest.raises(ValueError, match="the checkpoint needs"):
                make_random(shape, "float32", 3, tmp_path / "full", "small")


def edit(folder: Path, change: Change) -> None:
    """Change the tensors of a checkpoint of one file."""
    (path,) = folder.glob("*.safetensors")
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (None, "has no config.json: give a folder in the Hugging Face layout"),
        ("{not json", r"config.json is not JSON \("),
        ("[]", "holds no JSON object: it is no Llama-like model's configuration"),
        ("[1]", "holds no JSON object: it is no Llama-like model's configuration"),
        ("{}", "lacks vocab_size, hidden_size"),
    ],
)
def test_a_folder_without_a_usable_configuration_is_refused(made, text, sentence):
    (made / "config.json").unlink()
    if text is not None:
        (made / "config.json").write_text(text)
    with pytest.raises(ValueError, match=sentence):
        resolve(NO_SHAPE | {"weights": str(made)}, made.parent, 3)


def test_a_folder_is_taken_as_it_is_or_held_against_the_configuration(made, tmp_path):
    assert resolve(NO_SHAPE | {"weights": str(made)}, tmp_path, 3) == (made, tiny_shape())
    assert resolve(model(weights=str(made)), tmp_path, 3) == (made, tiny_shape())
    sentence = "is not Small: vocab_size 41 in the configuration, 40 in the checkpoint; use model=checkpoint"
    with pytest.raises(ValueError, match=sentence):
        resolve(model(tiny_shape(vocab_size=41), weights=str(made)), tmp_path, 3)


def test_a_shape_is_given_whole_or_not_at_all(tmp_path):
    assert shape_from(model()) == tiny_shape()
    assert shape_from(NO_SHAPE) is None
    with pytest.raises(ValueError, match=r"model\.head_dim is null: give every key of the shape, or none"):
        resolve(model(head_dim=None), tmp_path, 3)
    with pytest.raises(ValueError, match=r"model\.weights=random needs a shape"):
        resolve(NO_SHAPE | {"weights": "random"}, tmp_path, 3)


HUB_FAULTS: dict[str, tuple[type[Exception], str]] = {
    "unknown": (errors.RepositoryNotFoundError, "neither a folder here nor a repository that this token may see"),
    "gated": (errors.GatedRepoError, "is gated: accept its licence on the hub and log in"),
    "no id": (errors.HFValidationError, "neither `random`, nor a folder here, nor a repository id like org/name"),
    "offline": (errors.LocalEntryNotFoundError, r"the hub can't be reached; .* \(LocalEntryNotFoundError\)"),
    "network": (OSError, r"the hub can't be reached; .* \(OSError\)"),
}


@pytest.mark.parametrize(("error", "sentence"), HUB_FAULTS.values(), ids=HUB_FAULTS.keys())
def test_every_answer_of_the_hub_is_one_sentence(monkeypatch, tmp_path, error, sentence):
    raised = error.__new__(error)

    def refuse(repository: str, **rest: Any) -> str:
        assert repository == "some/where"
        raise raised

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    with pytest.raises(ValueError, match=sentence) as found:
        resolve(NO_SHAPE | {"weights": "some/where"}, tmp_path, 3)
    assert "some/where" in str(found.value)
    assert "\n" not in str(found.value)


@pytest.mark.parametrize("name", ["/nowhere/else", "two words", "a/b/c"])
def test_what_can_be_no_repository_is_refused_without_network(tmp_path, name):
    with pytest.raises(ValueError, match=rf"^model\.weights={name} is neither `random`, nor a folder here, nor"):
        resolve(NO_SHAPE | {"weights": name}, tmp_path, 3)


def test_what_the_hub_gives_is_read_like_a_folder(monkeypatch, made, tmp_path):
    asked: list[Any] = []
    monkeypatch.setattr(
        huggingface_hub, "snapshot_download", lambda *name, **rest: asked.append((name, rest)) or str(made)
    )
    assert resolve(NO_SHAPE | {"weights": "some/where"}, tmp_path, 3) == (made, tiny_shape())
    ((name, rest),) = asked
    assert name == ("some/where",)
    assert "*.safetensors" in rest["allow_patterns"]
    assert not any(pattern.endswith((".bin", ".pt")) for pattern in rest["allow_patterns"])


def test_the_digest_of_a_users_folder_is_of_its_files_and_nothing_is_written_there(made):
    users = made.with_name("users")
    shutil.copytree(made, users)
    (users / checkpoint.DIGEST_FILE).write_text('{"sha256": "whatever somebody wrote"}')
    before = contents(users)
    assert digest(users) == digest(made)
    assert contents(users) == before
    edit(users, lambda tensors: tensors["model.norm.weight"].fill_(2.0))
    assert digest(users) != digest(made)


def test_what_a_killed_maker_left_is_removed_and_a_living_ones_is_waited_for(tmp_path):
    folder = make_random(tiny_shape(), "float32", 1, tmp_path, "small")
    shutil.rmtree(folder)
    left = [tmp_path / f"{folder.name}{end}" for end in (".part", ".part-77")]
    for path in left:
        path.mkdir()
    with ThreadPoolExecutor(4) as pool:
        made = set(pool.map(lambda _: make_random(tiny_shape(), "float32", 1, tmp_path, "small"), range(4)))
    assert made == {folder}
    assert visible(tmp_path) == [folder.name]
