"""What can happen to the files of a run, each with words of the sentence that must come of it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

from harness.stored.check import Check
from harness.stored.command import validate

Spoil = Callable[[Path], object]


def failures(folder: Path) -> list[Check]:
    """What `harness validate` says doesn't hold."""
    return [line for line in validate(folder) if line.state == "FAILED"]


def field(path: Path, row: int, column: str, text: str) -> None:
    """Set one field; rows count from 1 after the columns."""
    lines = path.read_text().split("\n")
    fields = lines[row].split(",")
    fields[lines[0].split(",").index(column)] = text
    lines[row] = ",".join(fields)
    path.write_text("\n".join(lines))


def take_out(folder: Path, *names: str) -> None:
    """Keys of the manifest."""
    path = folder / "manifest.json"
    stored = json.loads(path.read_text())
    path.write_text(json.dumps({key: value for key, value in stored.items() if key not in names}, indent=1))


def forget_digests(folder: Path) -> None:
    """As in a run from before there were any, by code that is in no commit."""
    take_out(folder, "files", "digest", "attempts", "git")


def put(name: str, row: int, column: str, text: str) -> Spoil:
    return lambda folder: field(folder / name, row, column, text)


def write(name: str, text: str) -> Spoil:
    return lambda folder: (folder / name).write_text(text)


def edit(name: str, how: Callable[[bytes], bytes]) -> Spoil:
    return lambda folder: (folder / name).write_bytes(how((folder / name).read_bytes()))


def replace(name: str, old: str, new: str) -> Spoil:
    def spoil(folder: Path) -> None:
        text = (folder / name).read_text()
        assert old in text
        (folder / name).write_text(text.replace(old, new, 1))

    return spoil


def lines(name: str, how: Callable[[list[str]], list[str]]) -> Spoil:
    return lambda folder: (folder / name).write_text(
        "".join(how((folder / name).read_text().splitlines(keepends=True)))
    )


def both(*spoils: Spoil) -> Spoil:
    return lambda folder: [spoil(folder) for spoil in spoils]


def foreign(folder: Path) -> None:
    shutil.copy(folder / "telemetry.csv", folder / "status.csv")


