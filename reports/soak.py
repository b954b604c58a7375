"""`python -m reports.soak results/soak/cpu.json`: did a soaked server stay as it was? A table, a figure, a verdict.

The exit code is 0 when every check passes, 1 when one fails, and 2 for a file that no soak wrote.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy import stats

from harness.output.spoken import spoken
from reports import style, terminal
from reports.canvas import framed
from reports.experiments.draw import legend_above
from reports.files import read_object
from reports.plots import Plot
from reports.quantiles import Array
from reports.table import DASH, Cell, Notes, Table, heads, number
from reports.write import write_figure, write_table

WARM_REQUESTS = 500
"""Requests at the beginning whose latency counts nowhere."""
LATENCY = 0.05
SLOPE_BYTES = 64.0
"""Bytes a request: a million requests would take 61 MiB."""
MIB = 1 << 20
SERIES = {
    "server_rss_mib": ("Server: memory (MiB)", 4.0),
    "server_descriptors": ("Server: descriptors", 0.0),
    "server_threads": ("Server: threads", 0.0),
    "client_rss_mib": ("Client: memory (MiB)", 4.0),
    "client_descriptors": ("Client: descriptors", 0.0),
    "client_threads": ("Client: threads", 0.0),
    "gpu_mib": ("GPU: memory in use (MiB)", 16.0),
    "graph_pool_mib": ("GPU: memory of graphs (MiB)", 16.0),
}
"""By its name: the heading, and what the last tenth may have more than the second."""
LEAST_BLOCKS = 20
DRAWS, SEED = 2000, 20261121
WORDS = (
    "{done:,} requests in {seconds:,} s: {counts}. {engine}; seed {seed}. Memory, descriptors and threads: the last "
    "tenth's median over the blocks may lie above the second tenth's by the tolerance, and the slope from there on "
    "(Theil-Sen, 95 %) must reach down to {slope:.0f} bytes a request. Latency: medians of the same requests, over all "
    "prompt lengths, the last tenth against the first behind {warm} requests; within 5 %, and the "
    "interval within 10 %. Where they are not, the machine was not quiet, or the server has aged: the line passes only "
    "if the old server and a fresh one, asked in turns, lie within 5 %. Intervals: 95 %, by a bootstrap over blocks."
)


class Check(NamedTuple):
    """A line of the table: what, before and after, how far that may go, and whether it passes."""

    name: str
    before: str
    after: str
    change: str
    allowed: str
    passed: bool


def load(path: Path) -> dict[str, Any]:
    """The file of a soak. Raises ValueError with one sentence for any other."""
    found = read_object(path)
    if not {"facts", "blocks", "age", "counts", "ended"} <= set(found):
        raise ValueError(f"{path} is no soak's file: it lacks facts, blocks, age, counts or ended")
    blocks = found["blocks"]
    if not isinstance(blocks, list) or len(blocks) < LEAST_BLOCKS:
        raise ValueError(f"{path} has fewer than {LEAST_BLOCKS} blocks of requests: too few to compare tenths")
    return found


def checks(soak: dict[str, Any]) -> list[Check]:
    """Every check of a soak. Raises ValueError for blocks of another form."""
    try:
        blocks, facts = soak["blocks"], soak["facts"]
        done, asked = int(blocks[-1]["requests"]), int(facts["requests"])
        whole = soak["ended"] == "whole" and done >= asked
        told = "every answer as before" if whole else str(soak["ended"])
        found = [Check("Requests answered", f"{asked:,}", f"{done:,}", "", told, whole)]
        requests = np.array([block["requests"] for block in blocks], float)
        for key in SERIES:
            if key in blocks[0]:
                values = np.array([block[key] for block in blocks], float)
                if (values >= 0).any():
                    found.append(grown(key, requests[values >= 0], values[values >= 0]))
        return [*found, *latency(blocks, soak["age"])]
    except (KeyError, TypeError) as error:
        raise ValueError(f"the soak's file has a block of another form: {error}") from error


def grown(key: str, requests: Array, values: Array) -> Check:
    """Whether a reading stayed where it was in the second tenth."""
    title, tolerance = SERIES[key]
    tenth = max(1, len(values) // 10)
    before, after = float(np.median(values[tenth : 2 * tenth])), float(np.median(values[-tenth:]))
    unit = MIB if key.endswith("_mib") else 1
    # A short soak can't tell a slope that its tolerance allows.
    bound = max(SLOPE_BYTES, tolerance * unit / requests[-1])
    slope, _, low, high = stats.theilslopes(values[tenth:] * unit, requests[tenth:])
    passed = bool(after - before <= tolerance and low <= bound)
    digits = 1 if unit == MIB else 0
    change = f"{after - before:+.{digits}f}; {slope:.3g} ({low:.3g} to {high:.3g}) a request"
    return Check(title, number(before, digits), number(after, digits), change, f"+{tolerance:g}", passed)


def latency(blocks: Sequence[dict[str, Any]], age: Sequence[float]) -> list[Check]:
    """The last tenth's latency against the first's, and the old server's against a fresh one's."""
    warm = [block for block in blocks if block["requests"] > WARM_REQUESTS]
    medians = np.log(np.array([[block["ms"][length] for length in blocks[0]["ms"]] for block in warm]))
    tenth = max(3, len(warm) // 10)
    first, last = medians[:tenth], medians[-tenth:]
    ratio, low, high = drawn(first, last)
    equal = abs(ratio - 1) <= LATENCY and max(1 - low, high - 1) <= 2 * LATENCY
    before, after = (number(float(np.exp(np.median(part, axis=0).mean())), 3) for part in (first, last))
    aged = Check("Latency: old server / fresh server", "", "", DASH, "0.95 to 1.05", False)
    same_age = False
    if len(age) > 0:
        logs = np.log(np.array(age, float))[:, None]
        old, old_low, old_high = drawn(np.zeros_like(logs), logs)
        same_age = abs(old - 1) <= LATENCY
        aged = aged._replace(change=f"{old:.3f} ({old_low:.3f} to {old_high:.3f})", passed=same_age)
    cpu = np.array([block["cpu_ms"] for block in warm])
    spent = [float(np.median(part)) for part in (cpu[:tenth], cpu[-tenth:])]
    allowed = "0.95 to 1.05" if equal or not same_age else "0.95 to 1.05; decided by the line below"
    return [
        Check("Latency (ms)", before, after, f"{ratio:.3f} ({low:.3f} to {high:.3f})", allowed, equal or same_age),
        aged,
        Check("Server's processor time a request (ms)", number(spent[0], 3), number(spent[1], 3),
              f"{spent[1] / max(spent[0], 1e-9):.3f}", "told only", True),
    ]  # fmt: skip


def drawn(first: Array, last: Array) -> tuple[float, float, float]:
    """exp of the mean over columns of the medians' difference, last less first, and its interval over blocks."""
    rng = np.random.default_rng(SEED)

    def one(a: Array, b: Array) -> Array:
        return np.asarray(np.exp((np.median(b, axis=-2) - np.median(a, axis=-2)).mean(axis=-1)))

    many = one(
        first[rng.integers(0, len(first), (DRAWS, len(first)))], last[rng.integers(0, len(last), (DRAWS, len(last)))]
    )
    low, high = np.quantile(many, [0.025, 0.975])
    return float(one(first, last)), float(low), float(high)


