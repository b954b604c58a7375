"""Names and shapes of a checkpoint's tensors, from the headers of its files: nothing is loaded, torch is not needed.

So a folder that does not fit is refused before anything starts, whichever engine would have read it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from cases.runtime.shape import LlamaShape, differences, read_shape, shape_from

IGNORED_SUFFIX = ".rotary_emb.inv_freq"
"""Old exports store this constant; every engine here computes it."""


def safetensors_files(folder: Path) -> list[Path]:
    """The weight files of a checkpoint, by name. Raises ValueError when there are none."""
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ValueError(f"{folder} holds no *.safetensors file: convert the weights to safetensors first")
    return files


def tensor_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor of one file. Raises ValueError when the file is damaged or can't be read."""
    try:
        with safe_open(path, framework="np") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118  no mapping
    except (SafetensorError, OSError) as error:
        said = " ".join(str(error).split())
        raise ValueError(f"{path} is damaged or no safetensors file ({said}): copy or download it again") from error


def check_tensors(folder: Path, shape: LlamaShape) -> None:
    """Compare names and shapes with what `shape` asks for, whatever the dtype.

    Raises:
        ValueError: a damaged file, or missing, unknown or misshapen tensors, the first of them by name.
    """
    wanted = shape.tensors()
    stored = {name: size for path in safetensors_files(folder) for name, size in tensor_shapes(path).items()}
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
    stated, found = shape_from(model), read_shape(folder)
    if stated is not None and (unlike := differences(stated, found)):
        raise ValueError(
            f"{model['weights']} is not {model['name']}: {unlike[0]}; use model=checkpoint to take it as is"
        )
    check_tensors(folder, found)
    return found
