"""From the published procedure to the controlled one, a confound less at each step: what each did to the speed-ups."""

from __future__ import annotations

import math
from dataclasses import replace

from reports.experiments.ladder import (
    ENGINE,
    GRAPH,
    HYBRID,
    LEAST_TOLD,
    STAND_IN,
    STEPS,
    Ladder,
    Rung,
    climb,
    why_absent,
    words_of,
)
from reports.experiments.null_comparison import STAND_IN_NAME, between, finding
from reports.experiments.section import Record, Section, paper, stated, timed
from reports.experiments.waterfall import Bar, draw, factor_text
from reports.floors import of_step, of_sweep
from reports.plots import Plot
from reports.run import Run
from reports.table import DAGGER, DASH, Cell, Column, Notes, Table, heads

TITLE = "Attribution: from the paper's protocol to the controlled one"
TEXT = (
    "Each step takes one more confound of the published procedure away and keeps what the steps before it took, "
    "down to the controlled protocol; the model, the card, the prompt lengths and the rest before a request stay. A"
    " factor belongs to its step in this order: in another order the same change may weigh differently. Three "
    "changes can't be separated from their order: logits, model code and KV cache. The lean forward has logits of "
    "the last position only, so the logits come before it; the forward of Transformers keeps no cache here, so the "
    "cache comes after it. And with the model code JIT changes its meaning: from TorchScript around the model to "
    "compiled kernels inside it. What was published as TensorRT-LLM loads and times the model of Transformers: here"
    " it is called what it is, and the real engine has a place of its own."
)
OVER_GRAPH, OVER_STAND_IN = "JIT+CUDA over CUDA Graph", f"JIT+CUDA over {STAND_IN_NAME}"
TEXTS = {"readme": "front page", "draft": "draft"}
TOGETHER = "Of this step and of those before it that have no figure, together."
FIRST = "No step before it has a figure."
NOT_TOLD = "Not told from noise: the range of this factor over the processes of its cases holds 1."
NEAR_1 = f"{100 * (LEAST_TOLD - 1):.0f} %"
NEAR = f"Not told from noise: one process a case, and within {NEAR_1} of 1."
RANGES = (
    "A range: least to most over all combinations of one process of each case behind the figure; a factor's leaves out "
    "the case that stayed. Without a range: one process a case. A factor is not told from noise if its range holds 1, "
    f"or without one if it is within {NEAR_1} of 1. Ranges lie apart by chance alone in one of ten cases with three "
    "processes against three, in one of three with two against two."
)
WHISKERS = "Whiskers: the ranges of the speed-ups. Light grey: a step whose factor is not told from noise."
NO_RANGES = f"One process a case, so no ranges: a factor within {NEAR_1} of 1 is not told from noise."


def section(run: Run) -> Section:
    """Both tables and both figures of the experiment."""
    run = stepwise(run)
    over_graph, over_stand_in = climb(run, GRAPH), climb(run, STAND_IN)
    return Section(
        TITLE, TEXT, [graph_table(run, over_graph), stand_in_table(run, over_stand_in)],
        [graph_plot(run, over_graph), stand_in_plot(run, over_stand_in)],
    )  # fmt: skip


def stepwise(run: Run) -> Run:
    """The run, its protocol without the list of the cases that have another: here each case has its step's."""
    configured = run.manifest["config"].get("protocol")
    if not configured:
        return run
    return replace(run, manifest={**run.manifest, "protocol": f"{configured['name']}, step by step"})


def rule(run: Run, ladder: Ladder) -> str:
    """How an average comes about, as the published texts have it, and what a range is."""
    each, lengths = run.sweep["ttft_iterations"], len(run.sweep["prompt_lengths"])
    blocks = sorted({len(ladder.found[case].blocks) for case in ladder.cases} - {0})
    processes = f" in each of {' or '.join(map(str, blocks))} processes" if blocks[-1:] > [1] else ""
    return (
        f"Average TTFT, by the published rule: mean over {lengths} prompt lengths of the mean of each one's first "
        f"{each} requests{processes}, by the clock of the step; n: requests behind an average. "
        f"{RANGES if ladder.ranges else NO_RANGES}"
    )


def published(case: str) -> list[Record]:
    """Average TTFT in ms of a case and of the hybrid, over the rows of each published text, and their ratio."""
    latency = paper("latency")
    rows = latency[latency["metric"] == "ttft_mean"].groupby(["source", "case"])["latency_ms"].mean()
    return [
        {
            "step": f"published, {name}",
            "theirs_ttft_ms": float(rows[source, case]),
            "ours_ttft_ms": float(rows[source, HYBRID]),
            "speedup": float(rows[source, case] / rows[source, HYBRID]),
        }
        for source, name in TEXTS.items()
    ]


def claimed(case: str) -> float:
    """The speed-up in average TTFT over a case that both texts state."""
    return stated("speedup_of_jit_cuda_graph_over", "ttft", case)