def table(name: str, soak: dict[str, Any], found: Sequence[Check]) -> Table:
    """The checks as a table."""
    frame = pd.DataFrame(found)
    rows = [[*map(Cell, check[:5]), Cell("ok" if check.passed else "FAILED", bold=not check.passed)] for check in found]
    facts, counts = soak["facts"], ", ".join(f"{times:,} {what}" for what, times in soak["counts"].items())
    said = WORDS.format(
        done=soak["blocks"][-1]["requests"], seconds=facts.get("seconds", 0), counts=counts, seed=facts.get("seed"),
        engine=facts.get("engine", "no engine"), slope=SLOPE_BYTES, warm=WARM_REQUESTS,
    )  # fmt: skip
    last = soak["blocks"][-1]
    if "code" in facts:
        said += f" Code of commit {facts['code']}."
    if "captures" in last:
        said += f" Graphs: {last['captures']:,.0f} captured, {last['evictions']:,.0f} evicted."
    columns = heads("Check", "Before", "After", "Change", "Allowed", "", left=("Check", "Allowed"))
    return Table(name, f"Soak on {facts.get('device')}", columns, rows, Notes(), said, False, frame)


def figure(name: str, soak: dict[str, Any]) -> Plot:
    """Latency and memory over requests."""
    blocks, where = soak["blocks"], "GPU" if soak["facts"].get("device") == "cuda" else "CPU"
    requests = np.array([block["requests"] for block in blocks]) / 1000
    with mpl.rc_context(style.RC):
        made = Figure(figsize=(7.6, 6.0))
        upper, lower = made.subplots(2, 1, sharex=True)
        over_time(upper, requests, np.array([list(block["ms"].values()) for block in blocks], dtype=float))
        grown_by = [key for key in ("server_rss_mib", "client_rss_mib", "gpu_mib") if key in blocks[0]]
        for key, look in zip(grown_by, style.series(grown_by).values(), strict=True):
            values = [block[key] - blocks[0][key] for block in blocks]
            lower.plot(requests, values, color=look.colour, label=SERIES[key][0].removesuffix(" (MiB)"))
        lower.set_ylabel("MiB above the first block")
        lower.set_xlabel("Requests (thousands)")
        legend_above(lower, len(grown_by))
        caption = (
            "Above: a dot is a block of requests, the median over its prompt lengths; the line is their median over a "
            "twentieth of the soak, the band its middle half. Below: what each holds beyond its reading after the "
            "first block."
        )
        said = f"{blocks[-1]['requests']:,} requests; {where}; {soak['facts'].get('engine', 'no engine')}."
        title = f"A server asked {blocks[-1]['requests']:,} times, on a {where}: latency and memory"
        framed(made, title, (caption, said), False, 0.97, 0.45, 0.55)
        made.subplots_adjust(hspace=0.22)
    return Plot(name, "Soak", "Latency and memory over requests", made)


