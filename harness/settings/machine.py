"""The checks that look at the machine: GPU, memory, interpreters. Every mistake is a ValueError with one sentence."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from harness.loader import load
from harness.machine import placement
from harness.machine.gpu import Gpu, list_gpus, visible
from harness.settings.config import ModelConfig, RunConfig
from harness.settings.plan import interpreter
from harness.settings.sentences import nearest
from harness.settings.validate import SHAPE_KEYS, known_shape, weights_folder

BYTES = {"float16": 2, "bfloat16": 2, "float32": 4}
GIB = 2**30
MIB_IN_GIB = 1024
CHECK_FOLDER = "cases.runtime.headers.check_folder"
LEAST_PYTHON = (3, 11)
PROBE = "import sys; print('python', *sys.version_info[:2])"
VARIABLES = ("LATENCY_CACHE", placement.VARIABLE)
SPARE_BYTES = 2 * GIB
WEIGHT_FACTOR = 1.2
"""Room beside the weights: KV cache, activations, graphs, the CUDA context."""


def check_machine(config: RunConfig) -> Gpu | None:
    """The GPU that the run uses, None on the CPU. Raises ValueError when the machine can't do what is asked.

    Whether enough of the GPU's memory is free is asked by `check_free`, once no other run has it.
    """
    make_folder("cache", Path(config.cache).expanduser())
    return check_named(config)


def check_named(config: RunConfig) -> Gpu | None:
    """The same of what is there without making anything: variables, interpreters and the GPU. Raises ValueError."""
    check_environment()
    for name in config.run:
        python = config.cases[name].python
        if python is not None:
            check_python(f"cases.{name}.python", python)
    if config.device == "cpu":
        return None
    return find_gpu(config.gpu)


def check_free(config: RunConfig) -> Gpu:
    """The run's GPU as it is now, if the model fits into what is free. Raises ValueError."""
    gpu = find_gpu(config.gpu)
    check_memory(gpu, known_shape(config.model), config.model.dtype)
    return gpu


def check_checkpoint(model: ModelConfig) -> None:
    """Hold a local folder's config.json and the headers of its weights against the configuration.

    What comes from a hub or is made from a seed is checked by the preparation. Raises ValueError in one sentence.
    """
    folder = weights_folder(model)
    if folder is not None:
        load(CHECK_FOLDER)(asdict(model), folder)