def graph_table(run: Run, ladder: Ladder) -> Table:
    """Step by step: the hybrid over CUDA graphs alone."""
    return table(run, "attribution_cuda_graph", OVER_GRAPH, ladder, GRAPH, Cell("CUDA Graph"), Notes(), captures(run))


def captures(run: Run) -> str:
    """What the captures inside the published requests cost: the host's work, and its speed the first bar's."""
    rows = timed(run, "ttft")
    own = rows[(rows["case"] == f"{GRAPH}_{STEPS[0].name}") & (rows["captures"] > 0)]
    if own.empty:
        return ""
    low, high = own["latency_ms"].min(), own["latency_ms"].max()
    return (
        f"Of the requests of CUDA Graph as published {len(own)} captured, which is the host's work, and took {low:.0f} "
        f"to {high:.0f} ms: a faster host lowers the first bar."
    )


def stand_in_table(run: Run, ladder: Ladder) -> Table:
    """Step by step: the hybrid over what was published as TensorRT-LLM, and over the real engine at last."""
    notes = Notes()
    mark = notes.mark(
        f"{STAND_IN_NAME}; in the row of the real engine TensorRT-LLM itself; in the published rows what the texts "
        "call TensorRT-LLM."
    )
    other, more = Cell("the other", (mark,)), finding(run, ladder)
    return table(run, "attribution_tensorrt_llm", OVER_STAND_IN, ladder, ENGINE, other, notes, more)


def table(
    run: Run, name: str, title: str, ladder: Ladder, case: str, other: Cell, notes: Notes, more: str
) -> Table:  # fmt: skip
    """The published rows, then a row a step; `case` is the other side in the published texts."""
    texts = published(case)
    rows = [published_row(run, record, notes) for record in texts]
    rows += [row(run, ladder, place, notes) for place in range(len(ladder.rungs))]
    first, last = run.whole
    words = [
        more,
        rule(run, ladder),
        "Speed-up: the other's average over that of JIT+CUDA. Factor: speed-up over that of the step before. "
        f"Published: averages of the rows; both texts state {claimed(case):.2f}×.",
        f"Decode: mean over the steps at contexts {first} to {last}." if run.decodes else "",
        floors(run),
        run.facts(ladder.counts()),
    ]
    rules = frozenset({len(texts), *(len(texts) + i for i, r in enumerate(ladder.rungs) if r.theirs == ENGINE)})
    title, facts = f"{title}, step by step (latencies in ms)", " ".join(filter(None, words))
    return Table(name, title, columns(run, other), rows, notes, facts, run.smoke, ladder.frame(texts), rules)


def floors(run: Run) -> str:
    """What the card allows at best, as a sentence."""
    if math.isnan(of_step(run)):
        return ""
    decode = f", {of_step(run):.2f} ms a step of decode" if run.decodes else ""
    return f"Floor: {of_sweep(run):.2f} ms of average TTFT{decode}."


def columns(run: Run, other: Cell) -> list[Column]:
    """The headings; `other` is the name of the other side."""
    sides = (other, Cell("JIT+CUDA"))
    ttft, decode = ([Column(Cell(f"{kind}, {side.text}", side.marks)) for side in sides] for kind in ("TTFT", "Decode"))
    words = heads("Step", "What was changed", wide=("What was changed",), left=("Step",))
    return [*words, *ttft, *heads("Speed-up", "Factor"), *(decode if run.decodes else [])]


def published_row(run: Run, record: Record, notes: Notes) -> list[Cell]:
    """A row of one published text; its decode figures are of other contexts."""
    cells = [Cell(str(record["step"]).capitalize()), Cell(""), Cell(f"{record['theirs_ttft_ms']:.2f}")]
    cells += [Cell(f"{record['ours_ttft_ms']:.2f}"), Cell(f"{record['speedup']:.2f}×"), Cell(DASH)]
    if run.decodes:
        mean = stated("decode", "mean", HYBRID)
        why = f"Published for JIT+CUDA alone, over contexts of 10 to 407 tokens: {mean:.2f} ms."
        cells += [Cell(DASH, (notes.mark(why),))] * 2
    return cells


def row(run: Run, ladder: Ladder, place: int, notes: Notes) -> list[Cell]:
    """A row of one step: averages, speed-up, factor, decode; each dash has its reason."""
    rung = ladder.rungs[place]
    both = (rung.theirs, rung.ours)
    cells = [Cell(rung.step.title), Cell(words_of(run, rung.step))]
    cells += [figure(run, ladder, case, "ttft", notes) for case in both]
    why = tuple(notes.mark(text) for text in ladder.reasons(rung))
    reach = "" if rung.speedup_range.told is None else f" ({between(rung.speedup_range)})"
    cells.append(Cell(DASH, why) if math.isnan(rung.speedup) else Cell(f"{rung.speedup:.2f}×{reach}"))
    cells.append(factor_cell(ladder, place, why, notes))
    return cells + ([figure(run, ladder, case, "decode", notes) for case in both] if run.decodes else [])


