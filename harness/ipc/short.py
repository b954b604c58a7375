"""The messages that lie inside a timed interval, and the rehearsal of one, packed and read in one step each.

Their bytes are msgpack as all others are, only that every length and number has the one width given here. What does not
look exactly so is left to wire.py, which reads every width and says what is wrong.

    Token    0x92 tag | 0xCE uint32 id
    Prefill, Rehearse  0x93 tag | 0xC6 uint32 bytes, the ids as little-endian int32 | 0xCE uint32 new tokens
"""

from __future__ import annotations

import struct

from harness.ipc import messages as m
from harness.ipc.fields import INT31, PROMPT_LIMIT

PAIR, TRIPLE, UINT32, BIN32 = 0x92, 0x93, 0xCE, 0xC6
_TOKEN, _TOKEN_FRAME = struct.Struct(">BBBI"), struct.Struct(">IBBBI")
_HEAD, _TAIL = struct.Struct(">BBBI"), struct.Struct(">BI")
AROUND = _HEAD.size + _TAIL.size
ID = 4
"""Bytes of one."""


def token_frame(tag: int, message: m.Token) -> bytes | None:
    """The frame of a Token; None for one that the long way refuses."""
    token = message.token_id
    if type(token) is not int or not 0 <= token <= INT31:
        return None
    return _TOKEN_FRAME.pack(_TOKEN.size, PAIR, tag, UINT32, token)


def token_in(tag: int, body: memoryview) -> m.Token | None:
    """The Token in a body of this form."""
    if len(body) != _TOKEN.size:
        return None
    pair, found, width, token = _TOKEN.unpack(body)
    if pair != PAIR or found != tag or width != UINT32 or token > INT31:
        return None
    return m.Token(token)


def prompt_frame(tag: int, message: m.Prefill | m.Rehearse) -> bytes | None:
    """The frame of such a message; None for one that the long way refuses."""
    new_tokens, count = message.new_tokens, len(message.prompt)
    if type(new_tokens) is not int or not 1 <= new_tokens <= INT31 or not 1 <= count <= PROMPT_LIMIT:
        return None
    try:
        ids = struct.pack(f"<{count}i", *message.prompt)
    except struct.error:
        return None
    if not ids[ID - 1 :: ID].isascii():
        return None
    size = len(ids)
    head = struct.pack(">IBBBI", AROUND + size, TRIPLE, tag, BIN32, size)
    return b"".join((head, ids, _TAIL.pack(UINT32, new_tokens)))


def prefill_in(tag: int, body: memoryview) -> m.Prefill | None:
    """The Prefill in a body of this form."""
    found = _prompt_in(tag, body)
    return None if found is None else m.Prefill(*found)


def rehearse_in(tag: int, body: memoryview) -> m.Rehearse | None:
    """The Rehearse in a body of this form."""
    found = _prompt_in(tag, body)
    return None if found is None else m.Rehearse(*found)


def _prompt_in(tag: int, body: memoryview) -> tuple[list[int], int] | None:
    end = len(body) - _TAIL.size
    size = end - _HEAD.size
    if size < ID or size % ID or size > ID * PROMPT_LIMIT:
        return None
    triple, found, width, told = _HEAD.unpack_from(body)
    number, new_tokens = _TAIL.unpack_from(body, end)
    if (triple, found, width, told, number) != (TRIPLE, tag, BIN32, size, UINT32) or not 1 <= new_tokens <= INT31:
        return None
    ids = bytes(body[_HEAD.size : end])
    # A negative id has the top bit of its highest byte set.
    return (list(struct.unpack(f"<{size // ID}i", ids)), new_tokens) if ids[ID - 1 :: ID].isascii() else None
