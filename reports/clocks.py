"""The same requests by three clocks: what the socket and the host add to the work on the GPU."""

from __future__ import annotations

import math

import pandas as pd

from reports.marks import case_marks
from reports.run import Run
from reports.table import DASH, Cell, Notes, Table, heads, number

FLOOR = "floor_ms"
COLUMNS = ("client_ms", "server_ms", "client_minus_server_ms", "gpu_ms", "client_minus_gpu_ms")
WHY = {
    "server_ms": "No server in between: the case runs in the client's process.",
    FLOOR: "The machine was not calibrated in this run.",
    "gpu_ms": "This engine gives no GPU time for a request.",
}


def clocks_frame(run: Run) -> pd.DataFrame:
    """Medians in ms by case and prompt length; differences are medians over requests of the paired difference."""
    timed = run.samples[(run.samples["metric"] == "ttft") & (run.samples["iteration"] < run.sweep["ttft_iterations"])]
    timed = timed.rename(columns={"host_ms": "client_ms"})
    for clock in ("server", "gpu"):
        timed = timed.assign(**{f"client_minus_{clock}_ms": timed["client_ms"] - timed[f"{clock}_ms"]})
    groups = timed.groupby(["case", "prompt_length"])[list(COLUMNS)]
    # The lower median, as in the other tables.
    found = groups.quantile(0.5, interpolation="lower").join(groups.size().rename("n")).reset_index()
    floors = run.ttft.drop_duplicates("prompt_length").set_index("prompt_length")[FLOOR]
    return found.assign(**{FLOOR: found["prompt_length"].map(floors)})


def clocks_table(run: Run) -> Table:
    """One row a case at the shortest prompt, where the overhead weighs most; the csv has every length."""
    notes, frame = Notes(), clocks_frame(run)
    shortest = min(run.sweep["prompt_lengths"])
    shown = frame[frame["prompt_length"] == shortest].set_index("case")
    rows = []
    for case, title in run.cases.items():
        cells = [
            clock_cell(run, case, name, float(shown[name].get(case, math.nan)), notes) for name in (*COLUMNS, FLOOR)
        ]
        rows.append([Cell(title, case_marks(run, case, notes)), *cells])
    head = heads(
        "Case", "Client (ms)", "Server (ms)", "Client − server (ms)", "GPU (ms)", "Client − GPU (ms)", "Floor (ms)",
        left=("Case",),
    )  # fmt: skip
    title = f"TTFT by three clocks at {shortest} tokens, median"
    return Table("clocks", title, head, rows, notes, run.facts(shown["n"]), run.smoke, frame)


def clock_cell(run: Run, case: str, column: str, value: float, notes: Notes) -> Cell:
    """A median with three decimals, since a socket costs hundredths; or a dash with the reason."""
    if value == value:
        return Cell(number(value, 3))
    clock = next(name for name in (*WHY, "client_ms") if name.removesuffix("_ms") in column)
    ran = case in set(run.ttft["case"])
    return Cell(DASH, (notes.mark(WHY[clock] if ran and clock in WHY else run.missing(case)),))
