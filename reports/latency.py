"""The tables of latencies: TTFT, its ratio to the floor, P99 and decode, each by row and case, with the winner."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pandas as pd

from reports import enriched, nominal, significance
from reports.blockwise import AVERAGE, range_label, with_average
from reports.marks import case_marks, flag_notes, listed
from reports.quantiles import Estimate
from reports.run import Run
from reports.significance import Standing
from reports.table import DASH, Cell, Column, Notes, Table, number

INDEPENDENT = "Intervals take the samples for independent, pooled over blocks."
WINNER = "Winner: below every other by t-tests over paired blocks, 5 % after Holm's correction; else those who tie."
TESTED = "; its test compares geometric means."
NOBODY_BESIDE = "No winner is named where fewer than two cases have a figure that a test takes."
BACK_TO_BACK = "Decode runs back to back, without the pauses between requests, so the card gets to its power cap."
MOST_ROWS = 40
AVERAGED = (
    "mean_ms", "p50_ms", "p90_ms", "p99_ms", "floor_ms", "ratio_to_floor", "bandwidth_utilisation", "launch_gap_ms",
)  # fmt: skip


@dataclass(frozen=True)
class Grid:
    """What a table of latencies is made of: `frame` has a row for each `case` and `row`, in ms."""

    name: str
    title: str
    head: str
    rows: list[str]
    frame: pd.DataFrame
    value: str
    average: bool
    floor: bool = True
    metric: str = ""  # whose tests name the winner; without, there is none
    words: str = ""
    shown: bool = True

    def pivot(self, run: Run) -> pd.DataFrame:
        """Values by row and case; NaN where there is none."""
        wide = self.frame.pivot(index="row", columns="case", values=self.value)
        return wide.reindex(index=self.rows, columns=list(run.cases)).astype(float)


def by_length(frame: pd.DataFrame) -> pd.DataFrame:
    """Sorted by prompt length, which becomes the label of the row."""
    frame = frame.sort_values("prompt_length", kind="stable")
    return frame.assign(row=[f"{length:.0f}" for length in frame["prompt_length"]])


def lengths(run: Run) -> list[str]:
    """The rows of a table by prompt length: those that the run planned, whether or not a case got there."""
    return [str(length) for length in sorted(run.sweep["prompt_lengths"])]


def ranges(run: Run) -> list[str]:
    """The rows of a table by context range: those that a case reached, or the whole range when none got there."""
    first, last = run.whole
    return list(dict.fromkeys(by_range(run)["row"])) or [f"{first}–{last} (whole)"]


def by_range(run: Run) -> pd.DataFrame:
    """decode.csv sorted by context range, the whole range last."""
    frame = enriched.decode(run)
    ends = list(zip(frame["context_from"], frame["context_to"], strict=True))
    frame = frame.assign(row=[range_label(run, *pair) for pair in ends], whole=[pair == run.whole for pair in ends])
    return frame.sort_values(["whole", "context_from", "context_to"], kind="stable")


def ttft_grid(run: Run) -> Grid:
    """Median TTFT by prompt length and case."""
    title = "Time to first token (TTFT), median in ms"
    words = f"Average: mean of the medians over lengths{TESTED} {INDEPENDENT} They are in the .csv, at 95 %. {WINNER}"
    if any(run.procedure(case).get("warmup") == "none" for case in run.cases):
        words += " Cold starts and first captures are among the requests: their means, as published, are far above."
    rows, frame, shown = lengths(run), by_length(enriched.ttft(run)), readable(run)
    return Grid("ttft", title, "Prompt tokens", rows, frame, "p50_ms", True, True, "TTFT", words, shown)


def ratio_grid(run: Run) -> Grid:
    """Median TTFT over the floor by prompt length and case."""
    title = "Time to first token as a multiple of the floor"
    frame, rows = by_length(enriched.ttft(run)), lengths(run)
    head, value = "Prompt tokens", "ratio_to_floor"
    words, shown = "Average: mean of the ratios over lengths.", readable(run)
    return Grid("ttft_ratio", title, head, rows, frame, value, True, False, words=words, shown=shown)


def p99_grid(run: Run) -> Grid:
    """P99 of TTFT by prompt length and case."""
    title = "99th percentile (P99) of the time to first token, in ms"
    means = f"Average: mean over lengths of each length's P99{TESTED}"
    words = f"{means} {INDEPENDENT} They are in the .csv, at 95 %. {WINNER}"
    frame, shown = by_length(enriched.p99(run)), readable(run)
    words += enriched.width_reached(run, frame)
    return Grid("p99", title, "Prompt tokens", lengths(run), frame, "p99_ms", True, True, "P99", words, shown)


def decode_grid(run: Run) -> Grid:
    """Median decode latency by context range and case."""
    title = "Decode latency by context length, median in ms a token"
    words = (
        "A step's context is the number of tokens before it. Intervals, of mean, P50, P90 and P99, rest on blocks and "
        f"are in the .csv.{nominal.of_decode()} {WINNER}"
    )
    rows, frame, head = ranges(run), by_range(run), "Context before the step"
    return Grid("decode", title, head, rows, frame, "p50_ms", False, True, "Decode", words)


def ttft_table(run: Run) -> Table:
    """Median TTFT by prompt length and case."""
    return build(run, ttft_grid(run))


def ratio_table(run: Run) -> Table:
    """Median TTFT over the floor by prompt length and case."""
    return build(run, ratio_grid(run))


def p99_table(run: Run) -> Table:
    """P99 of TTFT by prompt length and case."""
    return build(run, p99_grid(run))


def decode_table(run: Run) -> Table:
    """Median decode latency by context range and case."""
    return build(run, decode_grid(run))


def readable(run: Run) -> bool:
    """Whether a table with a row a prompt length can be read: a longer one is left to its .csv."""
    return len(run.sweep["prompt_lengths"]) <= MOST_ROWS


def standings(run: Run, metric: str, values: pd.DataFrame) -> dict[str, Standing]:
    """Who leads each row: by its tests, the average and the whole range by those over all metrics."""
    if not metric:
        return {}
    rows, whole = significance.tests(run, metric), significance.overall(run)
    whole = whole[whole["metric"] == metric]
    tests = pd.concat([rows[~rows["row"].isin(whole["row"])], whole])
    found = {str(row): significance.standing(run, line, tests[tests["row"] == row]) for row, line in values.iterrows()}
    return {row: standing for row, standing in found.items() if standing is not None}


def winner_cell(run: Run, standing: Standing | None, notes: Notes) -> Cell:
    """The winner, or those who tie; a dash with the reason where a test is missing, or a second case."""
    if standing is None:
        return Cell(DASH, (notes.mark(NOBODY_BESIDE),))
    if standing.untested:
        return Cell(DASH, (notes.mark(significance.why_untested(run, standing)),))
    if standing.won:
        return Cell(run.cases[standing.best])
    return Cell(f"tie: {listed([run.cases[case] for case in standing.leaders])}")


def build(run: Run, grid: Grid) -> Table:
    """Rows, an average where asked for, the floor, and the winner, in bold, or those who tie."""
    notes = Notes()
    values = grid.pivot(run)
    if grid.average:
        values = with_average(values)
    best = standings(run, grid.metric, values)
    floors = grid.frame.drop_duplicates("row").set_index("row")["floor_ms"] if grid.floor else pd.Series(dtype=float)
    columns = [Column(Cell(grid.head)), *(Column(case_head(run, grid, case, notes)) for case in run.cases)]
    rows = []
    for row in values.index:
        cells = [value_cell(run, grid, values, case, row, best, notes) for case in run.cases]
        tail = [Cell(number(floors.get(row, floors.mean())))] if grid.floor else []
        tail += [winner_cell(run, best.get(row), notes)] if grid.metric else []
        rows.append([Cell(row), *cells, *tail])
    columns += [Column(Cell("Floor"))] if grid.floor else []
    columns += [Column(Cell("Winner"), "left")] if grid.metric else []
    return Table(
        name=grid.name,
        title=grid.title,
        columns=columns,
        rows=rows,
        notes=notes,
        facts=f"{grid.words}{enriched.beaten(grid.frame)} {run.facts(grid.frame['n'])}".strip(),
        smoke=run.smoke,
        frame=long_frame(run, grid, values, best),
        rules=frozenset({len(rows) - 1} - {0}),  # above the average, or the whole range
        shown=grid.shown,
        why_hidden=f"has a row for each of {len(run.sweep['prompt_lengths'])} prompt lengths, too many to read here",
    )


def at(values: pd.DataFrame, row: str, case: str) -> float:
    """One value of a pivot."""
    return float(values[case].to_numpy(dtype=float)[list(values.index).index(row)])


def case_head(run: Run, grid: Grid, case: str, notes: Notes) -> Cell:
    """A case's title, marked when its samples need a word of caution."""
    marks = list(case_marks(run, case, notes))
    flagged = flag_notes(run, grid.frame if "throttled" in grid.frame else run.ttft)
    if case in flagged:
        capped = run.samples.loc[run.samples["metric"] == "decode", "throttle"].str.contains("power").any()
        why = f" {BACK_TO_BACK}" if grid.name == "decode" and capped else ""
        marks.append(notes.mark(f"Flagged samples, all kept: {'; '.join(flagged.values())}.{why}"))
    return Cell(run.cases[case], tuple(marks))


