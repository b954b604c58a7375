"""The card beside the samples, and what a request takes of its energy."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping

import numpy as np
import pandas as pd

from harness.schema import UNTHROTTLED
from reports.experiments.section import table_file
from reports.marks import case_marks
from reports.run import Run
from reports.table import DASH, Cell, Column, Notes, Table, heads, number

STEADY = 0.05
"""Share of the highest SM clock by which the clocks of a case's samples may vary and be called steady."""
HZ = 10.0
"""Readings a second where the manifest does not say."""
BESIDE = 1.5
"""Periods of the telemetry within which two samples are of one reading or of neighbours."""
METRICS = ("ttft", "decode")
READ = (
    "By the reading of NVML nearest to each timed sample, at most a second away. Every sample is kept, whatever its "
    "state. Steady: among samples that nothing slowed down, at their reading or the ones beside it, the lowest SM "
    "clock is within 5 % of the highest. "
)
LOOP = (
    "Host's loop: how long a fixed loop of Python took right behind each sample, on the thread that asked for it, "
    "median, and the share above 1.3 times the quickest tenth of the run; cases that launch their kernels one by one "
    "follow it. "
)
SLOW = 1.3
"""Times the quickest tenth: a processor shared with a busy neighbour takes some 1.8 times as long."""
PINNED = re.compile(r"quickest of (\d+) CPUs, (\d+) moves")
KEPT = (
    "Kept on: among how many CPUs a request's threads were kept on the quickest, and how often a process moved them. "
)
UNREAD = "Nothing was read near {count} of {n} samples: whether they were slowed down is not known."
ENERGY = (
    "Joules of the whole card, by NVML's counter, over about a second of requests of one length back to back, behind "
    "everything timed: nothing is subtracted. At rest: the card's power with the case loaded and no request. Back to "
    "back the card may reach its power cap, so a request's time there is not that of the other tables. "
)


def known(run: Run) -> bool:
    """Whether the samples have the state of a card beside them; on the CPU and in older runs they do not."""
    return bool(run.samples[["temperature_c", "co_tenants"]].notna().any(axis=None))


def timed(run: Run, case: str) -> pd.DataFrame:
    """The timed samples of a case."""
    return run.samples[(run.samples["case"] == case) & run.samples["metric"].isin(METRICS)]


def slowed(own: pd.DataFrame) -> Counter[str]:
    """How many samples each reason slowed down."""
    parts = (reason for text in own["throttle"].fillna("") for reason in set(str(text).split("|")))
    return Counter(reason for reason in parts if reason not in UNTHROTTLED)


def rate(run: Run) -> float:
    """Readings of the card in a second."""
    stated = run.manifest["config"].get("telemetry")
    hz = stated.get("hz") if isinstance(stated, Mapping) else None
    return float(hz) if isinstance(hz, int | float) and 0 < hz < math.inf else HZ


def steady(own: pd.DataFrame, period_ns: float = 1e9 / HZ) -> str:
    """Whether the clock was steady, by the rule of READ; a dash where no sample can tell.

    Near a reading with a reason to slow down, idleness included, the clock is on its way: the driver names the reason
    a reading later. So conditions.unsteady has it. Readings are `period_ns` apart.
    """
    found = [free_clocks(part, period_ns) for _, part in own.groupby("block")]  # a block has one host's clock
    clocks = pd.concat(found) if found else pd.Series(dtype=float)
    if clocks.empty:
        return DASH
    return "yes" if clocks.max() - clocks.min() <= STEADY * clocks.max() else "no"


def free_clocks(own: pd.DataFrame, period_ns: float) -> pd.Series:
    """The clocks of these samples, in MHz, that stand far from any reading with a reason to slow down."""
    unnamed = own["throttle"].fillna("").isin({"", "none"})
    free, named = own[unnamed & own["sm_clock_mhz"].notna()], np.sort(own.loc[~unnamed, "started_ns"].to_numpy(float))
    if len(named):
        times = free["started_ns"].to_numpy(float)
        behind = np.searchsorted(named, times)
        before, after = named[np.maximum(behind - 1, 0)], named[np.minimum(behind, len(named) - 1)]
        free = free[np.minimum(abs(times - before), abs(after - times)) > BESIDE * period_ns]
    return free["sm_clock_mhz"]


