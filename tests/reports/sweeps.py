"""An invented sweep: two GPUs, two models, a run of each."""

import csv
import json

from reports import latency, markup
from reports.__main__ import main
from reports.merge import tables
from reports.merge.alike import check
from reports.merge.gather import gather
from tests.synthetic import Spec, invent

GPUS = {"fast": ("Fast GPU", 4.66), "slow": ("Slow & cheap_GPU", 0.9)}
MODELS = {"two": ("Llama-2-7B", "float16"), "three": ("Llama 3 (8B)", "bfloat16")}
CASES = ("baseline", "jit", "tensorrt_llm", "eager")
TABLES = ("ttft", "ttft_ratio", "p99", "decode", "decode_ratio")
SLUGS = {"two": "llama-2-7b", "three": "llama-3-8b"}


def invented(folder, gpu="fast", model="two", **changes):
    """One run."""
    (name, bandwidth), (called, dtype) = GPUS[gpu], MODELS[model]
    given = {"cases": CASES, "lengths": (10, 400), "iterations": 125, "blocks": 3, "gpu": name, "bandwidth": bandwidth}
    invent(folder, Spec(**{**given, "model": called, **changes}))
    path = folder / "manifest.json"
    stored = json.loads(path.read_text())
    stored["model"] |= {"dtype": dtype, "digest": "02"[model == "three"] * 64}
    path.write_text(json.dumps(stored))
    return folder


def sweep(folder):
    """All four, in folders named by GPU and model."""
    for gpu in GPUS:
        for model in MODELS:
            invented(folder / f"{gpu}-{model}", gpu, model)
    return folder


def merge(*arguments):
    return main(["merge", *map(str, arguments)])


def export(*arguments):
    return main(["export", *map(str, arguments)])


MAKERS = {
    "ttft": latency.ttft_grid, "ttft_ratio": latency.ratio_grid, "p99": latency.p99_grid,
    "decode": latency.decode_grid, "decode_ratio": tables.decode_ratio_grid,
}  # fmt: skip


def table(folder, name):
    """One table of a merge, of all or, with `_model` behind its name, of the first model; as Markdown."""
    found = gather([folder], folder / "merged")
    check(found)
    metric, of_model = name.removesuffix("_model"), name.endswith("_model")
    runs = found.of_model(found.models[0])
    if metric in MAKERS:
        of_one = tables.range_table if metric.startswith("decode") else tables.length_table
        made = (of_one(found, runs, MAKERS[metric], name) if of_model
                else tables.average_table(found, MAKERS[metric], name, name))  # fmt: skip
    elif metric == "energy":
        made = tables.energy_table(found, runs, name)
    else:
        made = {"set_up": tables.set_up_table, "machines": tables.machines_table}[metric](found)
    return markup.markdown(made), made


def cells(text):
    """A merged table's Markdown: its lines by first and second field without marks, then by heading; and its notes."""
    lines = text.splitlines()
    rows = [[plain(field) for field in line.strip("| ").split(" | ")] for line in lines if line.startswith("| ")]
    head, *body = rows
    return {(row[0], row[1]): dict(zip(head, row, strict=True)) for row in body}


def plain(field):
    return field.split(" <sup>")[0].replace("\\", "").replace("&amp;", "&").strip("*")


def notes(text):
    """What stands beneath a table, in plain text, a note a line."""
    return [plainly(line) for line in text.splitlines() if line.startswith("<sup>")]


def plainly(text):
    return text.replace("\\", "").replace("&amp;", "&")


def records(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))
