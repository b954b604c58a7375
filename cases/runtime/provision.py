"""What a run needs before its first block: weights on the disk, and the machine's ceilings."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from cases.runtime.calibration import calibrate
from cases.runtime.checkpoint import digest, resolve
from cases.runtime.sentence import sentence
from cases.runtime.weights import DTYPES, check_finite
from harness.contract import Unavailable

PACKAGES = ("torch", "transformers", "triton", "safetensors", "numpy", "tensorrt_llm")

Report = Callable[[str, str], None]
"""Takes the name of a stage and a detail for the progress line."""


def provision(spec: Mapping[str, Any], report: Report) -> dict[str, Any]:
    """Make or find the checkpoint of `spec["model"]`, digest it, calibrate `spec["device"]`.

    Raises:
        ValueError: a wrong folder, repository or shape, in one sentence.
        Unavailable: the device is not there.
    """
    model, device = spec["model"], spec["device"]
    if device == "cuda" and not torch.cuda.is_available():
        raise Unavailable("torch sees no CUDA GPU: install a CUDA build of torch, or run experiment=smoke on the CPU")
    report("checkpoint", f"{model['name']}, weights {model['weights']}")
    laps = Laps()
    folder, shape = resolve(model, Path(spec["cache"]).expanduser(), int(spec["seed"]))
    if model["weights"] != "random":  # once a run, for all cases; random weights are finite as they are made
        check_finite(folder, DTYPES[model["dtype"]], device)
    laps.end("checkpoint")
    report("digest", str(folder.name))
    found = digest(folder, made=model["weights"] == "random")
    laps.end("digest")
    report("calibrate", device)
    began_ns = time.perf_counter_ns()
    rates = calibrate(device, model["dtype"])
    calibrated_ns = [began_ns, time.perf_counter_ns()]
    laps.end("calibrate")
    return {
        "checkpoint": str(folder),
        "digest": found,
        "weights_source": model["weights"],
        "weight_bytes": shape.weight_bytes(model["dtype"]),
        "flops_per_token": shape.flops_per_token,
        "vocab_size": shape.vocab_size,
        "shape": asdict(shape),
        "versions": versions(),
        "device_name": torch.cuda.get_device_name() if device == "cuda" else platform.processor() or platform.machine(),
        "device_uuid": device_uuid() if device == "cuda" else None,
        **{name: round(rate, 4) for name, rate in rates.items()},
        "seconds": laps.seconds,
        "calibrated_ns": calibrated_ns,
        **sentence(folder, shape.vocab_size),
    }


class Laps:
    """How long each stage took, in seconds, by its name."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._since = time.perf_counter()

    def end(self, stage: str) -> None:
        """A stage is over, and the next begins."""
        now = time.perf_counter()
        self.seconds[stage] = round(now - self._since, 3)
        self._since = now


def versions() -> dict[str, str]:
    """Versions of what computes; a package that is not here is left out, and `cuda` is empty for a PyTorch without."""
    found = {"python": platform.python_version(), "cuda": torch.version.cuda or ""}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def device_uuid() -> str | None:
    """The UUID of the card that CUDA computes on, as NVML writes it; None where this PyTorch does not know it."""
    found = getattr(torch.cuda.get_device_properties(0), "uuid", None)
    return None if found is None else f"GPU-{str(found).removeprefix('GPU-')}"
