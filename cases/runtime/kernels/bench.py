"""`python -m cases.runtime.kernels.bench --model llama2_7b`: each kernel of a layer alone, against the card's best.

A kernel's time is that of a CUDA graph which runs it once in every layer, each with weights of its own, after a rest,
over the number of layers. Its floor is the longer of its bytes over the read bandwidth and its operations over the
matmul rate, both calibrated before. Then the whole model's outputs: errors against float32, and replays of its graphs.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
import yaml

from cases.runtime.calibration import calibrate
from cases.runtime.kernels.outputs import forget, measure_kernels
from cases.runtime.kernels.tables import write_rows, write_text
from cases.runtime.kernels.timing import CAPACITY, REPLAYS, Ceiling, Kernel, seconds
from cases.runtime.kernels.whole import check_lengths
from cases.runtime.shape import LlamaShape, shape_from
from harness.machine.gpu import list_gpus
from harness.output.manifest import commit_text

ROOT = Path(__file__).resolve().parents[3]
COLUMNS = ("phase", "kernel", "rows", "context", "us", "tb_s", "tflop_s", "floor_us", "of_ceiling")


def measured(kernel: Kernel, ceiling: Ceiling) -> dict[str, Any]:
    """One row of the table."""
    took = seconds(kernel.work, kernel.times)
    floor = ceiling.microseconds(kernel)
    return {
        "phase": kernel.phase, "kernel": kernel.name, "rows": kernel.rows, "context": kernel.context,
        "us": round(took * 1e6, 3), "tb_s": round(kernel.bytes / took / 1e12, 3),
        "tflop_s": round(kernel.flops / took / 1e12, 1), "floor_us": round(floor, 3),
        "of_ceiling": round(floor / (took * 1e6), 4),
    }  # fmt: skip


def model_shape(name: str) -> LlamaShape:
    """The shape of conf/model/<name>.yaml. Raises ValueError for a file that is not there or has none."""
    path = ROOT / "conf" / "model" / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in path.parent.glob("*.yaml")))
        raise ValueError(f"--model {name}: there is no such model; choose {known}")
    shape = shape_from(yaml.safe_load(path.read_text(encoding="utf-8")))
    if shape is None:
        raise ValueError(f"--model {name} has no shape of its own: choose one of conf/model that states its sizes")
    return shape


def arguments(argv: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m cases.runtime.kernels.bench", description=__doc__)
    parser.add_argument("--model", default="llama2_7b", help="a file of conf/model (default: llama2_7b)")
    parser.add_argument(
        "--dtype", default="float16", choices=("float16", "bfloat16"), help="of weights and activations"
    )
    parser.add_argument(
        "--rows", default="16,48,112,160,208,256,304,352,400", help="prompt lengths, with commas between"
    )
    parser.add_argument("--contexts", default="10,200,400", help="contexts of a decode step, comma between")
    parser.add_argument("--layers", type=int, help="layers with weights of their own (default: the model's)")
    parser.add_argument("--no-accuracy", action="store_true", help="leave out the whole model's errors and replays")
    parser.add_argument("--lengths", default="10,100,200,400", help="prompts of those, comma between")
    parser.add_argument("--replays", default="5000", help="of each graph, at least 2 (default: 5000)")
    parser.add_argument("--to", type=Path, default=ROOT / "results" / "kernels", help="folder to write to")
    return parser.parse_args(argv)


def whole_numbers(option: str, text: str) -> list[int]:
    """Numbers with commas between. Raises ValueError for anything else."""
    try:
        found = [int(part) for part in text.split(",")]
    except ValueError:
        found = []
    if not found or min(found) < 1:
        raise ValueError(f"{option} takes whole numbers from 1 on with commas between, as in 16,112, not {text!r}")
    return found


def at_most(most: int, option: str, numbers: list[int]) -> list[int]:
    """The same numbers. Raises ValueError where one is larger: kernels would write beyond their buffers."""
    if max(numbers) > most:
        raise ValueError(f"{option} holds {max(numbers)}, but here there is room for {most} at most: leave it out")
    return numbers


def check_layers(shape: LlamaShape, layers: int | None) -> None:
    """Refuse layers that the model lacks, by which times would be divided. Raises ValueError with one sentence."""
    if layers is not None and not 1 <= layers <= shape.num_hidden_layers:
        raise ValueError(f"--layers takes 1 to {shape.num_hidden_layers}, as many as this model has, not {layers}")


def replay_count(text: str) -> int:
    """How often each graph is replayed. Raises ValueError for less than twice."""
    found = int(text) if text.isdecimal() else 0
    if found < 2:
        raise ValueError(f"--replays takes one whole number from 2 on, the first to compare with, not {text!r}")
    return found


def run(options: argparse.Namespace) -> Path:
    """Measure and write; the folder of the tables. Raises ValueError for a user's mistake."""
    shape = model_shape(options.model)
    rows = at_most(CAPACITY, "--rows", whole_numbers("--rows", options.rows))
    contexts = at_most(CAPACITY - 1, "--contexts", whole_numbers("--contexts", options.contexts))
    check_layers(shape, options.layers)
    lengths = sorted(set(whole_numbers("--lengths", options.lengths)))
    check_lengths(shape, lengths)
    times = replay_count(options.replays)
    if not torch.cuda.is_available():
        raise ValueError("the kernels need a CUDA GPU, and torch sees none here")
    gpus, _ = list_gpus()
    ceiling = Ceiling(**calibrate("cuda", options.dtype))
    found = time_kernels(shape, options, rows, contexts, ceiling)
    facts = {
        "model": options.model, "dtype": options.dtype, "shape": asdict(shape), **asdict(ceiling),
        "gpu": torch.cuda.get_device_name(), "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "torch": torch.__version__, "layers": options.layers or shape.num_hidden_layers, "replays": REPLAYS,
        "driver": gpus[0].driver if gpus else "unknown", "code": commit_text(ROOT, "cases"),
    }  # fmt: skip
    folder = write(options.to / f"{options.model}-{options.dtype}", found, facts)
    if not options.no_accuracy:
        torch.cuda.empty_cache()
        measure_kernels(shape, options.dtype, lengths, times, say, folder)
    return folder