def make_folder(key: str, folder: Path) -> None:
    """Make a folder that can be written to. Raises ValueError naming the key that set it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"{key}={folder} can't be made ({error.strerror}): choose another folder") from error
    if not os.access(folder, os.W_OK):
        raise ValueError(f"{key}={folder} can't be written to: choose another folder")


def check_environment() -> None:
    """Refuse a variable that looks like ours and that nothing reads."""
    unknown = sorted(name for name in os.environ if name.startswith("LATENCY_") and name not in VARIABLES)
    if unknown:
        raise ValueError(
            f"the environment sets {unknown[0]}, which nothing reads{nearest(unknown[0], VARIABLES)} "
            f"(known: {', '.join(VARIABLES)})"
        )


def check_python(key: str, python: str) -> None:
    """Refuse what does not start, is no Python (it must compute an answer, not only exit well), or is too old."""
    try:
        done = subprocess.run(  # noqa: S603  an interpreter that the user named, without a shell
            [interpreter(python), "-c", PROBE], capture_output=True, text=True, timeout=60, check=False
        )
    except OSError as error:
        raise ValueError(f"{key}={python} does not run ({error.strerror}): give the path of a Python") from error
    except subprocess.TimeoutExpired as error:
        raise ValueError(f"{key}={python} did not answer within 60 s: give the path of a Python") from error
    if done.returncode != 0:
        said = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise ValueError(f"{key}={python} does not run Python ({said}): give the path of a Python")
    answer = re.fullmatch(r"python (\d+) (\d+)\n", done.stdout)
    if answer is None:
        raise ValueError(f"{key}={python} starts, but is no Python: give the path of a Python")
    version = (int(answer[1]), int(answer[2]))
    if version < LEAST_PYTHON:
        least, found = (".".join(map(str, numbers)) for numbers in (LEAST_PYTHON, version))
        raise ValueError(f"{key}={python} is Python {found}: {least} or later is needed")


def find_gpu(index: int | None) -> Gpu:
    """GPU `index` in nvidia-smi's numbering, if it is here and visible; None is the first visible one.

    A scheduler says which GPU it gives by CUDA_VISIBLE_DEVICES, and must leave one alone.
    """
    gpus, why = list_gpus()
    if not gpus:
        raise ValueError(
            f"device=cuda, but this machine has no usable GPU ({why}): "
            "run the CPU demonstration with experiment=smoke (or `make smoke`), or a small model with device=cpu "
            "model.dtype=float32"
        )
    if index is None:
        return _first_visible(gpus)
    if index not in {gpu.index for gpu in gpus}:
        raise ValueError(f"gpu={index}: this machine has GPUs {', '.join(str(gpu.index) for gpu in gpus)}")
    allowed = visible(gpus)
    if index not in {gpu.index for gpu in allowed}:
        names = ", ".join(f"gpu={gpu.index}" for gpu in allowed) or "none"
        raise ValueError(f"gpu={index} is hidden by CUDA_VISIBLE_DEVICES, which allows {names}")
    return gpus[index]


def _first_visible(gpus: Sequence[Gpu]) -> Gpu:
    allowed = visible(gpus)
    if not allowed:
        setting = os.environ.get("CUDA_VISIBLE_DEVICES", "")
        raise ValueError(
            f"CUDA_VISIBLE_DEVICES={setting} hides every GPU of this machine: ask the scheduler for one GPU"
        )
    if placement.scheduled() and len(allowed) > 1:
        names = ", ".join(str(gpu.index) for gpu in allowed)
        raise ValueError(
            f"the scheduler gave GPUs {names} where one is needed: ask for one, or name one with gpu=INDEX"
        )
    return allowed[0]


def check_card(gpu: Gpu, cuda_uuid: str | None) -> None:
    """Refuse a run whose workers compute on another card than the one that NVML reads beside them.

    A UUID that is no whole card's (a MIG slice's) says nothing, and so does None. Raises ValueError.
    """
    if cuda_uuid is None or cuda_uuid == gpu.uuid:
        return
    if cuda_uuid in {other.uuid for other in list_gpus()[0]}:
        raise ValueError(
            f"CUDA computes on {cuda_uuid} and NVML reads {gpu.uuid} as GPU {gpu.index}: "
            "run it where both see the same GPUs, a container or job that is given whole devices"
        )


def needed_bytes(shape: Mapping[str, Any], dtype: str) -> int:
    """Estimate of the GPU memory that a Llama of this shape takes: weights times 1.2, and 2 GiB."""
    return int(parameters(shape) * BYTES[dtype] * WEIGHT_FACTOR) + SPARE_BYTES


def parameters(shape: Mapping[str, Any]) -> int:
    """Number of weights: embedding, head unless tied, and for each layer attention, gated MLP and two norms."""
    hidden = shape["hidden_size"]
    heads = 2 * shape["num_attention_heads"] + 2 * shape["num_key_value_heads"]
    head_dim = shape.get("head_dim") or hidden // shape["num_attention_heads"]
    layer = hidden * (heads * head_dim + 3 * shape["intermediate_size"] + 2)
    tables = 1 if shape.get("tie_word_embeddings") else 2
    return int(tables * shape["vocab_size"] * hidden + shape["num_hidden_layers"] * layer + hidden)


def check_memory(gpu: Gpu, shape: Mapping[str, Any], dtype: str) -> None:
    """Refuse a model that does not fit into what is free now; a shape not known yet is checked after download."""
    if any(key not in shape for key in SHAPE_KEYS if key not in ("head_dim", "max_position_embeddings")):
        return
    needed = needed_bytes(shape, dtype) / GIB
    free = gpu.free_mib / MIB_IN_GIB
    if needed > free:
        raise ValueError(
            f"the model in {dtype} needs about {needed:.1f} GiB, GPU {gpu.index} ({gpu.name}) has {free:.1f} GiB free: "
            "free some, or choose another gpu or a smaller model"
        )
