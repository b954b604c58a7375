"""Where a worker's samples and events go, by itself."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path
from typing import Any

import pytest

from harness.contract import Footprint, Stats
from harness.measure.loop import Place, Timed
from harness.measure.sink import BlockSink, Events, set_aside
from harness.schema import SAMPLES

NOTHING = Stats()


@pytest.fixture
def events(tmp_path):
    """Events into a file, and what was sent so far."""
    path = tmp_path / "events"
    sender = Events(os.open(path, os.O_WRONLY | os.O_CREAT))

    def sent() -> list[dict[str, Any]]:
        return [json.loads(line) for line in path.read_text().splitlines()]

    yield sender, sent
    sender._file.close()


@pytest.fixture
def sink(tmp_path, events):
    made = BlockSink(tmp_path, "fake", 2, events[0])
    made.host_loop = lambda: 4.5678
    made.cpu = lambda process: 3
    yield made
    made.close()


def timed(before: Stats = NOTHING, after: Stats = NOTHING, nanoseconds: int = 1_234_567) -> Timed:
    return Timed(10**15, 10**15 + nanoseconds, 77, before, after)


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_sample_is_a_row_with_the_schemas_columns(sink, tmp_path):
    before = Stats(1000, 500, 3, 9, 1, hits=7, misses=2, evictions=1, failures=0, begun=3)
    after = Stats(2_001_000, 750_500, 5, 10, 2, hits=7, misses=3, evictions=3, failures=1, begun=7, coalesced=1)
    sink.keep([(Place("decode", 10, 11, 4), timed(before, after))])
    assert (tmp_path / "samples.csv").read_text().splitlines() == [
        ",".join(SAMPLES),
        "fake,2,decode,10,11,4,1000000000000000,1.234567,2.000000,0.750000,77,2,,,1,0,1,2,1,1,1.234567,1,1,,,,,4.568,,3",
    ]


@pytest.mark.parametrize(
    ("clock", "server_ns", "latency"),
    [("client", 750_000, "1.234567"), ("server", 750_000, "0.750000"), ("server", 0, "1.234567")],
)
def test_latency_is_by_the_clock_that_counts_and_by_the_clients_without_a_server(
    tmp_path, events, clock, server_ns, latency
):
    sink = BlockSink(tmp_path, "fake", 0, events[0], clock)
    sink.keep([(Place("ttft", 10, 10, 0), timed(Stats(), Stats(server_ns=server_ns)))])
    (row,) = rows(tmp_path / "samples.csv")
    assert (row["host_ms"], row["latency_ms"]) == ("1.234567", latency)


def test_a_step_says_which_id_it_was_given(sink, tmp_path):
    sink.keep([(Place("decode", 10, 10, 0), timed()._replace(given_id=41))])
    (row,) = rows(tmp_path / "samples.csv")
    assert (row["given_token_id"], row["token_id"]) == ("41", "77")


def test_a_clock_that_does_not_move_leaves_its_column_empty(sink, tmp_path):
    sink.keep([(Place("ttft", 10, 10, 0), timed(Stats(5, 6, 7, 8, 9), Stats(5, 6, 7, 8, 9)))])
    (row,) = rows(tmp_path / "samples.csv")
    assert (row["gpu_ms"], row["server_ms"], row["captures"], row["ungraphed"]) == ("", "", "0", "0")


def test_the_file_is_whole_from_its_header_on(sink, tmp_path):
    path = tmp_path / "samples.csv"
    assert path.read_text() == ",".join(SAMPLES) + "\n"
    for count in range(1, 4):
        sink.keep([(Place("ttft", 10, 10, count), timed())])
        text = path.read_text()
        assert text.endswith("\n")
        assert [row["iteration"] for row in rows(path)] == [str(done) for done in range(1, count + 1)]


def test_what_an_interrupted_worker_left_is_set_aside(tmp_path):
    path = tmp_path / "samples.csv"
    for content in ("first", "second"):
        path.write_text(content)
        set_aside(path)
    set_aside(path)
    kept = {file.name: file.read_text() for file in tmp_path.iterdir()}
    assert kept == {"samples.interrupted-0.csv": "first", "samples.interrupted-1.csv": "second"}


def test_a_new_sink_begins_a_new_file(tmp_path, events):
    (tmp_path / "samples.csv").write_text("old\n")
    BlockSink(tmp_path, "fake", 0, events[0]).close()
    assert (tmp_path / "samples.csv").read_text().strip() == ",".join(SAMPLES)
    assert (tmp_path / "samples.interrupted-0.csv").read_text() == "old\n"


def test_progress_says_the_running_median_and_always_the_end(sink, events):
    sink.stage("ttft")
    for done, nanoseconds in enumerate((1_000_000, 9_000_000, 2_000_000), start=1):
        sink.keep([(Place("ttft", 10, 10, done), timed(nanoseconds=nanoseconds))])
        sink.progress("ttft", 10, done, 3)
    stage, *_, last = events[1]()
    assert stage == {"event": "stage", "stage": "ttft"}
    expected = {"event": "progress", "stage": "ttft", "prompt_length": 10, "done": 3, "total": 3, "median_ms": 2.0}
    assert last == expected


@pytest.mark.parametrize(
    ("before", "after", "flag"),
    [
        (Stats(captures=3, begun=3), Stats(captures=3, begun=3), "0"),
        (Stats(captures=3, begun=4), Stats(captures=4, begun=4), "1"),
        (Stats(captures=3, begun=3), Stats(captures=3, begun=4), "1"),
        (Stats(captures=3, begun=3), Stats(captures=4, begun=4), "1"),
        (Stats(captures=3, begun=5, failures=2), Stats(captures=3, begun=5, failures=2), "0"),
    ],
)
def test_a_capture_at_any_time_in_a_sample_is_flagged(sink, tmp_path, before, after, flag):
    sink.keep([(Place("stream", 10, 10, 0), timed(before, after))])
    assert rows(tmp_path / "samples.csv")[0]["capturing"] == flag


def test_readings_of_memory_are_appended(sink, tmp_path):
    sink.memory(0, Footprint(graphs=3, graph_pool_bytes=5 * 2**20), 7 * 2**20)
    sink.memory(50, Footprint(), 8 * 2**20)
    found = rows(tmp_path / "memory.csv")
    assert [row["request"] for row in found] == ["0", "50"]
    assert [row["host_rss_mib"] for row in found] == ["7.0", "8.0"]
    assert (found[0]["graphs"], found[0]["graph_pool_mib"], found[0]["device_used_mib"]) == ("3", "5.0", "")
