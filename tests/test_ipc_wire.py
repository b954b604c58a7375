"""Every message survives the way there and back, and nothing else gets through."""

from __future__ import annotations

import math
import pickle

import msgpack
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.contract import PHASES, CaptureRecord, Eviction, Footprint, Identity, Kernel, Plan, Sampling, SetUp, Stats
from harness.ipc import messages as m
from harness.ipc.fields import DEPTH_LIMIT, INT31, INT63, PROMPT_LIMIT, TEXT_LIMIT, WireError
from harness.ipc.wire import FRAME_LIMIT, HEADER, checked_length, decode, encode

FAST = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
PLAN = Plan("fake", "/checkpoint", "cpu", "float32", 400)

texts = st.text(max_size=20)
counts = st.integers(0, INT63)
seconds = st.floats(0, allow_nan=False, allow_infinity=False)
prompts = st.lists(st.integers(0, INT31), min_size=1, max_size=40)
plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)
samplings = st.builds(
    Sampling,
    strategy=st.sampled_from(["greedy", "sample"]),
    temperature=seconds,
    top_k=st.integers(0, INT31),
    top_p=st.floats(0, 1),
    seed=counts,
    repetition_penalty=seconds,
)
captures = st.builds(CaptureRecord, st.integers(0, INT31), seconds, counts, texts)
fewer = st.integers(0, INT31)
identities = st.builds(
    Identity,
    modules=st.dictionaries(texts, texts, max_size=3),
    sampler=texts,
    activity=st.sampled_from(["cuda", "cpu", "none"]),
    kernels=st.lists(st.builds(Kernel, texts, texts, st.integers(1, INT31)), max_size=4).map(tuple),
    launches=fewer,
    replays=fewer,
    ungraphed=fewer,
    unproven=texts,
)
plans = st.builds(
    Plan,
    case=texts,
    checkpoint=texts,
    device=st.sampled_from(["cuda", "cpu"]),
    dtype=st.sampled_from(["float16", "bfloat16", "float32"]),
    context=st.integers(1, INT31),
    sampling=samplings,
    options=st.dictionaries(texts, plain, max_size=4),
)
EVERY_MESSAGE = {
    m.Prepare: st.builds(m.Prepare, plans),
    m.Stage: st.builds(m.Stage, st.sampled_from(PHASES)),
    m.Ready: st.builds(
        m.Ready,
        st.builds(SetUp, texts, seconds, seconds, seconds),
        st.builds(Stats, *[counts] * len(Stats._fields)),
    ),
    m.Prefill: st.builds(m.Prefill, prompts, st.integers(1, INT31)),
    m.Rehearse: st.builds(m.Rehearse, prompts, st.integers(1, INT31)),
    m.Decode: st.just(m.Decode()),
    m.Token: st.builds(m.Token, st.integers(0, INT31)),
    m.Counted: st.builds(m.Counted, st.builds(Stats, *[counts] * len(Stats._fields))),
    m.Score: st.builds(m.Score, prompts, st.lists(st.integers(0, INT31), max_size=20)),
    m.Logits: st.builds(m.Logits, st.binary(min_size=4, max_size=4) | st.just(bytes(400))),
    m.GetFootprint: st.just(m.GetFootprint()),
    m.FootprintIs: st.builds(m.FootprintIs, st.builds(Footprint, counts, counts, counts)),
    m.Use: st.builds(m.Use, samplings),
    m.Used: st.just(m.Used()),
    m.GetCaptures: st.just(m.GetCaptures()),
    m.CapturesAre: st.builds(m.CapturesAre, st.lists(captures, max_size=4)),
    m.Evict: st.just(m.Evict()),
    m.Evicted: st.builds(
        m.Evicted, st.builds(Eviction, *[counts] * 4), st.builds(Stats, *[counts] * len(Stats._fields))
    ),
    m.Generate: st.builds(m.Generate, prompts, st.integers(1, INT31), samplings, prompts, st.booleans()),
    m.Finished: st.builds(
        m.Finished,
        st.sampled_from(["length", "stop", "cancelled", "stopped"]),
        st.lists(st.integers(0, INT31), max_size=9),
        st.builds(m.Timing, counts, counts, counts),
    ),
    m.Cancel: st.just(m.Cancel()),
    m.GetStatus: st.just(m.GetStatus()),
    m.StatusIs: st.builds(
        m.StatusIs,
        st.builds(m.Status, *[counts] * len(m.Status._fields)),
        st.builds(Stats, *[counts] * len(Stats._fields)),
        texts,
        texts,
        texts,
    ),
    m.Shutdown: st.just(m.Shutdown()),
    m.GetIdentity: st.builds(m.GetIdentity, prompts),
    m.IdentityIs: st.builds(m.IdentityIs, identities, st.builds(Stats, *[counts] * len(Stats._fields))),
    m.Close: st.just(m.Close()),
    m.Closed: st.just(m.Closed()),
    m.Failure: st.builds(
        m.Failure, st.sampled_from(["unavailable", "unsupported", "invalid", "failed", "busy"]), texts
    ),
}