def machine_frame(run: Run) -> pd.DataFrame:
    """One row a case: the card's state over its timed samples."""
    rows, period_ns = [], 1e9 / rate(run)
    quick = float(run.samples.loc[run.samples["metric"].isin(METRICS), "host_loop_us"].quantile(0.1))
    for case in run.cases:
        own = timed(run, case)
        reasons = slowed(own)
        nothing = own[["sm_clock_mhz", "temperature_c", "power_w"]].isna().all(axis=1)
        unread = nothing & own["throttle"].fillna("").eq("")
        hit = own["throttle"].fillna("").map(lambda text: any(r not in UNTHROTTLED for r in str(text).split("|")))
        rows.append({
            "case": case, "n": len(own), "sm_clock_low_mhz": own["sm_clock_mhz"].min(),
            "sm_clock_high_mhz": own["sm_clock_mhz"].max(), "steady": steady(own, period_ns),
            "temperature_max_c": own["temperature_c"].max(), "power_median_w": own["power_w"].median(),
            "throttled": int(hit.astype(bool).sum()),
            "reasons": "; ".join(f"{n} {reason}" for reason, n in reasons.most_common()),
            "with_co_tenants": int((own["co_tenants"] > 0).sum()),
            "co_tenants_unknown": int(own["co_tenants"].isna().sum()),
            "co_tenant_max_mib": own["co_tenant_mib"].max(), "unread": int(unread.sum()),
            "host_loop_us": own["host_loop_us"].median(), "host_slow": slow_share(own["host_loop_us"], quick),
        })  # fmt: skip
    return pd.DataFrame(rows)


def slow_share(loops: pd.Series, quick: float) -> float:
    """The share of a case's samples at which its processor was slow, NaN where its loop was not timed.

    `quick` is of the run, not of the case: the processors of a case may all have been slow, all the time.
    """
    known = loops.dropna()
    return float((known > SLOW * quick).mean()) if len(known) else math.nan


def kept_on(run: Run, case: str) -> str:
    """On which CPUs a case's threads were kept, over its blocks; why they were not, where they were not."""
    said = pinning_of(run, case)
    found = [match for text in said if (match := PINNED.match(text))]
    if not found:
        return "; ".join(dict.fromkeys(said)) or DASH
    cpus, moves = (sorted({int(match[group]) for match in found}) for group in (1, 2))
    others = Counter(why for text in said if (why := unkept(text)))
    rest = [f"{n} block{'s' * (n > 1)} {why}" for why, n in others.items()]
    return "; ".join([f"quickest of {to(cpus)}, {to(moves)} moves", *rest])


def pinning_of(run: Run, case: str) -> list[str]:
    """What each block of a case says of it; nothing in runs made before."""
    return [str(text) for text in run.status.loc[run.status["case"] == case, "pinning"].dropna() if text]


def unkept(text: str) -> str:
    """Why the threads of a block were not kept, or from some time on not any more; empty where they were."""
    at = max(text.find("none: "), text.find("stopped: "))
    return text[at:] if at >= 0 else ""


def to(numbers: list[int]) -> str:
    """The lowest to the highest."""
    return f"{numbers[0]}" if numbers[0] == numbers[-1] else f"{numbers[0]} to {numbers[-1]}"


