"""What a person sees: bars with case, length, median and time left on a terminal, plain lines elsewhere."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from harness.processes.progress import PLAIN_PERIOD_S, Bars, Lines, watcher

MOVED = {"event": "progress", "stage": "ttft", "prompt_length": 250, "done": 5, "total": 20, "median_ms": 6.3}


def console(terminal: bool) -> Console:
    return Console(file=io.StringIO(), force_terminal=terminal, width=140, color_system=None, legacy_windows=False)


def seen(on: Console) -> str:
    """All that was written, without the codes that move a terminal's cursor."""
    assert isinstance(on.file, io.StringIO)
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", on.file.getvalue())


@pytest.mark.parametrize(("terminal", "kind"), [(True, Bars), (False, Lines)])
def test_bars_on_a_terminal_and_lines_elsewhere(terminal, kind):
    assert type(watcher(console(terminal), 3)) is kind


def test_bars_show_case_stage_length_median_and_time_left():
    on = console(terminal=True)
    with watcher(on, 3) as watch:
        watch.begin("JIT+CUDA 1/2")
        watch.event({"event": "stage", "stage": "ttft"})
        watch.event(MOVED)
        assert isinstance(watch, Bars)
        watch._progress.refresh()
        watch.end("ok", counted=True)
        watch.begin("Baseline 1/2")
    shown = seen(on)
    assert re.search(
        r"JIT\+CUDA 1/2: ttft .*━.* 5/20 +250 tokens  median 6\.300 ms +(-|\d+):(--|\d\d):(--|\d\d)", shown
    )
    assert "JIT+CUDA 1/2: ok" in shown
    assert re.search(r"blocks .*1/3", shown), "one of three blocks is over"


def test_lines_come_with_each_stage_and_every_ten_seconds_within_one():
    now = [100.0]
    on = console(terminal=False)
    watch = Lines(on, 3, clock=lambda: now[0])
    watch.begin("JIT-Only 2/2")
    watch.event({"event": "stage", "stage": "load"})
    watch.event({"event": "stage", "stage": "ttft"})
    watch.event(MOVED)
    now[0] += PLAIN_PERIOD_S
    watch.event(MOVED | {"done": 9})
    watch.event(MOVED | {"done": 10})
    watch.event({"event": "verdict", "state": "ok"})
    watch.end("ok", counted=True)
    assert seen(on).splitlines() == [
        "JIT-Only 2/2: load",
        "JIT-Only 2/2: ttft",
        "JIT-Only 2/2: ttft, 250 tokens, 9/20, median 6.300 ms",
        "JIT-Only 2/2: ok (1 of 3 blocks done)",
    ]
