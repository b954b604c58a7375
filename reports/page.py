"""The page of a run: one HTML file that needs nothing else, neither network nor files."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from reports.experiments.section import Section
from reports.plots import Plot
from reports.run import SMOKE, STEPPED, Run
from reports.table import Table

PARTS = (
    ("Time to first token", ("ttft",)),
    ("Summary", ("summary",)),
    ("Tail and decode", ("p99", "decode")),
    ("Against each other", ("speedup", "significance")),
    ("JIT and graphs: effects and interaction", ("effects",)),
    ("Against the floor", ("ttft_ratio", "headroom")),
    ("Block by block", ("blocks",)),
    ("Where the time goes", ("clocks",)),
    ("Do the cases compute the same?", ("equivalence", "divergence")),
    ("Who answered?", ("identity",)),
    ("On what machine?", ("machine", "energy")),
)
"""The general tables by heading; the figures stand behind the summary."""
DEFINITIONS = {
    "TTFT": "time to first token: from the prompt's token ids in host memory to the first new token id in host memory, "
    "by the client's clock, at batch size 1; tables show the median of the warm requests.",
    "Cold TTFT": "the very first request of a fresh process, one sample a block, never among the warm samples.",
    "Decode": "time of one further token, host to host; its context is the number of tokens before it.",
    "P99": "the 99th percentile by rank over the requests of all blocks pooled; given only where the exact two-sided "
    "95 % interval has both ends, which takes 368 samples, and the maximum is shown otherwise. The interval takes the "
    "samples for independent and alike in every block; the medians block by block show how far that holds.",
    "Median interval": "the exact, distribution-free 95 % interval between two order statistics, of this run's "
    "requests as they came; it says nothing of what another process would measure.",
    "Interval over blocks": "95 % interval of averages, means, decode percentiles and speed-ups, with whole blocks as "
    "units: Student's t on the scatter of the blocks' logarithms, for means and decode percentiles by way of a "
    "bootstrap that draws whole blocks; none from fewer than three blocks.",
    "Winner": "the case below every other one that may win, each by Student's t over paired blocks (the table of "
    "tests says how), at 5 % after Holm's correction over the pairs of the row (the average, the whole range of decode "
    "and the summary: over all pairs and metrics); otherwise those that the lowest does not beat are named as a tie.",
    "Against, p after Holm": "the case that the row's is held against, and the probability of a difference like this "
    "one or a larger if there were none, corrected for all tests of the table (Holm 1979).",
    "Bandwidth used": "the weights' bytes, read once, over the median time and the measured read bandwidth.",
    "Launch gap": "the client's time less the GPU's, median over requests of the difference.",
    "Clocks": "the client's clock covers the whole request; the server's, where there is one, leaves the socket out; "
    "GPU time lies between two CUDA events around the engine's work. Differences are taken request by request.",
    "Floor": "the longer of reading every weight once at the measured read bandwidth and of the arithmetic of the "
    "prompt at the measured matmul rate; nothing on this card can be faster.",
    "Ratio to the floor": "median over floor: 1 is the limit of the hardware.",
    "Equivalence": "under teacher forcing each case's logits stay within the tolerance of the baseline's, relative in "
    "the 2-norm, and its likeliest token is the baseline's or a near-tie; a case that fails keeps its row, marked.",
    "Identity": "behind everything timed a profiler records the kernels of one prefill and two decode steps and the "
    "CUDA graphs launched; they must be those that the case's code says, and every timed sample of a case with graphs "
    "must count a replay. What an engine hides is called not proven.",
    "SM clock; steady; hottest; power, median": "the card's state by the reading nearest to each sample: lowest and "
    "highest clock, whether that stays within 5 % where nothing slows it, the highest temperature, the median power.",
    "Samples slowed down, samples beside other processes": "those with a reason of the driver to lower the clock, and "
    "those during which somebody else computed on the GPU; they are counted and kept.",
    "Host's loop, slow host": "a fixed loop of Python timed right behind each sample by the thread that asked for it, "
    "median, and the share of samples at which it took more than 1.3 times the quickest tenth of the run: a processor "
    "shared with a busy neighbour takes nearly twice as long, and so does a case that waits for it.",
    "Energy": "joules of the whole card by NVML's counter over requests of one length back to back, over their number; "
    "the counter is too slow for one request, and nothing is subtracted.",
    "Speed-up": "latency of the other case over that of this one: geometric mean over prompt lengths, or the ratio of "
    "medians over the whole range for decode.",
    "Avg TTFT, Avg P99": "the mean over prompt tokens (the lengths) of the medians, or of each length's P99; an "
    "average is given only where every length has its value.",
    "Context before the step": "the tokens in the cache when a decode step starts; a row takes the steps within its "
    "range, both ends included.",
    "Block": "one process that loads a case, measures the whole plan and ends; its column holds its own medians by "
    "metric, and largest over smallest is how far the blocks of a case lie apart. Standard deviation: of the blocks' "
    "medians. Share of variance: of all requests' variance, the part that lies between blocks.",
    "Client − server, client − GPU": "what the socket and its messages, and the host's work, add to a request.",
    "Set-up": "load, compile and capture together, in seconds before the first request; the median over blocks.",
    "Peak memory": "the most device memory that the case's process held, weights included; the largest of its blocks.",
    "Graphs": "CUDA graphs that the case held at the end of a block.",
    "Largest relative logit error": "over the compared steps, the largest norm of the difference of two logit vectors "
    "over the norm of the baseline's.",
    "Teacher-forced tokens equal, timed tokens equal": "how many of the likeliest tokens are the baseline's: of those "
    "compared under teacher forcing, and of the first tokens of the timed requests.",
    "Timed ids judged, near-ties, wrong": "behind all blocks the baseline is given the very text that a case wrote. Of "
    "each timed id, of requests and of decode steps, it says whether that is its likeliest there, a near-tie (so close "
    "that an error within the tolerance may swap the two), or wrong: then the case has not passed.",
    "Teacher-forced: first step with another id, timed: first request with another id, decode: context at the first "
    "other id": "where the likeliest token is first not the baseline's: by step behind the prompt, by timed request of "
    "a length, by the length of a decode step's context.",
    "Timed requests not compared": "requests of blocks that the baseline does not have.",
    "State, reason, engine": "how a block ended and why, and what answered, as the engine itself says.",
}


AS_PUBLISHED = (
    "time to first token at batch size 1, in tables the median over the first requests of a length; cold starts and "
    "first captures are among them, as the protocol has it, so the published tables, which take means, differ."
)
BY_SERVER = (
    " A case with a server counts by the server's clock, which leaves the socket out, the others by the client's."
)
STEP_BY_STEP = {
    "TTFT": "time to first token at batch size 1: the mean over the first requests of a length, as published, by the "
    "clock that the step's procedure names; then the mean over lengths.",
    "Speed-up": "the ratio of two averages.",
}


def definitions(run: Run) -> dict[str, str]:
    """The words as this run's procedures mean them."""
    if run.study in STEPPED:
        return STEP_BY_STEP
    procedures = [run.procedure(case) for case in run.cases]
    found = dict(DEFINITIONS)
    if any(procedure.get("warmup") == "none" for procedure in procedures):
        found["TTFT"] = AS_PUBLISHED
        del found["Cold TTFT"]
    if any(procedure.get("clock") == "server" for procedure in procedures):
        found["TTFT"] += BY_SERVER
    if reason := run.manifest.get("no_energy"):
        found["Energy"] += f" Not measured in this run: {reason}."
    return found


def environment() -> Environment:
    """The templates of pages; what they are given is escaped, and a name that they don't know is an error."""
    return Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def embedded(plots: Sequence[Plot], images: Mapping[str, bytes]) -> list[tuple[Plot, str]]:
    """Each plot with its PNG as the text that goes inside a page."""
    return [(plot, base64.b64encode(images[plot.name]).decode("ascii")) for plot in plots]


def render(
    run: Run, tables: list[Table], plots: list[Plot], images: Mapping[str, bytes], study: Section | None = None
) -> str:
    """The page as text, an experiment's section first.

    Titles and reasons are escaped; `images`, PNGs by the plot's name, are put inside.
    """
    named = {table.name: table for table in tables}
    order = [(title, [named[name] for name in names if name in named]) for title, names in PARTS]

    return (
        environment()
        .get_template("template.html")
        .render(
            run=run,
            smoke=SMOKE if run.smoke else "",
            parts=[(title, found) for title, found in order if found],
            status=named["status"],
            plots=embedded(plots, images),
            study=study,
            study_plots=embedded(study.plots, images) if study else [],
            definitions=definitions(run),
            manifest=json.dumps(run.manifest, indent=2, ensure_ascii=False),
        )
    )
