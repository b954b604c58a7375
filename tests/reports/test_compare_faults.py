"""`python -m reports compare` on mistakes: options, targets, and files of every faulty kind."""

import random
import shutil

import pytest

from reports import files
from tests.reports import pairs
from tests.reports.pairs import WRITTEN, compare, manifest


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """A run of three cases in four blocks, with enough samples for a P99."""
    return pairs.invented(tmp_path_factory.mktemp("first") / "first")


@pytest.fixture
def second(first, tmp_path):
    """A copy, free to spoil."""
    return shutil.copytree(first, tmp_path / "second")


@pytest.mark.parametrize("margin", ["0", "-3", "100", "nan", "inf"])
def test_a_margin_that_is_none_is_refused(first, margin, capsys):
    assert compare(first, first, f"--margin={margin}") == 2
    assert capsys.readouterr().err.startswith("reports: --margin")


def test_a_target_that_is_a_file_or_a_run_is_refused(first, second, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert compare(first, second, "--to", tmp_path / "file") == 2
    assert compare(first, second, "--to", second) == 2
    assert [line.count("--to") for line in capsys.readouterr().err.splitlines()] == [1, 1]


def test_names_in_files_do_not_reach_outside_the_target(first, second, tmp_path):
    """Cases, titles and runs may be named like paths; every file has a name of its own."""
    manifest(second, run="../../escaped", config__cases__jit__title="../../escaped")
    before = {path for path in tmp_path.rglob("*") if second not in path.parents}
    assert compare(first, second, "--to", tmp_path / "out") == 0
    new = {path for path in tmp_path.rglob("*") if second not in path.parents} - before
    assert {path.name for path in new} == WRITTEN | {"compare.png", "compare.pdf", "out"}


def negative(data: bytes) -> bytes:
    """The last sample's latency below nothing."""
    head, *rows = data.splitlines()
    fields = rows[-1].split(b",")
    fields[head.split(b",").index(b"latency_ms")] = b"-1"
    return b"\n".join([head, *rows[:-1], b",".join(fields), b""])


FAULTS = {
    "truncated": ("samples.csv", lambda data: data[: len(data) // 2 - 3]),
    "mistyped": ("samples.csv", lambda data: data.replace(b",0,ttft,", b",zero,ttft,", 1)),
    "a negative latency": ("samples.csv", lambda data: negative(data)),
    "not UTF-8": ("samples.csv", lambda data: b"\xff\xfe" + data),
    "NUL": ("manifest.json", lambda data: b"\x00" * 100),
    "empty": ("samples.csv", lambda data: b""),
    "foreign CSV": ("samples.csv", lambda data: b"a,b\n1,2\n"),
    "foreign JSON": ("manifest.json", lambda data: b"[]"),
    "an empty object": ("manifest.json", lambda data: b"{}"),
    "deep JSON": ("manifest.json", lambda data: b"[" * 200_000),
    "a huge number": ("manifest.json", lambda data: b'{"run": ' + b"9" * 5000 + b"}"),
    "a GPU in words": ("manifest.json", lambda data: data.replace(b'"gpu": {', b'"gpu": "x", "g": {', 1)),
    "no title": ("manifest.json", lambda data: data.replace(b'"title"', b'"name"', 1)),
    "blocks in words": ("manifest.json", lambda data: data.replace(b'"blocks": 4', b'"blocks": "4"')),
    "a case that is none": ("manifest.json", lambda data: data.replace(b'"run": [', b'"run": [ 5,', 1)),
}  # fmt: skip


@pytest.mark.parametrize("kind", FAULTS)
@pytest.mark.parametrize("place", [0, 1], ids=["as A", "as B"])
def test_faulty_files_end_in_one_sentence(first, second, capsys, kind, place):
    name, spoil = FAULTS[kind]
    (second / name).write_bytes(spoil((second / name).read_bytes()))
    pair = [first, second] if place else [second, first]
    assert compare(*pair, "--force") == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("reports: ")
    assert printed.err.count("\n") == 1
    assert name in printed.err


def test_a_huge_file_is_refused_unread(first, second, monkeypatch, capsys):
    monkeypatch.setitem(files.MOST, ".csv", 1000)
    assert compare(first, second) == 2
    assert "has more than 0 MiB, the most that is read" in capsys.readouterr().err


@pytest.mark.parametrize("seed", range(10))
def test_whatever_happens_to_a_byte_nothing_but_sentences_come(first, second, capsys, seed):
    draw = random.Random(seed)
    path = second / draw.choice(("samples.csv", "status.csv", "manifest.json", "manifest.json", "p99.csv"))
    data = bytearray(path.read_bytes())
    for _ in range(draw.choice((1, 2, 20))):
        at = draw.randrange(len(data))
        data[at : at + draw.choice((0, 1, 1, 9))] = draw.choice(
            (b"", b"\x00", b"\n", b'"', b"\xff", b",", b"9e999", b"{")
        )
    path.write_bytes(bytes(data))
    assert compare(first, second, "--force") in (0, 1, 2)
    assert capsys.readouterr().err.count("\n") <= 1