def time_kernels(
    shape: LlamaShape, options: argparse.Namespace, rows: Sequence[int], contexts: Sequence[int], ceiling: Ceiling
) -> list[dict[str, Any]]:
    """The rows of the table; the weights that the kernels read are gone at the end."""
    from cases.runtime.kernels.bench_kernels import kernels  # it needs Triton, which machines without a GPU lack

    found = []
    for kernel in kernels(shape, options.dtype, rows, contexts, options.layers):
        found.append(measured(kernel, ceiling))
        say(line(found[-1]))
    return found


def write(folder: Path, found: Sequence[dict[str, Any]], facts: dict[str, Any]) -> Path:
    """kernels.csv and kernels.json in `folder`, each whole or not at all; an earlier model's outputs are taken away."""
    folder.mkdir(parents=True, exist_ok=True)
    forget(folder)
    write_rows(folder / "kernels.csv", COLUMNS, found)
    write_text(folder / "kernels.json", json.dumps(facts, indent=1) + "\n")
    return folder


def say(text: str) -> None:
    """A line for people who watch, at once."""
    print(text, flush=True)


def line(row: dict[str, Any]) -> str:
    """A row for people who watch."""
    place = (
        f"{row['rows']} rows" if row["phase"] == "prefill" else f"context {row['context']}" if row["context"] else ""
    )
    return (
        f"{row['phase']:<8} {row['kernel']:<28} {place:<12} {row['us']:8.2f} us, {row['of_ceiling']:.0%} of the ceiling"
    )


def main(argv: Sequence[str]) -> int:
    """0, or 2 with one sentence for a user's mistake."""
    try:
        folder = run(arguments(argv))
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"Kernels: {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
