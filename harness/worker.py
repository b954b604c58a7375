"""A child of the parent: `prepare` makes checkpoint and calibration, `block` measures one case once, `judge` is the
referee behind all blocks.

It runs under whatever interpreter the case needs, so it uses the standard library alone, and speaks to the parent
through a file descriptor of its own: one verdict, always the last line.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import os
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from harness.contract import CaptureRecord, Case, Eviction, SetUp, Stats, Unavailable, Unsupported
from harness.disk import write_aside
from harness.job import CaseJob, Job, read_job
from harness.loader import load, load_case
from harness.measure import energy, referee
from harness.measure.overhead import loop_overhead_us
from harness.measure.pinning import pinned
from harness.measure.preparing import heard
from harness.measure.prompts import prompt
from harness.measure.proof import Replayed, WrongIdentity, prove
from harness.measure.sink import BlockSink, Events
from harness.measure.workloads import workload
from harness.processes.heed import Heed, Interrupted
from harness.processes.orphan import die_with_parent
from harness.schema import CAPTURES, CONTRADICTED, ENERGY, EVICTION, IDENTITY

PROVISION = "cases.runtime.provision.provision"
EXIT_CODES = {"ok": 0, "unsupported": 0, "unavailable": 0, "failed": 1}
MIB, GIB = 2**20, 2**30


def open_case(entry: CaseJob) -> Case:
    """The case itself, or behind the Unix-socket server when its transport says so."""
    if entry.transport == "unix":
        remote: type[Case] = load("harness.ipc.client.RemoteCase")
        return remote(entry.target, rehearse=entry.rehearse)  # type: ignore[call-arg]
    return load_case(entry.target)()


def check_capabilities(job: Job, name: str) -> None:
    """Refuse what the case can't do, before anything is loaded. Raises Unsupported."""
    entry = job.cases[name]
    known = load_case(entry.target).capabilities.samplers
    wanted = job.sampling_of(name).strategy
    if wanted not in known:
        raise Unsupported(f"{entry.title} has no sampler '{wanted}', only {', '.join(sorted(known))}")


def score(case: Case, job: Job, folder: Path) -> None:
    """Write teacher-forced logits: float32 [prompt lengths, forced tokens + 1, vocabulary], little-endian."""
    part = folder / "scores.part"
    with part.open("wb") as file:
        for length in job.sweep.prompt_lengths:
            forced = prompt(job, "forced", job.sweep.forced_tokens, length)
            for row in case.score(prompt(job, "ttft", length, 0), forced):
                row.tofile(file)
    part.replace(folder / "scores.f32")


def measure_block(
    job: Job, name: str, block: int, events: Events, began_ns: int, heed: Heed, near: Sequence[int] = ()
) -> dict[str, Any]:
    """Prepare the case, measure, and say what happened. The verdict names the stage at which a failure struck.

    `began_ns`: when this process was started, by the monotonic clock. `heed`: whether it was asked to stop. `near`: the
    CPUs in the GPU's part of the machine, empty where that is not known.
    """
    entry = job.cases[name]
    folder = job.block_dir(name, block)
    folder.mkdir(parents=True, exist_ok=True)
    sink = BlockSink(folder, name, block, events, entry.clock)
    verdict: dict[str, Any] = {"state": "ok", "reason": "", "stage": "", "engine": ""}
    case: Case | None = None
    sink.stage("load")
    try:
        check_capabilities(job, name)
        case = open_case(entry)
        with heard(case, sink.stage):
            verdict |= describe(case.prepare(job.plan(name)))
        verdict["ready_s"] = round((time.monotonic_ns() - began_ns) / 1e9, 3)
        sink.engine = case.engine_thread
        with heed.measuring(), pinned(job, name, sink.engine, near) as kept_on:
            try:
                workload(job)(job, name, block, case, sink, heed=heed.check, settle=kept_on.check).measure()
            finally:
                verdict["pinning"] = str(kept_on)
        verdict |= counters(case.stats())
        for found in behind(case, job, name, block, sink):
            verdict |= found
    except Unavailable as error:
        verdict |= {"state": "unavailable", "reason": str(error), "stage": sink.current_stage}
    except Unsupported as error:
        verdict |= {"state": "unsupported", "reason": str(error), "stage": sink.current_stage}
    except Interrupted as error:
        verdict |= {"state": "failed", "reason": str(error), "stage": sink.current_stage}
    except WrongIdentity as error:
        said = {"reason": str(error), "identity": f"{CONTRADICTED}: {error}"}
        verdict |= {"state": "failed", "stage": sink.current_stage, **said}
    except Exception as error:  # noqa: BLE001  the border of the process: whatever it was becomes a row
        print_trace()
        verdict |= {"state": "failed", "reason": one_line(error), "stage": sink.current_stage}
    finally:
        heed.patient = True  # what is left to do is done whatever comes
    verdict |= kept(sink, verdict)
    return verdict | closed(case, verdict, sink)


