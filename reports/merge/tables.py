"""The tables of a merged report: those of each run, interleaved by model, and the averages of all."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import pandas as pd

from reports import latency, machine, overview
from reports.attempts import moved
from reports.blockwise import AVERAGE, range_label
from reports.latency import Grid
from reports.merge.alike import said, software_differs
from reports.merge.gather import Sweep, model_of, name_of, narrowed
from reports.merge.interleave import Part, Plan, interleave
from reports.run import Run
from reports.table import Cell, Column, Notes, Table, heads, number

Maker = Callable[[Run], Grid]
BY_GPU = (
    "Each GPU's figures and winners are of its own run, as in that run's own report; its floor is by its own "
    "calibration. Nothing is tested across GPUs."
)
NO_PROMPTS = "No prompts of {row} tokens were planned."
NO_RANGE = "No decode steps in this range."


def slug(text: str) -> str:
    """A name as part of a file's name."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "model"


def slugs(sweep: Sweep) -> dict[str, str]:
    """The models' names as parts of files' names, told apart by a number where they would be the same."""
    found: dict[str, str] = {}
    for model in sweep.models:
        names = (slug(model), *(f"{slug(model)}-{number}" for number in range(2, len(sweep.models) + 2)))
        found[model] = next(name for name in names if name not in found.values())
    return found


def facts(runs: Sequence[Run], counts: Iterable[float] = ()) -> str:
    """What must stand under every table and figure of these runs, as in `Run.facts`."""
    sizes = sorted({int(count) for count in counts if count == count})
    n = [] if not sizes else [f"n = {sizes[0]}" if len(sizes) == 1 else f"n = {sizes[0]} to {sizes[-1]}"]
    dates = sorted({str(run.manifest["started"])[:10] for run in runs})
    kinds = dict.fromkeys(run.model for run in runs)
    words = [*n, ", ".join(dict.fromkeys(run.gpu for run in runs)), " to ".join(dict.fromkeys((dates[0], dates[-1])))]
    words += [f"protocol {runs[0].manifest['protocol']}", *kinds, "batch size 1"]
    unlike = software_differs(runs)
    words += [f"not the same on all machines: {', '.join(unlike)} (table of machines)"] if unlike else []
    return "; ".join(words) + "."


def own_notes(sweep: Sweep, run: Run) -> tuple[str, ...]:
    """What is to be known of a run wherever its figures stand."""
    beside = run.neighbours
    found = [beside[0].upper() + beside[1:]] if beside else []
    found += [text.capitalize() for text in (run.unfinished, moved(run.manifest)) if text]
    found += [f"Warned before the run: {line}" for line in run.manifest.get("warnings", [])]
    found += [f"Set otherwise: {one}" for one in said(sweep, run)]
    return tuple(f"{text.rstrip('.')}." for text in found)


def stamped(run: Run, table: Table) -> Table:
    """The table with the run's place in the numbers behind it."""
    place = {"model": model_of(run), "gpu": run.gpu, "folder": name_of(run)}
    return replace(table, frame=pd.concat([pd.DataFrame(place, index=table.frame.index), table.frame], axis=1))


def part_of(sweep: Sweep, run: Run, table: Table, *, of_all: bool = False) -> Part:
    """A run's table as a part, named by GPU, and where it stands among all models by model too."""
    owner = f"{model_of(run)} on {run.gpu}" if of_all else run.gpu
    return Part(run.gpu, owner, stamped(run, table), own_notes(sweep, run))


def last_row(table: Table, name: str) -> Table:
    """The table with its last row alone, under another name; of the numbers by prompt length the averages."""
    frame, key = table.frame, "prompt_length"
    if key in frame:
        frame = frame[frame[key] == "average"]
    row = [Cell(name, table.rows[-1][0].marks), *table.rows[-1][1:]]
    return replace(table, rows=[row], frame=frame, shown=True)


def built(run: Run, make: Maker) -> Table:
    """The run's own table of a metric, made once."""
    found: Table = run.once(("table", make.__name__), lambda: latency.build(run, make(run)))
    return found


def parts_by_length(sweep: Sweep, runs: Sequence[Run], make: Maker) -> list[Part]:
    """The runs' tables by prompt length; where lengths differ, averages are over those that all share."""
    found = []
    for run in runs:
        part = part_of(sweep, run, built(run, make))
        if not sweep.narrow:
            found.append(part)
            continue
        frame = part.table.frame[part.table.frame["prompt_length"] != "average"]
        found.append(replace(part, table=replace(part.table, rows=part.table.rows[:-1], frame=frame)))
        narrow = narrowed(run, sweep.shared)
        average = last_row(built(narrow, make), AVERAGE)
        found.append(replace(part_of(sweep, run, average), heads=False))
    return found


