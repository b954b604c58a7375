"""`python -m reports.kernels results/kernels/NAME`: the tables of a benchmark of kernels, from its files.

`report/kernels.md` holds all of them, and says which are missing.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from harness.output.spoken import spoken
from reports import terminal
from reports.files import load_table, read_object
from reports.markup import markdown, markdown_escape
from reports.outputs import TABLES, output_tables
from reports.sound import refuse
from reports.table import Cell, Notes, Table, heads, number
from reports.write import write_table

COLUMNS = ("phase", "kernel", "rows", "context", "us", "tb_s", "tflop_s", "floor_us", "of_ceiling")
HEADS = ("Phase", "Kernel", "Rows", "Context", "Time (us)", "Floor (us)", "TB/s", "TFLOP/s", "Of the ceiling")
FACTS: dict[str, type] = {
    "model": str, "dtype": str, "gpu": str, "started": str, "torch": str, "layers": int, "replays": int,
    "read_bandwidth_tb_s": float, "matmul_tflop_s": float,
}  # fmt: skip
ORIGIN = {"driver": "driver {}", "code": "code of commit {}"}
"""Said where the table has them; early ones do not."""
WORDS = (
    "A kernel's time: a CUDA graph that runs it once in each of {layers} layers, each with weights of its own, after "
    "10 ms of rest, over the layers; median of {replays} replays. Of the ceiling: floor over time; the floor is "
    "the longer of its bytes at {read_bandwidth_tb_s:.2f} TB/s and its operations at {matmul_tflop_s:.0f} TFLOP/s, "
    "calibrated in the same process. {gpu}; {date}; {model}, {dtype}, random weights; torch {torch}{origin}."
)


def kernels_table(folder: Path) -> Table:
    """A row a kernel. Raises ValueError with one sentence for files that are missing or malformed."""
    facts = load_facts(folder / "kernels.json")
    frame = load_table(folder / "kernels.csv", COLUMNS, text=("phase", "kernel"))
    columns = heads(*HEADS, left=HEADS[:2])
    rows, rules, before = [], [], None
    for place, row in enumerate(frame.to_dict("records")):
        group = (row["phase"], row["rows"])
        if before not in (None, group):
            rules.append(place)
        before = group
        rows.append([
            Cell(str(row["phase"])), Cell(str(row["kernel"])), Cell(f"{row['rows']:.0f}"),
            Cell(f"{row['context']:.0f}" if row["context"] else ""), Cell(number(row["us"], 1)),
            Cell(number(row["floor_us"], 1)), Cell(number(row["tb_s"])),
            Cell(number(row["tflop_s"], 0) if row["tflop_s"] else ""), Cell(f"{100 * row['of_ceiling']:.0f} %"),
        ])  # fmt: skip
    said = WORDS.format(**facts, date=str(facts["started"])[:10])
    title = f"Kernels of {facts['model']}, each alone"
    return Table("kernels", title, columns, rows, Notes(), said, False, frame, frozenset(rules))


def load_facts(path: Path) -> dict[str, Any]:
    """kernels.json: what tables say of it, and nothing else. Raises ValueError with one sentence."""
    facts = read_object(path)
    if lost := [key for key in FACTS if key not in facts]:
        raise ValueError(f"{path} has no {', '.join(lost)}")
    for key in FACTS:
        refuse(facts[key], FACTS[key], key, path)
    known = {key: facts[key] for key in ORIGIN if key in facts}
    for key in known:
        refuse(known[key], str, key, path)
    said = "".join(f"; {ORIGIN[key].format(value)}" for key, value in known.items())
    return {**{key: facts[key] for key in FACTS}, "origin": said}


def write(folder: Path, tables: Sequence[Table], missing: Sequence[str]) -> None:
    """Every table into files of its own, all of them into the page; an older report's are taken away."""
    folder.mkdir(exist_ok=True)
    for name in TABLES:
        for suffix in ("csv", "md", "tex"):
            (folder / f"{name}.{suffix}").unlink(missing_ok=True)
    for table in tables:
        write_table(table, folder)
    parts = [*map(markdown, tables), *(f"{markdown_escape(sentence)}\n" for sentence in missing)]
    (folder / "kernels.md").write_text("\n".join(parts), encoding="utf-8")


def main(argv: Sequence[str]) -> int:
    """0, or 2 with one sentence on stderr."""
    parser = argparse.ArgumentParser(prog="python -m reports.kernels", description=__doc__)
    parser.add_argument("folder", type=Path, help="folder with kernels.csv and kernels.json")
    folder = parser.parse_args(argv).folder
    try:
        tables, missing = output_tables(folder, load_facts(folder / "kernels.json"))
        tables.insert(0, kernels_table(folder))
        write(folder / "report", tables, missing)
    except (ValueError, OSError, pd.errors.ParserError) as error:
        return terminal.mistake(error, "reports.kernels")
    console = terminal.console()
    for table in tables:
        terminal.show(table, console)
    for sentence in missing:
        print(sentence)
    return 0


if __name__ == "__main__":
    sys.exit(spoken(lambda: main(sys.argv[1:])))