def factor_cell(ladder: Ladder, place: int, why: tuple[str, ...], notes: Notes) -> Cell:
    """What the step did to the speed-up."""
    rung = ladder.rungs[place]
    if math.isnan(rung.speedup):
        return Cell(DASH, why)
    if math.isnan(rung.before):
        return Cell(DASH, (notes.mark(FIRST),) if place else ())
    told = rung.factor_range.told
    marks = [notes.mark(TOGETHER)] if ladder.bridges(place) else []
    marks += [notes.mark(NEAR if told is None else NOT_TOLD)] if rung.told is False else []
    reach = "" if told is None else f" ({' to '.join(map(factor_text, rung.factor_range))})"
    return Cell(factor_text(rung.factor) + reach, tuple(marks))


def figure(run: Run, ladder: Ladder, case: str, kind: str, notes: Notes) -> Cell:
    """A mean in ms with the marks of its case, or a dash with the reason."""
    found = ladder.found[case]
    value, why = (found.ttft_ms, found.why) if kind == "ttft" else (found.decode_ms, found.why_no_decode)
    if why:
        return Cell(DASH, (notes.mark(why),))
    marks = []
    if reason := run.failed_equivalence(case):
        marks.append(notes.dagger(f"{run.cases[case]} fails the comparison with the baseline: {reason}."))
    if run.lost_blocks(case):
        marks.append(notes.mark(run.missing(case)))
    return Cell(f"{value:.2f}", tuple(marks))


def graph_plot(run: Run, ladder: Ladder) -> Plot:
    """The waterfall from the published speed-up over CUDA graphs alone to the controlled one."""
    return plot(
        run, "attribution_cuda_graph", f"What the speed-up of {OVER_GRAPH} is made of", ladder, GRAPH, captures(run)
    )


def stand_in_plot(run: Run, ladder: Ladder) -> Plot:
    """The waterfall over what was published as TensorRT-LLM, with the real engine at its end."""
    title = f"What the speed-up of {OVER_STAND_IN} is made of"
    return plot(run, "attribution_tensorrt_llm", title, ladder, ENGINE, finding(run, ladder))


def plot(run: Run, name: str, title: str, ladder: Ladder, case: str, more: str) -> Plot:
    """A waterfall with the published speed-ups as lines."""
    lines = {f"{text}'s rows": record["speedup"] for text, record in zip(TEXTS.values(), published(case), strict=True)}
    lines["stated"] = claimed(case)
    words = [
        "Each bar leads from the speed-up before its step to that after it, with the step's factor on it; log scale.",
        rule(run, ladder),
        WHISKERS if ladder.ranges else "",
        "Violet: published speed-ups, of the averages of each text's rows and as stated.",
        more,
    ]
    caption = " ".join(filter(None, words))
    hatched = [r for r in ladder.rungs if math.isnan(r.speedup)]
    if len(hatched) == len(ladder.rungs):
        return Plot(name, title, caption, None, "no step has average TTFTs of both cases")
    if hatched:
        caption += f" Hatched, without a figure: {'; '.join(without(ladder, rung) for rung in hatched)}."
    lost = [name for name in dict.fromkeys(ladder.cases) if not ladder.found[name].why and run.lost_blocks(name)]
    caption = " ".join([caption, *map(run.missing, lost)])
    if any(ladder.bridges(place) for place in range(len(ladder.rungs))):
        caption += " A bar behind a hatched place shows all that changed since the last figure."
    return Plot(name, title, caption, draw(run, title, caption, bars(run, ladder), lines, ladder.counts()))


def without(ladder: Ladder, rung: Rung) -> str:
    """A step that has no speed-up, and why."""
    return f"{rung.step.title} ({' '.join(ladder.reasons(rung)).rstrip('.')})"


def bars(run: Run, ladder: Ladder) -> list[Bar]:
    """The bars of a waterfall: the first step whole, the way, the controlled ratio whole, behind it the engine."""
    found = []
    for rung in ladder.rungs:
        failed = any(case in run.cases and run.failed_equivalence(case) for case in (rung.ours, rung.theirs))
        why = "; ".join(brief(run, case) for case in (rung.theirs, rung.ours) if ladder.found[case].why)
        ends, told = rung.speedup_range, rung.told is not False
        found.append(Bar(rung.step.tick + DAGGER * failed, rung.before, rung.speedup, why, *ends, told))
        if rung.step == STEPS[-1]:
            found.append(Bar("Controlled\nprotocol", math.nan, rung.speedup, why, *ends))
    return found


def brief(run: Run, case: str) -> str:
    """Why a case has no average, in the words that have room inside a bar."""
    return (why_absent(run, case) or run.why_missing(case)).rstrip(".")