def columns(sweep: Sweep, parts: Sequence[Part]) -> list[str]:
    """The columns behind the first: cases in their order, then floor and winner."""
    found = dict.fromkeys(column.head.text for part in parts for column in part.table.columns[1:])
    titles = [title for title in sweep.titles if title in found]
    return [*titles, *(text for text in found if text not in titles)]


def over_shared(sweep: Sweep) -> str:
    """A sentence on averages where runs' lengths differ, else empty."""
    words = ", ".join(map(str, sweep.shared))
    return f"Averages are over the prompt lengths that all runs share: {words}. " if sweep.narrow else ""


def length_table(sweep: Sweep, runs: Sequence[Run], make: Maker, name: str) -> Table:
    """A metric by prompt length and GPU."""
    grids, parts = [make(run) for run in runs], parts_by_length(sweep, runs, make)
    rows = sorted({int(row) for grid in grids for row in grid.rows})
    counts = pd.concat([grid.frame["n"] for grid in grids])
    words = f"{grids[0].words} {BY_GPU} {over_shared(sweep)}{facts(runs, counts)}"
    title = f"{model_of(runs[0])}: {grids[0].title}"
    found = columns(sweep, parts)
    return interleave(parts, Plan(name, title, grids[0].head, [*map(str, rows), AVERAGE], found, words, NO_PROMPTS))


def decode_ratio_grid(run: Run) -> Grid:
    """Median decode latency over the floor by context range and case."""
    grid = latency.decode_grid(run)
    title = "Decode latency as a multiple of the floor"
    return replace(grid, name="decode_ratio", title=title, value="ratio_to_floor", floor=False, metric="", words="")


def range_table(sweep: Sweep, runs: Sequence[Run], make: Maker, name: str) -> Table:
    """A metric by range of context and GPU."""
    grids = [make(run) for run in runs]
    parts = [part_of(sweep, run, built(run, make)) for run in runs]
    pairs = {
        (first, last)
        for run in runs
        for first, last in zip(run.decode["context_from"], run.decode["context_to"], strict=True)
    }
    rows = [range_label(runs[0], *pair) for pair in sorted(pairs, key=lambda pair: (pair == runs[0].whole, pair))]
    counts = pd.concat([grid.frame["n"] for grid in grids])
    words = f"{grids[0].words} {BY_GPU} {facts(runs, counts)}".strip()
    title, head = f"{model_of(runs[0])}: {grids[0].title}", grids[0].head
    return interleave(parts, Plan(name, title, head, rows or grids[0].rows, columns(sweep, parts), words, NO_RANGE))


def whole_alone(run: Run, grid: Grid) -> Grid:
    """A grid by ranges of context with the whole range alone, reached or not."""
    whole = range_label(run, *run.whole)
    return replace(grid, rows=[whole], frame=grid.frame[grid.frame["row"] == whole])


def average_table(sweep: Sweep, make: Maker, name: str, title: str) -> Table:
    """The last row of a metric's table, the average or the whole range, by model and GPU."""
    runs = [narrowed(run, sweep.shared) for run in sweep.runs]
    grids = [make(run) for run in runs]
    own = [
        built(run, make) if grid.average else latency.build(run, whole_alone(run, grid))
        for run, grid in zip(runs, grids, strict=True)
    ]
    parts = [
        part_of(sweep, run, last_row(table, model_of(run)), of_all=True) for run, table in zip(runs, own, strict=True)
    ]
    counts = pd.concat([grid.frame["n"] for grid in grids])
    averaged = over_shared(sweep) if grids[0].average else ""
    words = f"{grids[0].words} {BY_GPU} {averaged}{facts(sweep.runs, counts)}".strip()
    title = f"{title}, by model and GPU"
    return interleave(parts, Plan(name, title, "Model", sweep.models, columns(sweep, parts), words))


def set_up_table(sweep: Sweep) -> Table:
    """Seconds before the first request, by model and GPU."""
    parts = []
    for run in sweep.runs:
        notes, frame = Notes(), overview.summary_frame(run)[["case", "title", "set_up_s"]]
        cells = []
        for case, seconds in zip(frame["case"], frame["set_up_s"].astype(float), strict=True):
            why = () if seconds == seconds else (notes.mark(overview.why_dash(run, "set_up_s", case)),)
            cells.append(Cell(number(seconds, 1), why))
        head = [*heads("Model", left=("Model",)), *(Column(Cell(title)) for title in run.cases.values())]
        table = Table("set_up", "", head, [[Cell(model_of(run)), *cells]], notes, "", run.smoke, frame)
        parts.append(part_of(sweep, run, table, of_all=True))
    title = "Set-up in seconds, by model and GPU"
    words = f"Load, compile and capture together, before the first request; median over blocks. {facts(sweep.runs)}"
    return interleave(parts, Plan("set_up", title, "Model", sweep.models, columns(sweep, parts), words))


