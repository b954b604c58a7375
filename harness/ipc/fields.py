"""The fields of messages: each one with its check of type, range and size, in both directions."""

from __future__ import annotations

import math
import reprlib
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple
from functools import partial
from typing import Any, NamedTuple, NoReturn

from harness.contract import CaptureRecord, Plan, Sampling, SetUp

PROMPT_LIMIT = 1 << 19
"""Token ids in one prompt."""
TEXT_LIMIT = 1 << 16
"""Characters in one text."""
CAPTURES_LIMIT = 1 << 16
"""Captures in one answer; the frame's own limit comes on top."""
DEPTH_LIMIT = 16
"""Levels of lists and maps inside a case's options."""
INT31, INT63 = 2**31 - 1, 2**63 - 1


class WireError(ValueError):
    """A message that can't be sent, or a frame that is no message; one sentence says what is wrong."""


class Field(NamedTuple):
    """A field of a message: the attribute, how it is checked and packed, how it is checked and unpacked."""

    name: str
    pack: Callable[[Any, str], Any]
    parse: Callable[[Any, str], Any]


def ids(name: str, shortest: int) -> Field:
    """Token ids, packed as little-endian int32."""
    return Field(name, partial(_pack_ids, shortest=shortest), partial(_unpack_ids, shortest=shortest))


def integer(name: str, low: int) -> Field:
    """An integer from `low` to 2^31-1."""

    def check(value: Any, name: str) -> int:
        return checked_integer(value, name, low, INT31)

    return Field(name, check, check)


def choice(name: str, allowed: Sequence[str]) -> Field:
    """One of a few words."""
    check = partial(_choice, allowed=allowed)
    return Field(name, check, check)


def text(name: str) -> Field:
    """A text of limited length."""
    return Field(name, checked_text, checked_text)


def row(name: str) -> Field:
    """One row of float32 values."""
    return Field(name, _row, _row)


def flag(name: str) -> Field:
    """True or False."""
    return Field(name, _flag, _flag)


def counters(name: str, made: Callable[..., Any]) -> Field:
    """A named tuple `made` of integers that are 0 or more, packed as int64: they come with every token."""
    form = struct.Struct(f"<{len(made._fields)}q")  # type: ignore[attr-defined]

    def pack(value: Sequence[int], name: str) -> bytes:
        return _pack_counters(value, name, form)

    def parse(value: Any, name: str) -> Any:
        return _parse_counters(value, name, made, form)

    return Field(name, pack, parse)


def sampling(name: str) -> Field:
    """How tokens are chosen."""
    return Field(name, _pack_sampling, _parse_sampling)


def captures(name: str) -> Field:
    """Captures tried, in order."""
    return Field(name, _pack_captures, _parse_captures)


def plan(name: str) -> Field:
    """Everything a case may know before its first request."""
    return Field(name, _pack_plan, _parse_plan)


def setup(name: str) -> Field:
    """What answered and how long it took."""
    return Field(name, _pack_setup, _parse_setup)


def _refuse(value: object, name: str, wanted: str) -> NoReturn:
    raise WireError(f"{name} must be {wanted}, not {type(value).__name__} {shown(value)}")


def shown(value: object) -> str:
    """A value from a frame, cut short. Plain `repr` ends in a RecursionError for lists in lists in lists."""
    return reprlib.repr(value)[:40]


def checked_integer(value: Any, name: str, low: int, high: int) -> int:
    """The integer. Raises WireError for any other value."""
    if type(value) is not int or not low <= value <= high:
        _refuse(value, name, f"an integer from {low} to {high}")
    return value


def _number(value: Any, name: str) -> float:
    if type(value) not in (float, int) or not math.isfinite(value) or value < 0:
        _refuse(value, name, "a finite number, 0 or more")
    return float(value)


def checked_text(value: Any, name: str) -> str:
    """The text. Raises WireError for any other value, and for a text that is too long."""
    if type(value) is not str or len(value) > TEXT_LIMIT:
        _refuse(value, name, f"a text of at most {TEXT_LIMIT} characters")
    return value


def _flag(value: Any, name: str) -> bool:
    if type(value) is not bool:
        _refuse(value, name, "True or False")
    return value


def _choice(value: Any, name: str, allowed: Sequence[str]) -> Any:
    if value not in allowed:
        _refuse(value, name, f"one of {', '.join(allowed)}")
    return value


def _row(value: Any, name: str) -> bytes:
    if type(value) is not bytes or not value or len(value) % 4:
        _refuse(value, name, "one or more packed float32 values")
    return value


def _pack_ids(ids: Sequence[int], name: str, shortest: int) -> bytes:
    try:
        packed = struct.pack(f"<{len(ids)}i", *ids)
    except struct.error as error:
        raise WireError(f"{name} must hold integers from 0 to {INT31}: {error}") from error
    return _checked_ids(packed, name, shortest)


def _unpack_ids(packed: Any, name: str, shortest: int) -> list[int]:
    _checked_ids(packed, name, shortest)
    return list(struct.unpack(f"<{len(packed) // 4}i", packed))