def over_time(axes: Axes, requests: Array, latency: Array) -> None:
    """Latencies by block and prompt length, in ms: the blocks' medians as dots, twentieths as a line with a band."""
    look = next(iter(style.series(["latency"]).values()))
    middle = np.median(latency, axis=1)
    axes.plot(requests, middle, ".", color=look.colour, alpha=0.3, markersize=4, markeredgewidth=0)
    parts = np.array_split(np.arange(len(middle)), min(20, len(middle)))
    low, half, high = np.array([np.quantile(middle[part], (0.25, 0.5, 0.75)) for part in parts]).T
    places = [requests[part].mean() for part in parts]
    axes.fill_between(places, low, high, color=look.colour, alpha=0.2, linewidth=0)
    axes.plot(places, half, color=look.colour)
    axes.set_ylabel("Latency (ms)")
    axes.set_ylim(bottom=0)


def arguments(argv: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m reports.soak", description=__doc__)
    parser.add_argument("file", type=Path, help="what python -m tests.soak wrote")
    return parser.parse_args(argv)


def main(argv: Sequence[str]) -> int:
    """0, 1 when a check fails, 2 with one sentence on stderr."""
    path = arguments(argv).file
    try:
        soak = load(path)
        found = checks(soak)
        made = table(path.stem, soak, found)
        write_table(made, path.parent)
        write_figure(figure(path.stem, soak), path.parent)
    except (ValueError, OSError) as error:
        return terminal.mistake(error, "reports.soak")
    terminal.show(made, terminal.console())
    return 0 if all(check.passed for check in found) else 1


if __name__ == "__main__":
    sys.exit(spoken(lambda: main(sys.argv[1:])))