def behind(case: Case, job: Job, name: str, block: int, sink: BlockSink) -> Iterator[dict[str, Any]]:
    """All that is measured and written behind the timed requests; the parts of the verdict as they become known."""
    folder = job.block_dir(name, block)
    if energy.planned(job, block):
        sink.stage("energy")
        write_rows(folder / "energy.csv", ENERGY, energy.rows_of(name, block, energy.spans(job, name, case)))
    if job.sweep.workload == "latency":
        sink.stage("identity")
        yield identify(case, job, name, block, sink.replayed)
    if block == 0 and job.sweep.workload == "latency" and case.capabilities.logits:
        sink.stage("score")
        score(case, job, folder)
    yield footprint(case)
    write_captures(folder / "captures.csv", name, block, case.captured())
    if job.sweep.evict:
        sink.stage("evict")
        write_eviction(folder / "eviction.csv", name, block, case.evict())


def kept(sink: BlockSink, verdict: dict[str, Any]) -> dict[str, Any]:
    """Put the samples on the disk. That it refuses fails a block that was well so far."""
    try:
        sink.close()
    except OSError as error:
        return {"state": "failed", "reason": one_line(error), "stage": "close"} if verdict["state"] == "ok" else {}
    return {}


def print_trace() -> None:
    """The trace of the error in hand into the log, if the disk takes it: the verdict must come through without."""
    with suppress(OSError):
        traceback.print_exc()


def closed(case: Case | None, verdict: dict[str, Any], sink: BlockSink) -> dict[str, Any]:
    """Close the case. That it fails to is said beside what is known, and fails a block that was well so far.

    What is known of one that is not well is told before: to close an engine that broke may end this process.
    """
    if case is None:
        return {}
    if verdict["state"] != "ok":
        foreign = {"identity": verdict["identity"]} if "identity" in verdict else {}
        sink.outcome(verdict["state"], verdict["reason"], verdict["stage"], **foreign)
    sink.stage("close")
    try:
        case.close()
    except Exception as error:  # noqa: BLE001  the border of the process
        print_trace()
        if verdict["state"] == "ok":
            return {"state": "failed", "reason": one_line(error), "stage": "close"}
        return {"reason": f"{verdict['reason']}; close: {one_line(error)}"[:500]}
    return {}


def write_captures(path: Path, name: str, block: int, records: list[CaptureRecord]) -> None:
    """captures.csv of one block: every capture tried; no file where there was none."""
    rows = [
        [name, block, order, taken.bucket, round(taken.seconds, 6), round(taken.grown_bytes / MIB, 3), taken.reason]
        for order, taken in enumerate(records)
    ]
    if rows:
        write_rows(path, CAPTURES, rows)


def write_eviction(path: Path, name: str, block: int, given: Eviction) -> None:
    """eviction.csv of one block: device memory in MiB around giving every graph back."""
    sizes = (given.held_bytes, given.free_before_bytes, given.free_after_bytes)
    write_rows(path, EVICTION, [[name, block, given.graphs, *(round(size / MIB, 2) for size in sizes)]])


