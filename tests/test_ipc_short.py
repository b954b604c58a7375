"""The messages of a timed interval: what is packed in one step is msgpack's bytes, and nothing passes that the long way
would refuse."""

from __future__ import annotations

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.ipc import messages as m
from harness.ipc import short, wire
from harness.ipc.fields import INT31, PROMPT_LIMIT, WireError
from harness.ipc.wire import HEADER, decode, encode

TOKEN, PREFILL, REHEARSE = (wire._TAGS[kind][0] for kind in (m.Token, m.Prefill, m.Rehearse))
numbers = st.integers(0, INT31)
messages = st.one_of(
    st.builds(m.Token, numbers),
    st.builds(m.Prefill, st.lists(numbers, min_size=1, max_size=50), st.integers(1, INT31)),
    st.builds(m.Rehearse, st.lists(numbers, min_size=1, max_size=50), st.integers(1, INT31)),
)


def body_of(message: m.Message) -> memoryview:
    frame = memoryview(encode(message))
    assert HEADER.unpack_from(frame)[0] == len(frame) - HEADER.size
    return frame[HEADER.size :]


@given(messages)
def test_there_and_back_and_msgpack_reads_the_same(message):
    body = body_of(message)
    tag, *fields = msgpack.unpackb(body)
    assert decode(body) == message
    if type(message) is m.Token:
        assert (tag, fields) == (TOKEN, [message.token_id])
        assert short.token_in(TOKEN, body) == message
    else:
        packed = b"".join(id.to_bytes(4, "little") for id in message.prompt)
        tags = {m.Prefill: PREFILL, m.Rehearse: REHEARSE}
        assert (tag, fields) == (tags[type(message)], [packed, message.new_tokens])
        assert message in (short.prefill_in(PREFILL, body), short.rehearse_in(REHEARSE, body))


@given(messages)
def test_numbers_and_lengths_of_msgpacks_own_widths_are_read_too(message):
    assert decode(msgpack.packb(msgpack.unpackb(body_of(message)))) == message


@given(messages, st.data())
def test_one_changed_byte_is_what_the_long_way_reads_or_refuses(message, data):
    body = bytearray(body_of(message))
    body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))

    def read() -> m.Message | None:
        try:
            return decode(body)
        except WireError:
            return None

    found = read()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(wire, "_SHORT_IN", {})
        assert found == read()


@pytest.mark.parametrize(
    "message",
    [
        m.Token(-1), m.Token(INT31 + 1), m.Token(True), m.Token(1.0), m.Token("1"), m.Prefill([], 1), m.Prefill([1], 0),
        m.Prefill([-1], 1), m.Prefill([INT31 + 1], 1), m.Prefill([1.5], 1), m.Prefill([1], True), m.Prefill([1], 2**40),
        m.Prefill(range(PROMPT_LIMIT + 1), 1),
    ],
)  # fmt: skip
def test_what_the_long_way_refuses_is_not_sent(message):
    with pytest.raises(WireError):
        encode(message)


def test_a_prompt_at_the_limit_goes_through():
    message = m.Prefill([7] * PROMPT_LIMIT, 1)
    assert decode(body_of(message)) == message