def body(message: m.Message) -> bytes:
    frame = encode(message)
    assert HEADER.unpack_from(frame)[0] == len(frame) - HEADER.size
    return frame[HEADER.size :]


@pytest.mark.parametrize("kind", EVERY_MESSAGE, ids=lambda kind: kind.__name__)
def test_there_and_back(kind):
    @FAST
    @given(EVERY_MESSAGE[kind])
    def check(message):
        assert decode(body(message)) == message

    check()


def test_every_message_has_a_strategy():
    assert set(EVERY_MESSAGE) == set(m.Message.__args__)


def test_a_long_prompt_keeps_its_ids():
    ids = list(range(INT31 - 400, INT31 + 1))
    assert decode(body(m.Prefill(ids, 1))).prompt == ids


@FAST
@given(st.binary(max_size=60))
def test_arbitrary_bytes_are_a_message_or_refused(data):
    try:
        message = decode(data)
    except WireError:
        return
    assert type(message) in EVERY_MESSAGE


@FAST
@given(st.data())
def test_a_truncated_body_is_refused(data):
    whole = body(data.draw(EVERY_MESSAGE[m.Score]))
    with pytest.raises(WireError, match="no msgpack array"):
        decode(whole[: data.draw(st.integers(0, len(whole) - 1))])


@FAST
@given(st.data(), plain)
def test_a_field_of_any_other_value_is_refused_or_kept_in_range(data, value):
    values = msgpack.unpackb(body(data.draw(EVERY_MESSAGE[m.Token] | EVERY_MESSAGE[m.Counted])))
    values[1] = value
    if values[0] == TAG[m.Token] and type(value) is int and 0 <= value <= INT31:
        assert decode(msgpack.packb(values)).token_id == value
    else:
        with pytest.raises(WireError, match="must be"):
            decode(msgpack.packb(values))


TAG = {type_: msgpack.unpackb(body(message))[0] for type_, message in (
    (m.Prefill, m.Prefill([1], 1)),
    (m.Token, m.Token(1)),
    (m.Counted, m.Counted(Stats())),
    (m.Logits, m.Logits(bytes(4))),
    (m.Failure, m.Failure("failed", "")),
    (m.Stage, m.Stage("load")),
    (m.Prepare, m.Prepare(PLAN)),
    (m.Ready, m.Ready(SetUp("fake"), Stats())),
    (m.Generate, m.Generate([1], 1)),
)}  # fmt: skip
GOOD_PLAN = msgpack.unpackb(body(m.Prepare(PLAN)))[1]


def plan_with(index: int, value: object) -> list[object]:
    changed = list(GOOD_PLAN)
    changed[index] = value
    return [TAG[m.Prepare], changed]


