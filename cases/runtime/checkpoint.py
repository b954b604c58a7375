"""Checkpoints in the Hugging Face layout: made from a seed, found in a folder, or fetched from the hub."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from cases.runtime.headers import check_folder, check_tensors, safetensors_files
from cases.runtime.shape import LlamaShape, shape_from

STD = 0.02
SHARD_BYTES = 2**30
DIGEST_FILE = "digest.json"
HASH_CHUNK = 2**24


def resolve(model: Mapping[str, Any], cache: Path, seed: int) -> tuple[Path, LlamaShape]:
    """The folder of the weights that `model` names, made or fetched if need be, and its shape.

    Raises:
        ValueError: one sentence on what is wrong with the folder, the repository or the configuration.
    """
    stated = shape_from(model)
    if model["weights"] == "random":
        if stated is None:
            raise ValueError("model.weights=random needs a shape: pick model=llama2_7b, or set every key of the model")
        made = make_random(stated, model["dtype"], seed, cache, str(model["name"]))
        check_tensors(made, stated)
        return made, stated
    folder = Path(model["weights"]).expanduser()
    if folder.is_file():
        raise ValueError(f"model.weights={folder} is a file: give the folder, with config.json and *.safetensors")
    if not folder.is_dir():
        folder = fetch(str(model["weights"]))
    return folder, check_folder(model, folder)


def fetch(repository: str) -> Path:
    """Download a repository of the hub (configuration, tokenizer, safetensors) into its own cache.

    Raises:
        ValueError: no folder and no repository of this name, no token for a gated one, or no network.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    try:
        patterns = ["*.json", "*.safetensors", "tokenizer.model*"]
        # Some repositories hold the weights a second time, in another program's layout.
        return Path(snapshot_download(repository, allow_patterns=patterns, ignore_patterns=["consolidated*"]))
    except GatedRepoError as error:
        raise ValueError(
            f"{repository} is gated: accept its licence on the hub and log in with `hf auth login` or set HF_TOKEN"
        ) from error
    except RepositoryNotFoundError as error:
        raise ValueError(
            f"model.weights={repository} is neither a folder here nor a repository that this token may see"
        ) from error
    except HFValidationError as error:
        raise ValueError(
            f"model.weights={repository} is neither `random`, nor a folder here, nor a repository id like org/name"
        ) from error
    except (LocalEntryNotFoundError, OSError) as error:
        raise ValueError(
            f"{repository} is not a folder here, and the hub can't be reached; give a local folder, or a machine with "
            f"network ({type(error).__name__})"
        ) from error


def make_random(shape: LlamaShape, dtype: str, seed: int, cache: Path, name: str) -> Path:
    """Make once, and then find, a checkpoint with every linear N(0, 0.02) and every norm 1.

    Each tensor has a generator of its own, seeded by `seed` and its name, so the bytes depend on nothing else.
    """
    key = hashlib.sha256(json.dumps([asdict(shape), dtype, seed, STD]).encode()).hexdigest()[:12]
    folder = cache / f"{name.lower()}-{dtype}-{key}"
    cache.mkdir(parents=True, exist_ok=True)
    with only_maker(folder):
        if (folder / DIGEST_FILE).is_file():
            return folder
        for left in cache.glob(f"{folder.name}.part*"):
            shutil.rmtree(left)  # nobody else makes it, so this is what a killed maker left
        part = folder.with_name(f"{folder.name}.part")
        part.mkdir()
        try:
            check_room(shape, dtype, part)
            write_shards(shape, dtype, seed, part)
            (part / "config.json").write_text(json.dumps(shape.to_config(dtype), indent=1), encoding="utf-8")
            found = digest(part)
            (part / DIGEST_FILE).write_text(json.dumps({"sha256": found}), encoding="utf-8")
            if folder.exists():
                shutil.rmtree(folder)
            part.rename(folder)
        finally:
            shutil.rmtree(part, ignore_errors=True)
    return folder


@contextmanager
def only_maker(folder: Path) -> Iterator[None]:
    """While it is entered, no other process makes this checkpoint; a lock that ends with its holder."""
    with folder.with_name(f".{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def check_room(shape: LlamaShape, dtype: str, folder: Path) -> None:
    """Refuse to fill the disk. Raises ValueError with the bytes needed and free."""
    embedding = 0 if shape.tie_word_embeddings else shape.head_parameters
    needed = shape.weight_bytes(dtype) + embedding * getattr(torch, dtype).itemsize
    free = shutil.disk_usage(folder).free
    if free < needed * 1.02:
        raise ValueError(
            f"the checkpoint needs {needed / 1e9:.1f} GB in {folder.parent}, where {free / 1e9:.1f} GB are free; "
            "set cache=... or LATENCY_CACHE to a larger disk"
        )


def shards(shape: LlamaShape, dtype: str) -> Iterator[dict[str, tuple[int, ...]]]:
    """Tensors grouped into files of about SHARD_BYTES."""
    size = getattr(torch, dtype).itemsize
    group: dict[str, tuple[int, ...]] = {}
    held = 0
    for name, dimensions in shape.tensors().items():
        group[name] = dimensions
        held += size * int(torch.Size(dimensions).numel())
        if held >= SHARD_BYTES:
            yield group
            group, held = {}, 0
    if group:
        yield group


def random_tensor(name: str, dimensions: tuple[int, ...], dtype: torch.dtype, seed: int) -> torch.Tensor:
    """One tensor of a random checkpoint."""
    if len(dimensions) == 1:
        return torch.ones(dimensions, dtype=dtype)
    own_seed = int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:8], "little") >> 1
    generator = torch.Generator().manual_seed(own_seed)
    return torch.empty(dimensions).normal_(0.0, STD, generator=generator).to(dtype)


def write_shards(shape: LlamaShape, dtype: str, seed: int, folder: Path) -> None:
    """Write all tensors and the index, several files at a time."""
    groups = list(shards(shape, dtype))
    names = [f"model-{number:05}-of-{len(groups):05}.safetensors" for number in range(1, len(groups) + 1)]

    def write(file: str, group: dict[str, tuple[int, ...]]) -> None:
        kind = getattr(torch, dtype)
        tensors = {name: random_tensor(name, size, kind, seed) for name, size in group.items()}
        save_file(tensors, folder / file, metadata={"format": "pt"})

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        list(pool.map(write, names, groups))
    total = sum((folder / file).stat().st_size for file in names)
    where = {name: file for file, group in zip(names, groups, strict=True) for name in group}
    index = {"metadata": {"total_size": total}, "weight_map": where}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=1), encoding="utf-8")


def digest(folder: Path, *, made: bool = False) -> str:
    """SHA-256 over names and SHA-256s of the weight files; of a checkpoint that was `made` here the one kept in it."""
    stored = folder / DIGEST_FILE
    if made and stored.is_file():
        return str(json.loads(stored.read_text(encoding="utf-8"))["sha256"])
    files = safetensors_files(folder)
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        sums = list(pool.map(file_digest, files))
    total = hashlib.sha256()
    for file, file_sum in zip(files, sums, strict=True):
        total.update(f"{file.name} {file_sum}\n".encode())
    return total.hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 of one file."""
    total = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while chunk := file.read(HASH_CHUNK):
            total.update(chunk)
    return total.hexdigest()