def energy_table(sweep: Sweep, runs: Sequence[Run], name: str) -> Table:
    """Joules by request or token, and GPU, of the runs that measured them."""
    there = [run for run in runs if machine.measured(run)]
    parts = [part_of(sweep, run, machine.energy_table(run)) for run in there]
    labels = dict.fromkeys(row[0].text for part in parts for row in part.table.rows)
    rows = sorted(labels, key=lambda text: (not text[0].isdigit(), int(re.sub(r"\D", "", text) or 0)))
    without = ", ".join(run.gpu for run in runs if run not in there)
    lost = f" Not measured on {without}." if without else ""
    words = f"{machine.ENERGY.strip()}{lost} {facts(there)}"
    title = f"{model_of(runs[0])}: energy"
    return interleave(parts, Plan(name, title, "Prompt", rows, columns(sweep, parts), words, "Not measured: {row}."))


def machines_table(sweep: Sweep) -> Table:
    """A row a run: machine, software, calibration, and how it ended."""
    notes, rows, records = Notes(), [], []
    for run in sweep.runs:
        record = machine_record(run)
        records.append(record)
        marks = tuple(notes.mark(f"{name_of(run)}: {text}") for text in own_notes(sweep, run))
        texts = [str(value) for value in record.values()]
        rows.append([Cell(texts[0], marks), *map(Cell, texts[1:])])
    wide = ("Run", "Software")
    head = heads(
        "Run", "Model", "GPU", "Driver", "Software", "Code", "Read (TB/s)", "Matmul (TFLOP/s)", "Started", "Blocks",
        wide=wide, left=("Model", "GPU", "Driver", "Code", "Started", "Blocks"),
    )  # fmt: skip
    left = f" Left out, since they are no runs with results: {'; '.join(sweep.left_out)}." if sweep.left_out else ""
    words = f"Code: the beginning of the digest of the harness's code.{left} {facts(sweep.runs)}"
    frame = pd.DataFrame(records).assign(neighbours=[run.neighbours for run in sweep.runs])
    return Table("machines", "Runs and machines", head, rows, notes, words, sweep.smoke, frame)


def machine_record(run: Run) -> dict[str, object]:
    """What the table of machines says of a run."""
    manifest = run.manifest
    gpu, versions = manifest["gpu"] or {}, manifest.get("versions") or {}
    states = run.status["state"].value_counts().to_dict()
    planned = sum(map(run.blocks, run.cases))
    blocks = ", ".join(f"{count} {state}" for state, count in states.items()) or "none"
    return {
        "folder": name_of(run), "model": run.model, "gpu": run.gpu, "driver": gpu.get("driver") or "not stated",
        "software": ", ".join(f"{name} {version}" for name, version in versions.items() if version) or "not stated",
        "code": str(manifest.get("code_digest") or "not stated")[:12],
        "read_bandwidth_tb_s": calibrated(manifest.get("read_bandwidth_tb_s"), 2),
        "matmul_tflop_s": calibrated(manifest.get("matmul_tflop_s"), 0), "started": str(manifest["started"]),
        "blocks": f"{blocks}, of {planned} planned",
    }  # fmt: skip


def calibrated(value: object, digits: int) -> str:
    """A calibration's figure in digits, `not stated` where there is none."""
    return number(float(value), digits) if isinstance(value, int | float) else "not stated"


def of_model(sweep: Sweep, model: str, name: str) -> list[Table]:
    """The tables of one model; `name` ends the names of their files."""
    runs = sweep.of_model(model)
    by_length = [("ttft", latency.ttft_grid), ("ttft_ratio", latency.ratio_grid), ("p99", latency.p99_grid)]
    found = [length_table(sweep, runs, make, f"{table}_{name}") for table, make in by_length]
    if any(run.decodes for run in runs):
        by_range = [("decode", latency.decode_grid), ("decode_ratio", decode_ratio_grid)]
        found += [range_table(sweep, runs, make, f"{table}_{name}") for table, make in by_range]
    if any(machine.measured(run) for run in runs):
        found.append(energy_table(sweep, runs, f"energy_{name}"))
    return found


def of_all(sweep: Sweep) -> list[Table]:
    """The tables over all models."""
    makers: list[tuple[str, Maker, str]] = [
        ("ttft", latency.ttft_grid, "Average over prompt lengths of the median TTFT, in ms"),
        ("ttft_ratio", latency.ratio_grid, "Average over prompt lengths of the median TTFT over the floor"),
        ("p99", latency.p99_grid, "Average over prompt lengths of the P99 of TTFT, in ms"),
    ]
    if any(run.decodes for run in sweep.runs):
        first, last = sweep.runs[0].whole
        over = f"over contexts of {first} to {last} tokens"
        makers += [
            ("decode", latency.decode_grid, f"Decode, median in ms a token {over}"),
            ("decode_ratio", decode_ratio_grid, f"Decode, median over the floor {over}"),
        ]
    found = [average_table(sweep, make, name, title) for name, make, title in makers]
    return [*found, set_up_table(sweep), machines_table(sweep)]
