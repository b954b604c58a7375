"""Files as they come from elsewhere: what may have happened to each, and the commands that read them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

from harness.stored import command as validate
from reports.__main__ import main as reports
from reports.paper.__main__ import main as paper

Spoil = Callable[[Path], object]
COMMANDS: dict[str, Callable[[Path, Path], int]] = {
    "report": lambda run, _: reports([str(run), "--terminal"]),
    "compare": lambda run, other: reports(["compare", str(other), str(run), "--force"]),
    "paper": lambda run, _: paper([f"--controlled={run}", f"--runs={run / 'none'}", f"--to={run / 'paper'}"]),
    "validate": lambda run, _: validate.main([str(run)]),
}
READ = ("status.csv", "samples.csv", "ttft.csv", "p99.csv", "decode.csv", "equivalence.csv", "manifest.json")
"""Files that every command reads; `validate` reads these and more."""


def edited(how: Callable[[bytes], bytes]) -> Spoil:
    return lambda path: path.write_bytes(how(path.read_bytes()))


def replaced(make: Callable[[Path], object]) -> Spoil:
    def spoil(path: Path) -> None:
        path.unlink()
        make(path)

    return spoil


def huge(path: Path) -> None:
    """300 MB of which nothing is on the disk."""
    with path.open("wb") as file:
        file.truncate(300_000_000)


def latin(data: bytes) -> bytes:
    """A letter beyond ASCII, in latin-1."""
    return data.replace(b"a", b"\xe4", 1)


ANY: dict[str, Spoil] = {
    "missing": Path.unlink,
    "empty": edited(lambda data: b""),
    "NUL bytes only": edited(lambda data: bytes(100)),
    "a NUL byte within": edited(lambda data: data[:50] + b"\0" + data[50:]),
    "in latin-1": edited(latin),
    "in UTF-16": edited(lambda data: data.decode().encode("utf-16")),
    "in UTF-16 without a mark": edited(lambda data: data.decode().encode("utf-16-le")),
    "with a byte-order mark": edited(lambda data: b"\xef\xbb\xbf" + data),
    "a picture by that name": edited(lambda data: b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + bytes(range(256))),
    "a folder by that name": replaced(Path.mkdir),
    "a pipe by that name": replaced(os.mkfifo),
    "a link to /dev/zero": replaced(lambda path: path.symlink_to("/dev/zero")),
    "a link to itself": replaced(lambda path: path.symlink_to(path.name)),
    "a file of 300 MB": huge,
    "cut off in the middle": edited(lambda data: data[: len(data) // 2 - 3]),
    "cut off before its last byte": edited(lambda data: data.rstrip()[:-1]),
}
"""What may happen to a file of any kind."""


def column(name: str, text: str, row: int = 1) -> Spoil:
    def spoil(path: Path) -> None:
        lines = path.read_text().split("\n")
        fields = lines[row].split(",")
        fields[lines[0].split(",").index(name)] = text
        lines[row] = ",".join(fields)
        path.write_text("\n".join(lines))

    return spoil


def each_line(how: Callable[[str], str]) -> Spoil:
    return edited(lambda data: "".join(how(line) + "\n" for line in data.decode().splitlines()).encode())


CSV: dict[str, Spoil] = {
    "with semicolons": edited(lambda data: data.replace(b",", b";")),
    "with tabs": edited(lambda data: data.replace(b",", b"\t")),
    "of another program": edited(lambda data: b"a,b\n1,2\n"),
    "without its first line": edited(lambda data: data.partition(b"\n")[2]),
    "a column twice": each_line(lambda line: f"{line},{line.split(',')[0]}"),
    "a field too many in a row": edited(lambda data: data[:-1] + b",0\n"),
    "a field too few in a row": edited(lambda data: data.rpartition(b",")[0] + b"\n"),
    "a quote left open": edited(lambda data: data.replace(b"\n", b'\n"', 1)),
    "a million columns": edited(lambda data: b",".join(b"c%d" % n for n in range(1_000_000)) + b"\n"),
    "a line of 2 MB": edited(lambda data: data.replace(b"\n", b"\n" + b"x" * 2_000_000, 1)),
    "text for a number": column("{number}", "fast"),
    "infinity for a number": column("{number}", "inf"),
    "1e400 for a number": column("{number}", "1e400"),
    "a negative number": column("{number}", "-7"),
    "a million digits": column("{number}", "9" * 1_000_000),
    "a case that is not in the run": column("case", "intruder"),
    "a case with a path": column("case", "../../jit"),
}
NUMBER = {
    "status.csv": "block", "samples.csv": "latency_ms", "ttft.csv": "p50_ms", "p99.csv": "p50_ms",
    "decode.csv": "p50_ms", "equivalence.csv": "tokens_compared",
}  # fmt: skip


def csv_damage(kind: str, name: str) -> Spoil:
    """The damage, with the column of this file that holds a number."""
    if "number" in kind or "digits" in kind:
        text = {"text": "fast", "infin": "inf", "1e400": "1e400", "a neg": "-7", "a mil": "9" * 1_000_000}
        return column(NUMBER[name], next(value for start, value in text.items() if kind.startswith(start)))
    return CSV[kind]


def placed(place: str, value: object) -> Spoil:
    """Set a value of a JSON object by dotted place; ... takes it away."""

    def spoil(path: Path) -> None:
        stored = json.loads(path.read_text())
        at = stored
        *way, last = place.split(".")
        for part in way:
            at = at[part]
        at[last] = value
        if value is ...:
            del at[last]
        path.write_text(json.dumps(stored, indent=1))

    return spoil


JSON: dict[str, Spoil] = {
    "a list": edited(lambda data: b"[1]"),
    "an empty object": edited(lambda data: b"{}"),
    "of another program": edited(lambda data: b'{"name": "x", "version": 3}'),
    "nested 200,000 deep": edited(lambda data: b"[" * 200_000),
    "nested 200,000 deep within": edited(
        lambda data: data.replace(
            b'"smoke"', b'"deep": ' + b'{"a":' * 200_000 + b"1" + b"}" * 200_000 + b', "smoke"', 1
        )
    ),
    "a number of a million digits": edited(lambda data: data.replace(b'"seed": ', b'"seed": ' + b"9" * 1_000_000, 1)),
    "1e400 for a number": edited(
        lambda data: data.replace(b'"read_bandwidth_tb_s": ', b'"read_bandwidth_tb_s": 1e400, "x": ', 1)
    ),
    "NaN for a number": edited(
        lambda data: data.replace(b'"read_bandwidth_tb_s": ', b'"read_bandwidth_tb_s": NaN, "x": ', 1)
    ),
    "text for a list": placed("config.run", "fake"),
    "text for a number": placed("config.sweep.ttft_iterations", "20"),
    "a count below 0": placed("config.sweep.ttft_iterations", -1),
    "a count beyond all": placed("config.sweep.decode.context", 10**30),
    "a list of 20,000 lengths": placed("config.sweep.prompt_lengths", list(range(1, 20_001))),
    "no lengths": placed("config.sweep.prompt_lengths", []),
    "no cases": placed("config.run", []),
    "a case named as a path": placed("config.run", ["../../x"]),
    "a case that is not described": placed("config.run", ["fake", "intruder"]),
    "a title of a million letters": placed("config.cases.fake.title", "x" * 1_000_000),
    "a study of no name": placed("config.study", "nothing"),
    "a key lost": placed("model", ...),
    "brackets of 20 MB": edited(lambda data: b"[" + b"[]," * 7_000_000 + b"[]]"),
}
ALONE = {
    "a list of 20,000 lengths": ("report", "compare"), "NaN for a number": ("report", "compare"),
    "1e400 for a number": ("report", "compare"), "a title of a million letters": ("report", "compare"),
    "a study of no name": ("report",), "a key lost": ("report", "compare"),
}  # fmt: skip
"""Damage that not every command has a use for."""