def machine_table(run: Run) -> Table:
    """One row a case: clock, temperature, power, and how many samples were slowed down or shared the card."""
    notes, frame, rows = Notes(), machine_frame(run), []
    looped = bool(frame["host_loop_us"].notna().any())
    pinned = bool(run.status["pinning"].fillna("").any())
    more = 6 + 2 * looped + pinned
    for record in frame.to_dict("records"):
        title, marks = run.cases[str(record["case"])], case_marks(run, str(record["case"]), notes)
        if not record["n"]:
            rows.append([Cell(title, marks), *[Cell(DASH, (notes.mark(run.missing(str(record["case"]))),))] * more])
            continue
        why = [notes.mark(f"{title}: {record['reasons']}.")] if record["reasons"] else []
        n, unread = int(record["n"]), int(record["unread"])
        why += [notes.mark(f"{title}: {UNREAD.format(count=unread, n=n)}")] if unread else []
        hidden = int(record["co_tenants_unknown"])
        unknown = (notes.mark(f"{title}: of {hidden} samples it is not known who else computed."),) if hidden else ()
        low, high = (float(record[f"sm_clock_{end}_mhz"]) for end in ("low", "high"))
        rows.append([
            Cell(title, marks), Cell(DASH if math.isnan(low) else f"{low:.0f} to {high:.0f}"),
            Cell(str(record["steady"])), Cell(number(float(record["temperature_max_c"]), 0)),
            Cell(number(float(record["power_median_w"]), 0)),
            Cell(f"{record['throttled']} of {n - unread}" if n > unread else DASH, tuple(why)),
            Cell(DASH if hidden == n else f"{record['with_co_tenants']}", unknown),
            *(loop_cells(float(record["host_loop_us"]), float(record["host_slow"])) if looped else ()),
            *((Cell(kept_on(run, str(record["case"]))),) if pinned else ()),
        ])  # fmt: skip
    columns = ["Case", "SM clock (MHz)", "Steady", "Hottest (°C)", "Power, median (W)", "Samples slowed down",
               "Samples beside other processes", *(("Host's loop (us)", "Slow host") if looped else ()),
               *(("Kept on",) if pinned else ())]  # fmt: skip
    head, host = (
        heads(*columns, left=("Case", "Steady", "Kept on"), wide=("Kept on",)),
        " and the host" if looped else "",
    )
    facts = f"{READ}{LOOP if looped else ''}{KEPT if pinned else ''}{run.facts(frame['n'])}"
    return Table("machine", f"The card{host} beside the timed samples", head, rows, notes, facts, run.smoke, frame)


def loop_cells(median: float, slow: float) -> list[Cell]:
    """The loop's median and the share of slow ones."""
    return [Cell(number(median)), Cell(DASH if math.isnan(slow) else f"{100 * slow:.0f} %")]


def measured(run: Run) -> bool:
    """Whether a case's energy was measured."""
    return bool(table_file(run, "energy")["joules"].notna().any())


def energy_table(run: Run) -> Table:
    """A row a prompt length in joules a request, one for decode in joules a token, one at rest in watts."""
    notes, frame = Notes(), table_file(run, "energy")
    ttft, decode = (frame[frame["metric"] == metric] for metric in METRICS)
    lines = [
        (f"{length:.0f} tokens, J a request", ttft[ttft["prompt_length"] == length], "joules_per_request")
        for length in sorted(set(ttft["prompt_length"]))
    ]
    lines += [("Decode, J a token", decode, "joules_per_token")] if len(decode) else []
    lines += [("At rest, W", frame[frame["metric"] == "rest"], "idle_w")]
    rows = [
        [Cell(label), *(energy_cell(run, case, own[own["case"] == case][column], notes) for case in run.cases)]
        for label, own, column in lines
    ]
    columns = [*heads("Prompt", left=("Prompt",))]
    columns += [Column(Cell(title, case_marks(run, case, notes))) for case, title in run.cases.items()]
    counts = frame.groupby("case")["block"].nunique()
    of = f"Of {counts.max()} process{'es' if counts.max() > 1 else ''} a case, so without intervals. "
    facts = f"{ENERGY}{of}{run.facts(frame.loc[frame['metric'] != 'rest', 'n'])}"
    return Table("energy", "Energy", columns, rows, notes, facts, run.smoke, frame, frozenset({len(lines) - 2}))


def energy_cell(run: Run, case: str, values: pd.Series, notes: Notes) -> Cell:
    """The mean over the blocks that measured it, or a dash with the reason."""
    if values.notna().any():
        return Cell(number(float(values.mean())))
    lost = case not in set(run.samples["case"])
    return Cell(DASH, (notes.mark(run.missing(case) if lost else "The energy counter was not read around it."),))