SAMPLES, MANIFEST, ITERATIONS = "samples.csv", "manifest.json", '"ttft_iterations": 3'
DAMAGE: dict[str, tuple[Spoil, str]] = {
    "truncated": (edit(SAMPLES, lambda data: data[:-7]), "cut off"),
    "a row lost": (lines(SAMPLES, lambda rows: rows[:-1]), "has 13 samples, and 14 are planned"),
    "a row twice": (lines(SAMPLES, lambda rows: [*rows[:2], *rows[1:]]), "has 15 samples, and 14 are planned"),
    "a row for another": (lines(SAMPLES, lambda rows: [*rows[:3], rows[2], *rows[4:]]), "lacks the sample ttft of 10"),
    "reordered": (lines(SAMPLES, lambda rows: [*rows[:3], rows[4], rows[3], *rows[5:]]), "where the plan has"),
    "mistyped": (put(SAMPLES, 2, "host_ms", "fast"), "row 3: host_ms is 'fast', not a finite number"),
    "not finite": (put(SAMPLES, 2, "host_ms", "inf"), "not a finite number"),
    "negative": (
        both(put(SAMPLES, 2, "host_ms", "-1"), put(SAMPLES, 2, "latency_ms", "-1")),
        "row 3: a latency is not",
    ),
    "no time for a loop": (put(SAMPLES, 2, "host_loop_us", "0.000"), "row 3: host_loop_us is '0.000', not above 0"),
    "another clock": (put(SAMPLES, 2, "latency_ms", "0.5"), "whose clock counts"),
    "before its time": (put(SAMPLES, 3, "started_ns", "1"), "row 4 starts before the one above"),
    "blocks that overlap": (
        both(put(SAMPLES, 14, "host_ms", "1e9"), put(SAMPLES, 14, "latency_ms", "1e9")),
        "row 16: the block starts before the one above it is over",
    ),
    "answered by graphs": (put("status.csv", 1, "replayed", "13 of 14"), "replayed is '13 of 14', and samples.csv"),
    "samples of nobody": (put("status.csv", 1, "state", "unavailable"), "is unavailable and has 14 samples"),
    "a foreign case": (put(SAMPLES, 2, "case", "intruder"), "intruder"),
    "another metric": (put(SAMPLES, 2, "metric", "speed"), "not one of"),
    "no such token": (put(SAMPLES, 2, "token_id", "1024"), "outside the vocabulary"),
    "a step given another id": (
        put(SAMPLES, 8, "given_token_id", "0"),
        "row 9: given_token_id is '0', and the step before it gave ",
    ),
    "a step given nothing": (put(SAMPLES, 5, "given_token_id", ""), "row 6: given_token_id is ''"),
    "a first id that is none": (put(SAMPLES, 5, "given_token_id", "1024"), "row 6: given_token_id is '1024'"),
    "a request given an id": (put(SAMPLES, 2, "given_token_id", "7"), "row 3: given_token_id is '7', and only"),
    "another summary": (put("ttft.csv", 1, "p50_ms", "0.001"), "the samples give"),
    "a summary's row lost": (lines("decode.csv", lambda rows: rows[:1]), "0 rows are stored"),
    "a column renamed": (replace("ttft.csv", "p50_ms", "median_ms"), "where 'p50_ms' belongs"),
    "a column added": (edit("p99.csv", lambda data: data.replace(b"\n", b",x\n")), "does not name"),
    "columns lost": (write("status.csv", "case,block\n"), "has no column state"),
    "a column that others need": (replace("status.csv", "case,block", "cases,block"), "where 'case' belongs"),
    "ragged": (replace("status.csv", "\n", "\nfake,0\n"), "has 2 fields"),
    "a quote left open": (write("status.csv", 'case,"block\n'), "not a readable CSV"),
    "not UTF-8": (edit(SAMPLES, lambda data: b"\xff\xfe" + data), "is not UTF-8"),
    "empty": (write(SAMPLES, ""), "is empty"),
    "missing": (lambda folder: (folder / SAMPLES).unlink(), "is missing"),
    "foreign": (foreign, "where 'case' belongs"),
    "blocks in another order": (lines("status.csv", lambda r: [r[0], r[2], r[1], *r[3:]]), "not the order drawn"),
    "a block lost": (lines("status.csv", lambda rows: rows[:-1]), "marked finished"),
    "a block twice": (lines("status.csv", lambda rows: [*rows, rows[-1]]), "twice"),
    "a block beyond the plan": (put("status.csv", 1, "block", "7"), "which is not in the plan"),
    "another seed": (replace(MANIFEST, '"seed": ', '"seed": 9'), "not what manifest.json asks for"),
    "another prompt": (replace(MANIFEST, '"prompt_digest": "', '"prompt_digest": "0'), "than prompt_digest"),
    "another plan": (
        replace("job.json", ITERATIONS, '"ttft_iterations": 2'),
        "the sweep (ttft_iterations) in job.json",
    ),
    "a foreign plan": (write("job.json", '{"sentence": [], "vocab_size": 1024}'), "no plan of this harness"),
    "no JSON": (write(MANIFEST, "{"), "is not valid JSON"),
    "foreign JSON": (write(MANIFEST, "[1]"), "holds no JSON object"),
    "an empty object": (write(MANIFEST, "{}"), "has no config.run"),
    "deep JSON": (write(MANIFEST, "[" * 200_000), "nested too deeply"),
    "a huge number": (replace(MANIFEST, '"seed": ', '"seed": ' + "9" * 5000), "is not valid JSON"),
    "a huge plan": (replace(MANIFEST, ITERATIONS, '"ttft_iterations": 10000000000'), "not from 0 to"),
    "a large plan": (replace(MANIFEST, ITERATIONS, '"ttft_iterations": 9000000'), "are planned"),
    "a count in words": (replace(MANIFEST, ITERATIONS, '"ttft_iterations": "3"'), "of the wrong type"),
    "a name with a path": (
        replace(MANIFEST, '"run": [\n   "fake"', '"run": [\n   "../fake"'),
        "no list of cases' names",
    ),
}
