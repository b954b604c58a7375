"""A short soak passes, and each thing that a soak is there to find is found. `make soak` is the long one."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from reports import soak as report
from tests import soak
from tests.served import ROOT

REQUESTS, OF_STUB = 2000, 1400
STUB = [sys.executable, "-m", "tests.stub_server"]
TINY = [sys.executable, "-m", "cases.runtime.serve", "serve", *soak.MODELS["cpu"], *soak.GRAPHS]


@pytest.fixture
def console(capsys):
    return Console(width=200)


def soaked(command: list[str], to: Path, console: Console, requests: int = OF_STUB) -> dict[str, report.Check]:
    """The checks of a soak, by name."""
    assert soak.run(command, requests, "cpu", to, console) == 0
    found = report.checks(report.load(to))
    return {check.name: check for check in found}


def steady(found: dict[str, report.Check]) -> list[str]:
    """The checks that fail, without latencies: those are a matter of what else the machine does."""
    return [name for name, check in found.items() if not check.passed and not name.startswith("Latency")]


def test_a_short_soak_of_the_served_hybrid_leaves_it_as_it_was(tmp_path, console, fault):
    tried = fault("Socket", "2,000 requests at the served hybrid, some cancelled, some left by clients that vanish")
    to = tmp_path / "cpu.json"
    found = soaked(TINY, to, console, REQUESTS)
    assert steady(found) == []
    stored = json.loads(to.read_text())
    assert stored["counts"]["cancelled"] >= 20
    assert stored["counts"]["left by a client that vanished"] >= 20
    assert stored["blocks"][-1]["captures"] > 100
    assert stored["blocks"][-1]["evictions"] > 100
    assert report.main([str(to)]) in (0, 1)
    assert {path.name for path in tmp_path.iterdir()} >= {"cpu.md", "cpu.csv", "cpu.png", "cpu.pdf"}
    tried.happened("every answer as before; memory, descriptors and threads flat, evictions and captures going on")


@pytest.mark.parametrize(
    ("injected", "caught"),
    [
        (["--leak", "10000"], "Server: memory (MiB)"),
        (["--descriptors", "100"], "Server: descriptors"),
    ],
    ids=["memory", "descriptors"],
)
def test_an_injected_leak_is_caught(tmp_path, console, injected, caught):
    assert steady(soaked([*STUB, *injected], tmp_path / "cpu.json", console)) == [caught]


def test_a_server_that_slows_down_is_caught_whatever_the_machine_does(tmp_path, console):
    found = soaked([*STUB, "--slower", "1"], tmp_path / "cpu.json", console)
    assert not found["Latency (ms)"].passed
    assert not found["Latency: old server / fresh server"].passed


def test_too_few_requests_are_refused_before_any_is_asked(capsys):
    with pytest.raises(SystemExit, match="2"):
        soak.main(["--requests", str(soak.LEAST - 1)])
    assert f"must be at least {soak.LEAST}" in capsys.readouterr().err


def test_a_soak_writes_over_no_other_unless_told(monkeypatch):
    asked = []
    monkeypatch.setattr(soak, "run", lambda command, requests, device, to, console: asked.append(to) or 1)
    soak.main(["--requests", "2000"])
    (to,) = asked
    assert to.parent == ROOT / "results" / "soak"
    assert to not in set(to.parent.glob("*.json"))


def test_an_interrupted_soak_writes_what_it_has(tmp_path, fault):
    tried = fault("Socket", "SIGINT amid a soak")
    to = tmp_path / "cpu.json"
    code = (
        "import sys; from pathlib import Path; from rich.console import Console; from tests import soak;"
        "sys.exit(soak.run([sys.executable, '-m', 'tests.stub_server'], 60_000, 'cpu', Path(sys.argv[1]), Console()))"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(to)], cwd=ROOT, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith(b"soak: requests")
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
    stored = json.loads(to.read_text())
    assert stored["ended"] == "interrupted"
    assert len(stored["blocks"]) >= 1
    tried.happened("what it had is written, marked as interrupted; exit code 130")


def test_a_token_unlike_the_one_before_is_caught(tmp_path, console, monkeypatch):
    real, asked = soak.request, []

    def another(kind):
        asked.append(real(kind))
        asked[-1].prompt[-1] += len(asked) > 500
        return asked[-1]

    monkeypatch.setattr(soak, "request", another)
    assert soak.run(STUB, OF_STUB, "cpu", tmp_path / "cpu.json", console) == 1
    stored = json.loads((tmp_path / "cpu.json").read_text())
    assert stored["ended"].startswith("Wrong: a request of ")


BLOCK = {"requests": 0, "ms": {"4": 1.0, "60": 2.0}, "cpu_ms": 1.0, "server_rss_mib": 100.0, "server_threads": 3}


def made(blocks: int, change, age=(1.0,) * 10, ended: str = "whole") -> dict:
    """A soak's file: so many blocks of 500 requests, each changed by its number."""
    rows = [{**BLOCK, "requests": 500 * (place + 1)} for place in range(blocks)]
    rows = [{**row, **change(place)} for place, row in enumerate(rows)]
    facts = {"requests": 500 * blocks, "device": "cpu"}
    return {"facts": facts, "blocks": rows, "age": list(age), "counts": {}, "ended": ended}


def failed(stored: dict) -> list[str]:
    return [check.name for check in report.checks(stored) if not check.passed]


def ms(factor: float) -> dict:
    return {"ms": {"4": factor, "60": 2 * factor}}


OLD = "Latency: old server / fresh server"


@pytest.mark.parametrize(
    ("stored", "names"),
    [
        (made(200, lambda place: {}), []),
        (made(200, lambda place: {"server_rss_mib": 100 + place % 3}), []),
        (made(200, lambda place: {"server_rss_mib": 100 + 0.05 * place}), ["Server: memory (MiB)"]),
        (made(200, lambda place: {"server_threads": 3 + (place > 150)}), ["Server: threads"]),
        (made(200, lambda place: {"server_rss_mib": 90 if place < 20 else 100}), []),
        (made(200, lambda place: ms(1.04 if place > 150 else 1.0)), []),
        (made(200, lambda place: ms(1.07 if place > 150 else 1.0)), []),
        (made(200, lambda place: ms(1.07 if place > 150 else 1.0), [1.07] * 10), ["Latency (ms)", OLD]),
        (made(200, lambda place: ms(1.07 if place > 150 else 1.0), []), ["Latency (ms)", OLD]),
        (made(200, lambda place: ms(0.90 if place > 150 else 1.0), [0.9] * 10), ["Latency (ms)", OLD]),
        (made(200, lambda place: {}, ended="interrupted"), ["Requests answered"]),
    ],
)
def test_the_rules(stored, names):
    assert failed(stored) == names


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "is not valid JSON"),
        ("[]", "holds no JSON object"),
        (json.dumps(made(3, lambda place: {})), "fewer than 20 blocks"),
        (json.dumps(made(30, lambda place: {"ms": 3})), "a block of another form"),
    ],
)
def test_another_file_is_refused_in_one_sentence(tmp_path, capsys, text, says):
    (tmp_path / "cpu.json").write_text(text)
    assert report.main([str(tmp_path / "cpu.json")]) == 2
    err = capsys.readouterr().err
    assert (says in err, err.count("\n")) == (True, 1)