def nested(levels: int) -> list[object]:
    value: list[object] = []
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ([], "known tag"),
        ({}, "known tag"),
        (7, "known tag"),
        ([99], "known tag"),
        ([-1], "known tag"),
        ([True], "known tag"),
        ([[]], "known tag"),
        ([TAG[m.Prefill]], "2 fields, not 0"),
        ([TAG[m.Prefill], bytes(4), 1, 1], "2 fields, not 3"),
        ([TAG[m.Prefill], [1, 2], 1], "prompt must be packed int32"),
        ([TAG[m.Prefill], bytes(5), 1], "prompt must be packed int32"),
        ([TAG[m.Prefill], b"", 1], "prompt must hold 1 to"),
        ([TAG[m.Prefill], bytes(4 * PROMPT_LIMIT + 4), 1], "prompt must hold 1 to"),
        ([TAG[m.Prefill], b"\xff\xff\xff\xff", 1], "negative"),
        ([TAG[m.Prefill], bytes(4), 0], "new_tokens must be an integer from 1"),
        ([TAG[m.Prefill], bytes(4), True], "new_tokens must be an integer from 1"),
        ([TAG[m.Token], INT31 + 1], "token_id must be an integer"),
        ([TAG[m.Counted], bytes(87)], "stats must be 11 packed int64"),
        ([TAG[m.Counted], [0] * 11], "stats must be 11 packed int64"),
        ([TAG[m.Counted], bytes(87) + b"\x80"], "stats must be integers from 0"),
        ([TAG[m.Generate], bytes(4), 1, GOOD_PLAN[5], b"", 1], "stream must be True or False"),
        ([TAG[m.Generate], bytes(4), 1, GOOD_PLAN[5], bytes(3), True], "stop must be packed int32"),
        ([TAG[m.Logits], b""], "row must be one or more packed float32"),
        ([TAG[m.Logits], bytes(6)], "row must be one or more packed float32"),
        ([TAG[m.Stage], "warmup"], "name must be one of load, compile, capture"),
        ([TAG[m.Stage], ["load"]], "name must be one of"),
        ([TAG[m.Failure], "other", "why"], "kind must be one of unavailable, unsupported, invalid, failed, busy"),
        ([TAG[m.Failure], [], "why"], "kind must be one of"),
        ([TAG[m.Failure], "failed", b"why"], "message must be a text"),
        ([TAG[m.Failure], "failed", "x" * (TEXT_LIMIT + 1)], "message must be a text of at most"),
        ([TAG[m.Ready], ["fake", 0.0, math.nan, 0.0], bytes(88)], "a duration must be a finite number"),
        ([TAG[m.Ready], ["fake", 0.0, -1.0, 0.0], bytes(88)], "a duration must be a finite number"),
        ([TAG[m.Prepare], []], "plan must be a list of 7 fields"),
        (plan_with(2, "tpu"), "device must be one of cuda, cpu"),
        (plan_with(3, "int8"), "dtype must be one of"),
        (plan_with(4, 0), "context must be an integer from 1"),
        (plan_with(5, ["beam", 1.0, 0, 1.0, 0, 1.0]), "strategy must be one of greedy, sample"),
        (plan_with(5, ["greedy", math.inf, 0, 1.0, 0, 1.0]), "temperature must be a finite number"),
        (plan_with(6, []), "options must be a map"),
        (plan_with(6, {"a": b"bytes"}), "options must be plain values"),
        (plan_with(6, {"a": msgpack.ExtType(5, b"")}), "options must be plain values"),
        (plan_with(6, {"a": msgpack.Timestamp(1)}), "no msgpack array: .* exceeds max_ext_len"),
        (plan_with(6, {b"a": 1}), "a key of options must be a text"),
        (plan_with(6, {3: 1}), "no msgpack array"),
        (plan_with(6, {"a": nested(DEPTH_LIMIT + 1)}), "nested deeper"),
    ],
)  # fmt: skip
def test_a_malformed_frame_is_one_sentence(values, says):
    with pytest.raises(WireError, match=says):
        decode(msgpack.packb(values))


def test_a_pickle_is_only_bytes():
    with pytest.raises(WireError):
        decode(pickle.dumps(print))


@pytest.mark.parametrize(
    ("message", "says"),
    [
        (m.Prefill([], 1), "prompt must hold 1 to"),
        (m.Prefill([-1], 1), "negative"),
        (m.Prefill([INT31 + 1], 1), "prompt must hold integers from 0"),
        (m.Prefill([1.5], 1), "prompt must hold integers from 0"),
        (m.Prefill([1], 0), "new_tokens must be"),
        (m.Score([1], [-1]), "negative"),
        (m.IdentityIs(Identity(activity="gpu"), Stats()), "activity must be one of cuda, cpu, none"),  # type: ignore[arg-type]
        (m.IdentityIs(Identity(kernels=(Kernel("decode", "k", 0),)), Stats()), "an integer from 1"),
        (m.IdentityIs(Identity(modules={"torch": 2}), Stats()), "a version must be a text"),  # type: ignore[dict-item]
        (m.Stage("warmup"), "name must be one of load, compile, capture"),  # type: ignore[arg-type]
        (m.Token(-1), "token_id must be"),
        (m.Counted(Stats(gpu_ns=1.5)), "stats must be 11 integers"),
        (m.Counted(Stats(gpu_ns=-1)), "stats must be integers from 0"),
        (m.Counted(Stats(gpu_ns=2**63)), "stats must be 11 integers"),
        (m.Failure("failed", "\ud800"), "can't be sent"),
        (m.Logits(bytes(FRAME_LIMIT)), "outside the limit"),
        (m.Prepare(Plan("fake", "/c", "cpu", "float32", 400, options={"a": 2**70})), "can't be sent"),
        (m.Prepare(Plan("fake", "/c", "cpu", "float32", 400, options={"a": object()})), "options must be plain"),
        (m.Prepare(Plan("fake", "/c", "tpu", "float32", 400)), "device must be"),
    ],
)
def test_what_would_be_refused_is_not_sent(message, says):
    with pytest.raises(WireError, match=says):
        encode(message)


@pytest.mark.parametrize("length", [0, FRAME_LIMIT + 1, 2**32 - 1])
def test_a_length_outside_the_limit_is_refused(length):
    with pytest.raises(WireError, match="outside the limit"):
        checked_length(length)
