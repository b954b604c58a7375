"""Messages as bytes: one msgpack array a message, its length before it.

    frame = 4-byte big-endian length | msgpack [tag, field, ...]

Nothing is executed on decoding; every field is checked for type and range, and every size has a limit. Token ids
travel packed, as int32: this path lies inside a timed interval.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, cast, get_args

import msgpack

from harness.contract import PHASES, Eviction, Footprint, Stats
from harness.ipc import fields as f
from harness.ipc import messages as m
from harness.ipc import short
from harness.ipc.fields import WireError
from harness.ipc.proof import identity

FRAME_LIMIT = 8 << 20
"""Bytes in the body of one frame; a row of logits is one frame."""
HEADER = struct.Struct(">I")
"""The length of the body."""

# A message's tag is its place in this table.
_MESSAGES: tuple[tuple[Callable[..., m.Message], tuple[f.Field, ...]], ...] = (
    (m.Prepare, (f.plan("plan"),)),
    (m.Ready, (f.setup("setup"), f.counters("stats", Stats))),
    (m.Prefill, (f.ids("prompt", 1), f.integer("new_tokens", 1))),
    (m.Decode, ()),
    (m.Token, (f.integer("token_id", 0),)),
    (m.Score, (f.ids("prompt", 1), f.ids("forced", 0))),
    (m.Logits, (f.row("row"),)),
    (m.GetFootprint, ()),
    (m.FootprintIs, (f.counters("footprint", Footprint),)),
    (m.Use, (f.sampling("sampling"),)),
    (m.Used, ()),
    (m.GetCaptures, ()),
    (m.CapturesAre, (f.captures("captures"),)),
    (m.Evict, ()),
    (m.Evicted, (f.counters("eviction", Eviction), f.counters("stats", Stats))),
    (m.Close, ()),
    (m.Closed, ()),
    (m.Failure, (f.choice("kind", get_args(m.FailureKind)), f.text("message"))),
    (
        m.Generate,
        (f.ids("prompt", 1), f.integer("new_tokens", 1), f.sampling("sampling"), f.ids("stop", 0), f.flag("stream")),
    ),
    (m.Finished, (f.choice("reason", get_args(m.Reason)), f.ids("tokens", 0), f.counters("timing", m.Timing))),
    (m.Cancel, ()),
    (m.GetStatus, ()),
    (
        m.StatusIs,
        (
            f.counters("status", m.Status),
            f.counters("stats", Stats),
            f.text("model"),
            f.text("folder"),
            f.text("engine"),
        ),
    ),
    (m.Shutdown, ()),
    (m.GetIdentity, (f.ids("prompt", 1),)),
    (m.IdentityIs, (identity("identity"), f.counters("stats", Stats))),
    (m.Counted, (f.counters("stats", Stats),)),
    (m.Stage, (f.choice("name", PHASES),)),
    (m.Rehearse, (f.ids("prompt", 1), f.integer("new_tokens", 1))),
)
_TAGS = {made: (tag, parts) for tag, (made, parts) in enumerate(_MESSAGES)}
# Messages without fields are the same bytes each time; Decode, one of them, is asked for every token.
_BODIES: dict[Any, bytes] = {made: msgpack.packb([tag]) for made, (tag, parts) in _TAGS.items() if not parts}
_FRAMES = {made: HEADER.pack(len(body)) + body for made, body in _BODIES.items()}
_BARE: dict[bytes, m.Message] = {body: made() for made, body in _BODIES.items()}
_SHORT: dict[Any, Callable[[int, Any], bytes | None]] = {
    m.Token: short.token_frame,
    m.Prefill: short.prompt_frame,
    m.Rehearse: short.prompt_frame,
}
_SHORT_IN: dict[int, Callable[[int, memoryview], m.Message | None]] = {
    _TAGS[m.Token][0]: short.token_in,
    _TAGS[m.Prefill][0]: short.prefill_in,
    _TAGS[m.Rehearse][0]: short.rehearse_in,
}
LONGEST_BARE = max(map(len, _BARE))
ITEMS_LIMIT = 1 << 16
"""Items of one list or map: a frame may announce many, level upon level, and room is made for them before they come."""
SHORTEST = 2
"""Bytes of the shortest body: an array of a tag."""


def encode(message: m.Message) -> bytes:
    """The frame of `message`. Raises WireError when a field is out of its range or the frame over the limit."""
    kind = type(message)
    if kind in _FRAMES:
        return _FRAMES[kind]
    tag, parts = _TAGS[kind]
    if kind in _SHORT and (frame := _SHORT[kind](tag, message)) is not None:
        return frame
    values: list[Any] = [tag]
    for name, pack, _ in parts:
        values.append(pack(getattr(message, name), name))
    try:
        body = msgpack.packb(values)
    except (TypeError, ValueError, OverflowError) as error:
        raise WireError(f"{kind.__name__} holds what can't be sent: {error}") from error
    return HEADER.pack(checked_length(len(body))) + body


def decode(body: bytes | memoryview, items: int = ITEMS_LIMIT) -> m.Message:
    """The message in the body of a frame, whose lists and maps have no more than so many items.

    Raises WireError for everything that `encode` does not write.
    """
    if len(body) <= LONGEST_BARE and (bare := _BARE.get(bytes(body))) is not None:
        return bare
    read = _SHORT_IN.get(body[1]) if len(body) > 1 else None
    if read is not None and (message := read(body[1], memoryview(body))) is not None:
        return message
    try:
        values = msgpack.unpackb(body, strict_map_key=True, max_array_len=items, max_map_len=items, max_ext_len=0)
    except (ValueError, msgpack.exceptions.UnpackException) as error:
        raise WireError(f"the frame is no msgpack array: {error}") from error
    if type(values) is not list or not values or type(values[0]) is not int or not 0 <= values[0] < len(_MESSAGES):
        raise WireError("the frame does not begin with a known tag")
    made, parts = _MESSAGES[values[0]]
    if len(values) != len(parts) + 1:
        raise WireError(f"a message of tag {values[0]} has {len(parts)} fields, not {len(values) - 1}")
    return made(*[parse(value, name) for (name, _, parse), value in zip(parts, values[1:], strict=True)])


def kind_of(body: memoryview) -> type:
    """The class of the message in a body, by its tag alone. Raises WireError where no known tag is."""
    # msgpack: a short array is 0x90 plus its length, a small integer is itself.
    if len(body) < SHORTEST or not 0x90 <= body[0] <= 0x9F or body[1] >= len(_MESSAGES):
        raise WireError("the frame does not begin with a known tag")
    return cast(type, _MESSAGES[body[1]][0])


def checked_length(length: int, limit: int = FRAME_LIMIT) -> int:
    """`length` of a body, if it is within the limit. Raises WireError."""
    if not 0 < length <= limit:
        raise WireError(f"a frame of {length} bytes is outside the limit of 1 to {limit} bytes")
    return length
