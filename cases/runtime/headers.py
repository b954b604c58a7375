"""Names and shapes of a checkpoint's tensors, from the headers of its files: nothing is loaded, torch is not needed.

So a folder that does not fit is refused before anything starts, whichever engine would have read it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from cases.runtime.shape import LlamaShape, differences, read_shape, shape_from

INDEX = "model.safetensors.index.json"
DTYPES = ("F16", "BF16", "F32")
"""What weights may be stored as, by the names of safetensors; others are quantised, or no weights."""
OTHER_LAYOUTS = (
    ".bin",
    ".pt",
    ".pth",
    ".pkl",
    ".pickle",
    ".ckpt",
    ".gguf",
    ".ggml",
    ".npz",
    ".h5",
    ".msgpack",
    ".onnx",
)
"""Ends of the names of weight files that are never opened: several of them are programs to whoever loads them."""
LARGEST_INDEX = 2**24
IGNORED_SUFFIX = ".rotary_emb.inv_freq"
"""Old exports store this constant; every engine here computes it."""


def safetensors_files(folder: Path) -> list[Path]:
    """The weight files of a checkpoint, by name: those that Transformers reads too, so that every engine reads one set.

    Raises:
        ValueError: there are none, or what is no file, or the index is damaged or names a file that is not here.
    """
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        others = sorted(path.name for path in folder.iterdir() if path.suffix in OTHER_LAYOUTS)
        unopened = f" ({others[0]} is none, and is not opened)" if others else ""
        raise ValueError(f"{folder} holds no *.safetensors file{unopened}: convert the weights to safetensors first")
    if unlike := [path.name for path in files if not path.is_file()]:
        raise ValueError(f"{folder}: {unlike[0]} is no file (a folder, a device, a pipe or a link to nothing)")
    whole, index = folder / "model.safetensors", folder / INDEX
    if whole in files:
        return [whole]
    if not index.is_file():
        return files
    named = indexed_files(index)
    absent = [name for name in named if folder / name not in files]
    if absent:
        raise ValueError(f"{folder} lacks {absent[0]}, which {INDEX} names: copy or download it again")
    return [folder / name for name in named]


def indexed_files(index: Path) -> list[str]:
    """The files that an index names. Raises ValueError when it is damaged."""
    try:
        if index.stat().st_size > LARGEST_INDEX:
            raise ValueError("too large")
        places = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        return sorted({str(name) for name in places.values()})
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{index} is damaged, it has no weight_map: copy or download it again") from error


def tensor_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor of one file. Raises ValueError when the file is damaged or holds other types."""
    try:
        with safe_open(path, framework="np") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118  no mapping
            found = {name: (one.get_dtype(), tuple(one.get_shape())) for name, one in slices.items()}
    except (SafetensorError, OSError) as error:
        said = " ".join(str(error).split())
        raise ValueError(f"{path} is damaged or no safetensors file ({said}): copy or download it again") from error
    for name, (dtype, _) in found.items():
        if dtype not in DTYPES and not name.endswith(IGNORED_SUFFIX):
            raise ValueError(f"{path}: {name} is stored as {dtype}, and weights are {', '.join(DTYPES)}: convert it")
    return {name: size for name, (_, size) in found.items()}


def check_tensors(folder: Path, shape: LlamaShape) -> None:
    """Compare names and shapes with what `shape` asks for, whatever the dtype.

    Raises:
        ValueError: a damaged file, or missing, unknown or misshapen tensors, the first of them by name.
    """
    wanted = shape.tensors()
    stored: dict[str, tuple[int, ...]] = {}
    for path in safetensors_files(folder):
        shapes = tensor_shapes(path)
        if twice := sorted(stored.keys() & shapes.keys()):
            raise ValueError(
                f"{path}: {twice[0]} is in another file of the checkpoint too: which one counts is not said"
            )
        stored |= shapes
    found = {name: size for name, size in stored.items() if not name.endswith(IGNORED_SUFFIX)}
    if shape.tie_word_embeddings:
        found.pop("lm_head.weight", None)  # some exports store it although it is the embedding
    for word, names in (("lacks", wanted.keys() - found.keys()), ("has unknown", found.keys() - wanted.keys())):
        if names:
            first = ", ".join(sorted(names)[:3])
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            raise ValueError(f"checkpoint {folder} {word} tensors: {first}{more}")
    for name, size in found.items():
        if size != wanted[name]:
            raise ValueError(
                f"checkpoint {folder}: {name} has shape {list(size)}, config.json asks for {list(wanted[name])}"
            )


def check_folder(model: Mapping[str, Any], folder: Path) -> LlamaShape:
    """The shape of the checkpoint in `folder`, held against its tensors and against the configuration `model`.

    Raises:
        ValueError: one sentence on what does not fit.
    """
    refuse_adapter(folder)
    stated, found = shape_from(model), read_shape(folder)
    if stated is not None and (unlike := differences(stated, found)):
        raise ValueError(
            f"{model['weights']} is not {model['name']}: {unlike[0]}; use model=checkpoint to take it as is"
        )
    check_tensors(folder, found)
    return found


def refuse_adapter(folder: Path) -> None:
    """Refuse a folder that Transformers would take for an adapter: it would load another model, named there."""
    if (folder / "adapter_config.json").exists():
        raise ValueError(
            f"{folder} holds adapter_config.json, so it is an adapter to another model: merge the two first"
        )