def value_cell(
    run: Run, grid: Grid, values: pd.DataFrame, case: str, row: str, best: dict[str, Standing], notes: Notes
) -> Cell:
    """A figure; or the maximum where n can't support the quantile; or a dash with the reason."""
    value = at(values, row, case)
    if not math.isnan(value):
        return Cell(number(value), bold=row in best and case in best[row].winner)
    found = grid.frame[(grid.frame["case"] == case) & (grid.frame["row"] == row)]
    if found.empty and (row != AVERAGE or case not in set(grid.frame["case"])):
        return Cell(DASH, (notes.mark(run.missing(case)),))
    if row == AVERAGE:
        return Cell(DASH, (notes.mark("No average, because not every row has a value."),))
    if "supported" in found and not found["supported"].iloc[0]:
        return Cell(f"max {number(found['max_ms'].iloc[0])} (n={found['n'].iloc[0]:.0f})")
    return Cell(DASH, (notes.mark("The machine was not calibrated in this run."),))


def long_frame(run: Run, grid: Grid, values: pd.DataFrame, best: dict[str, Standing]) -> pd.DataFrame:
    """The rows of the run's file with title, winner and ties, and the averages as rows of their own."""
    frame = grid.frame.drop(columns=["row", "whole"], errors="ignore")
    places = list(zip(grid.frame["row"], grid.frame["case"], strict=True))
    frame = frame.assign(
        title=frame["case"].map(run.cases),
        winner=[leads(best.get(row), case) == "winner" for row, case in places],
        tie=[leads(best.get(row), case) == "tie" for row, case in places],
    )
    if AVERAGE not in values.index:
        return frame
    key = "prompt_length"
    frame = frame.assign(**{key: frame[key].map("{:.0f}".format)})
    means = grid.frame.groupby("case")[[c for c in AVERAGED if c in frame]].mean()
    ends = average_ends(run, grid)
    averages = [
        {
            "case": case,
            key: "average",
            **means.loc[case],
            **ends.get(case, {}),
            "title": run.cases[case],
            "winner": leads(best.get(AVERAGE), case) == "winner",
            "tie": leads(best.get(AVERAGE), case) == "tie",
        }
        for case in run.cases
        if not math.isnan(at(values, AVERAGE, case))
    ]
    return pd.concat([frame, pd.DataFrame(averages, columns=frame.columns)], ignore_index=True) if averages else frame


def leads(standing: Standing | None, case: str) -> str:
    """Whether a case is the `winner` of a row, one in a `tie`, or neither (empty)."""
    if standing is None or case not in standing.leaders:
        return ""
    return "winner" if standing.won else "tie"


def average_ends(run: Run, grid: Grid) -> dict[str, dict[str, float]]:
    """The ends, by case, of the interval over blocks of the average that a table shows."""
    if not grid.metric:
        return {}
    name = grid.value.removesuffix("_ms")
    found: dict[str, Estimate] = enriched.average(run, grid.metric, grid.frame, grid.value)
    return {case: enriched.ends(name, estimate) for case, estimate in found.items()}