def _checked_ids(packed: Any, name: str, shortest: int) -> bytes:
    if type(packed) is not bytes or len(packed) % 4:
        _refuse(packed, name, "packed int32 values")
    if not shortest <= len(packed) // 4 <= PROMPT_LIMIT:
        raise WireError(f"{name} must hold {shortest} to {PROMPT_LIMIT} token ids, not {len(packed) // 4}")
    # A negative id has the top bit of its highest byte set: one C loop finds it, where min() would take microseconds.
    if not packed[3::4].isascii():
        raise WireError(f"{name} must hold integers from 0 to {INT31}, not negative ones")
    return packed


def _plain(value: Any, name: str, depth: int = DEPTH_LIMIT) -> Any:
    """A copy of an option's value, made of nothing but None, bool, int, float, str, list and dict."""
    if value is None or type(value) in (bool, int, float, str):
        return value
    if depth == 0:
        raise WireError(f"{name} are nested deeper than {DEPTH_LIMIT} levels")
    if isinstance(value, (list, tuple)):
        return [_plain(item, name, depth - 1) for item in value]
    if isinstance(value, Mapping):
        return {checked_text(key, f"a key of {name}"): _plain(item, name, depth - 1) for key, item in value.items()}
    return _refuse(value, name, "plain values (numbers, texts, lists, maps)")


def checked_items(value: Any, name: str, count: int) -> list[Any]:
    """The list of `count` fields. Raises WireError for any other value."""
    if type(value) is not list or len(value) != count:
        _refuse(value, name, f"a list of {count} fields")
    return value


def _pack_plan(value: Plan, name: str) -> list[Any]:
    head = [value.case, value.checkpoint, value.device, value.dtype, value.context, list(astuple(value.sampling))]
    packed = [*head, _plain(value.options, "options")]
    _parse_plan(packed, name)
    return packed


def _parse_plan(value: Any, name: str) -> Plan:
    case, checkpoint, device, dtype, context, sampling, options = checked_items(value, name, 7)
    if type(options) is not dict:
        _refuse(options, "options", "a map")
    return Plan(
        case=checked_text(case, "case"),
        checkpoint=checked_text(checkpoint, "checkpoint"),
        device=_choice(device, "device", ("cuda", "cpu")),
        dtype=_choice(dtype, "dtype", ("float16", "bfloat16", "float32")),
        context=checked_integer(context, "context", 1, INT31),
        sampling=_parse_sampling(sampling, "sampling"),
        options=_plain(options, "options"),
    )


def _pack_sampling(value: Sampling, name: str) -> list[Any]:
    packed = list(astuple(value))
    _parse_sampling(packed, name)
    return packed


def _parse_sampling(value: Any, name: str) -> Sampling:
    strategy, temperature, top_k, top_p, seed, repetition_penalty = checked_items(value, name, 6)
    return Sampling(
        strategy=_choice(strategy, "strategy", ("greedy", "sample")),
        temperature=_number(temperature, "temperature"),
        top_k=checked_integer(top_k, "top_k", 0, INT31),
        top_p=_number(top_p, "top_p"),
        seed=checked_integer(seed, "seed", 0, INT63),
        repetition_penalty=_number(repetition_penalty, "repetition_penalty"),
    )


def _pack_captures(value: Sequence[CaptureRecord], name: str) -> list[list[Any]]:
    packed = [list(record) for record in value]
    _parse_captures(packed, name)
    return packed


def _parse_captures(value: Any, name: str) -> list[CaptureRecord]:
    if type(value) is not list or len(value) > CAPTURES_LIMIT:
        _refuse(value, name, f"a list of at most {CAPTURES_LIMIT} captures")
    records = []
    for item in value:
        bucket, seconds, grown_bytes, reason = checked_items(item, f"one of {name}", 4)
        records.append(
            CaptureRecord(
                checked_integer(bucket, "a bucket", 0, INT31), _number(seconds, "a duration"),
                checked_integer(grown_bytes, "bytes", 0, INT63), checked_text(reason, "a reason"),
            )
        )  # fmt: skip
    return records


def _pack_setup(value: SetUp, name: str) -> list[Any]:
    packed = list(astuple(value))
    _parse_setup(packed, name)
    return packed


def _parse_setup(value: Any, name: str) -> SetUp:
    engine, load_s, compile_s, capture_s = checked_items(value, name, 4)
    seconds = (_number(part, "a duration") for part in (load_s, compile_s, capture_s))
    return SetUp(checked_text(engine, "engine"), *seconds)


def _pack_counters(value: Sequence[int], name: str, form: struct.Struct) -> bytes:
    try:
        packed = form.pack(*value)
    except struct.error as error:
        raise WireError(f"{name} must be {form.size // 8} integers from 0 to {INT63}: {error}") from error
    if min(value) < 0:
        _refuse(min(value), name, f"integers from 0 to {INT63}")
    return packed


def _parse_counters(value: Any, name: str, made: Callable[..., Any], form: struct.Struct) -> Any:
    if type(value) is not bytes or len(value) != form.size:
        _refuse(value, name, f"{form.size // 8} packed int64 values")
    parsed = form.unpack(value)
    if min(parsed) < 0:
        _refuse(min(parsed), name, f"integers from 0 to {INT63}")
    return made(*parsed)
