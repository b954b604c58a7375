"""Frames that a client may send, sensible or not, from a seed. None of them asks the server to end."""

from __future__ import annotations

import random
from collections.abc import Callable

import msgpack

from harness.contract import Plan, Sampling, Stats
from harness.ipc import messages as m
from harness.ipc.fields import WireError
from harness.ipc.wire import HEADER, decode, encode

CORPUS = 2000
SHUTDOWN = encode(m.Shutdown())
GENERATE, USE = 18, 9
"""Tags of two messages that a server for all answers."""
GREEDY = ["greedy", 1.0, 0, 1.0, 0, 1.0]
HOSTILE = [
    None, True, -1, 2**63, 2**64 - 1, -(2**63), float("nan"), float("inf"), -0.0, "", "x" * 70_000, b"", b"abc",
    b"\xff" * 4, [], [[]], [None] * 20, {}, {"a": {"b": 1}}, {"k": [1, 2, 3]},
    msgpack.Timestamp(1, 2), msgpack.ExtType(5, b"x"), msgpack.ExtType(127, b""),
    ["sample", float("nan"), 0, 1.0, 0, 1.0],
    ["sample", 1.0, 2**63, 1.0, 0, 1.0], "\ud800".encode("utf-8", "surrogatepass"),
]  # fmt: skip


def framed(body: bytes) -> bytes:
    """A body with its true length before it."""
    return HEADER.pack(len(body)) + body


class Source:
    """Draws frames. `valid`: messages, answered or refused one by one. `bad`: what mostly is none, and ends the
    connection; `kinds` counts them by name."""

    def __init__(self, seed: int) -> None:
        self.draw = random.Random(seed)
        self.kinds: dict[str, int] = {}
        self._valid = [self._message() for _ in range(CORPUS)]

    def valid(self) -> bytes:
        """A message, in an order that no client keeps."""
        self.kinds["valid, in any order"] = self.kinds.get("valid, in any order", 0) + 1
        return self.pick()

    def pick(self) -> bytes:
        """A message to be damaged."""
        return self.draw.choice(self._valid)

    def bad(self) -> bytes:
        """One of `BAD`, and never a Shutdown."""
        made = self.draw.choice(BAD)
        data = made(self)
        name = str(made.__doc__)
        self.kinds[name] = self.kinds.get(name, 0) + 1
        return checked(data.replace(SHUTDOWN, encode(m.Closed())))

    def _message(self) -> bytes:
        draw = self.draw
        prompt = [draw.randrange(draw.choice([1024, 2**31])) for _ in range(draw.choice([1, 5, 60]))]
        sampling = Sampling(
            draw.choice(["greedy", "sample"]), draw.choice([0.0, 0.5, 1e300]), draw.randrange(9), 0.9, 7
        )
        plan = Plan("x", "/c", "cpu", "float32", 8, options={"a": [1, {"b": None}]})
        new_tokens = draw.choice([1, 3, 20, 2**31 - 1])
        requests: list[m.Message] = [
            m.Generate(prompt, new_tokens, sampling, prompt[:2], draw.random() < 0.5),
            m.Prefill(prompt, draw.choice([1, 4])), m.Decode(), m.Cancel(), m.GetStatus(), m.Use(sampling),
            m.GetCaptures(), m.Evict(), m.Score([1], [2]), m.Token(3), m.Counted(Stats()), m.Closed(), m.Prepare(plan),
            m.Stage("capture"),
        ]  # fmt: skip
        return encode(draw.choice(requests))


def checked(data: bytes) -> bytes:
    """The data, once its first frame was decoded here. Raises AssertionError, with its hex, for an odd error."""
    body = data[HEADER.size :]
    if len(body) == int.from_bytes(data[: HEADER.size], "big"):
        try:
            decode(body, 16)
        except WireError:
            pass
        except Exception as error:
            raise AssertionError(f"{type(error).__name__} for the frame {data.hex()}") from error
    return data


def noise(source: Source) -> bytes:
    """bytes at random"""
    return source.draw.randbytes(source.draw.choice([1, 3, 40, 5000]))


def length(source: Source) -> bytes:
    """a length of 0, above the limit, or of 4 GiB"""
    return HEADER.pack(source.draw.choice([0, 2**20 + 1, 2**31, 2**32 - 1])) + source.draw.randbytes(8)


def cut(source: Source) -> bytes:
    """cut off amid a frame"""
    frame = source.pick()
    return frame[: source.draw.randrange(1, len(frame))]


def damaged(source: Source) -> bytes:
    """a message with bytes changed"""
    frame, draw = bytearray(source.pick()), source.draw
    for _ in range(draw.choice([1, 3])):
        frame[draw.randrange(HEADER.size, len(frame))] = draw.randrange(256)
    return bytes(frame)


def shortened(source: Source) -> bytes:
    """a body that ends early, or goes on behind its message"""
    body = source.pick()[HEADER.size :]
    return framed(body[: source.draw.randrange(1, len(body))] if source.draw.random() < 0.5 else body * 2)


def nested(source: Source) -> bytes:
    """lists in lists, 2 to 100,000 deep"""
    depth = source.draw.choice([2, 17, 500, 1000, 1019, 1025, 100_000])
    return framed(bytes([0x96, GENERATE]) + source.draw.choice([b"\x91", b"\x81\xa1a"]) * depth + b"\x01" * 5)


def announced(source: Source) -> bytes:
    """lists, maps, texts and extensions that announce up to 4 GiB"""
    head = source.draw.choice([b"\xdd", b"\xdf", b"\xdb", b"\xc6", b"\xc9"])
    size = source.draw.choice([17, 70_000, 2**20, 2**32 - 1]).to_bytes(4, "big")
    return framed(bytes([0x92, USE]) + (head + size) * source.draw.choice([1, 300]) + b"\x01" * 40)


def mistyped(source: Source) -> bytes:
    """a field of another type: NaN, 64-bit integers, timestamps, extensions, maps, lists, huge texts"""
    values: list[object] = [GENERATE, b"\1\0\0\0", 1, list(GREEDY), b"", True]
    values[source.draw.randrange(1, 6)] = source.draw.choice(HOSTILE)
    return framed(msgpack.packb(values))


def shaped(source: Source) -> bytes:
    """an unknown tag, a wrong number of fields, or no list at all"""
    wrong = [
        [], [-1], [99], [True], [2.0], ["3"], [None], [GENERATE], [GENERATE, *[1] * 14], [USE, GREEDY, GREEDY], {}, 3,
        "x", None, [[18]], [USE, [*GREEDY, 1]], [USE, GREEDY[:5]],
    ]  # fmt: skip
    return framed(msgpack.packb(source.draw.choice(wrong)))


def doubled(source: Source) -> bytes:
    """a map with one key twice"""
    return framed(bytes([0x92, USE]) + b"\x82\xa1a\x01\xa1a\x02")


BAD: list[Callable[[Source], bytes]] = [
    noise, length, cut, damaged, damaged, shortened, nested, announced, mistyped, mistyped, mistyped, shaped, doubled,
]  # fmt: skip