def write_rows(path: Path, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Write a whole table or none of it."""
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows([columns, *rows])
    write_aside(path, text.getvalue())


def identify(case: Case, job: Job, name: str, block: int, counted: Replayed) -> dict[str, Any]:
    """Have the case show who answers, write what was seen to identity.csv, and hold it against what the case says.

    The prompt is as long as the shortest timed ones and is none of them. Raises WrongIdentity on a contradiction.
    """
    found = case.identity(prompt(job, "identity", min(job.sweep.prompt_lengths), block))
    write_rows(job.block_dir(name, block) / "identity.csv", IDENTITY, [[name, block, *one] for one in found.kernels])
    return prove(job.cases[name], found, counted)


def describe(set_up: SetUp) -> dict[str, Any]:
    """The part of a verdict that set-up gives."""
    return {
        "engine": set_up.engine,
        "load_s": round(set_up.load_s, 3),
        "compile_s": round(set_up.compile_s, 3),
        "capture_s": round(set_up.capture_s, 3),
    }


def footprint(case: Case) -> dict[str, Any]:
    """The part of a verdict that the end of the block gives."""
    held = case.footprint()
    return {
        "peak_memory_gib": round(held.peak_memory_bytes / GIB, 3),
        "graph_pool_mib": round(held.graph_pool_bytes / MIB, 1),
        "graphs": held.graphs,
    }


def counters(stats: Stats) -> dict[str, Any]:
    """The part of a verdict that counts forwards, of everything measured and nothing behind it."""
    return {"replays": stats.replays, "ungraphed": stats.ungraphed}


def one_line(error: BaseException) -> str:
    """Type and message of an error, on one line of at most 500 characters."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:500]


def prepare(spec: dict[str, Any], events: Events) -> dict[str, Any]:
    """Make or find the checkpoint and calibrate the machine."""

    def report(stage: str, detail: str) -> None:
        events.send("stage", stage=stage, detail=detail)

    found = load(PROVISION)(spec, report)
    return {"loop_overhead_us": loop_overhead_us(spread=spec["device"] == "cuda"), **found}


def ended(work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The verdict on work without samples: what it found, or why it failed."""
    try:
        return {"state": "ok", "reason": "", **work()}
    except Interrupted as error:
        return {"state": "failed", "reason": str(error)}
    except (ValueError, Unavailable) as error:
        return {"state": "failed", "reason": str(error), "users_mistake": isinstance(error, ValueError)}
    except Exception as error:  # noqa: BLE001  the border of the process
        print_trace()
        return {"state": "failed", "reason": one_line(error)}


def arguments() -> argparse.Namespace:
    """The command line, which only the parent writes."""
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--events", type=int, required=True, help="file descriptor for events and the verdict")
    common.add_argument("--began", type=int, help="when the parent started this process, by the monotonic clock, in ns")
    common.add_argument("--parent", type=int, default=os.getppid(), help="process that this one must not outlive")
    parser = argparse.ArgumentParser(description=__doc__)
    modes = parser.add_subparsers(dest="mode", required=True)
    preparing = modes.add_parser("prepare", parents=[common])
    preparing.add_argument("spec", type=Path)
    measuring = modes.add_parser("block", parents=[common])
    measuring.add_argument("job", type=Path)
    measuring.add_argument("case")
    measuring.add_argument("block", type=int)
    measuring.add_argument("--near", nargs="*", type=int, default=[], help="CPUs in the GPU's part of the machine")
    judging = modes.add_parser("judge", parents=[common])
    judging.add_argument("job", type=Path)
    return parser.parse_args()


def main() -> int:
    """Do one piece of work, give one verdict."""
    args = arguments()
    die_with_parent(args.parent)
    events = Events(args.events)
    started = time.monotonic()
    began = round(started * 1e9) if args.began is None else args.began
    heed = Heed()
    heed.listen()
    if args.mode == "prepare":
        verdict = ended(lambda: prepare(json.loads(args.spec.read_text(encoding="utf-8")), events))
    elif args.mode == "judge":
        verdict = ended(lambda: referee.judge(read_job(args.job, args.job.parent), events))
    else:
        verdict = measure_block(read_job(args.job), args.case, args.block, events, began, heed, args.near)
    events.send("verdict", wall_s=round(time.monotonic() - started, 3), **verdict)
    return EXIT_CODES[verdict["state"]]


if __name__ == "__main__":
    raise SystemExit(main())
