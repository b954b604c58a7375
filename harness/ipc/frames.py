"""Frames cut out of a stream of bytes: one buffer that lives as long as its connection."""

from __future__ import annotations

from harness.ipc.wire import FRAME_LIMIT, HEADER, checked_length

CAPACITY = 1 << 16


class Frames:
    """Receive into `room()`, say `came(count)`, take `next()` until there is none. No body is longer than `limit`."""

    def __init__(self, limit: int = FRAME_LIMIT) -> None:
        self._limit = limit
        self._view = memoryview(bytearray(CAPACITY))
        self._begin = self._end = 0
        self._wanted = HEADER.size

    @property
    def partial(self) -> bool:
        """Whether bytes of a frame are here that is not whole yet."""
        return self._begin != self._end

    def room(self) -> memoryview:
        """Where to put the next bytes: never empty, and at least up to the end of the frame that has begun."""
        self._make_room(self._wanted)
        return self._view[self._end :]

    def came(self, count: int) -> None:
        """So many bytes were put into the room."""
        self._end += count

    def next(self) -> memoryview | None:
        """The body of the next whole frame, valid until `room` is called; None when more bytes are needed.

        Raises:
            WireError: the frame says that it is empty or longer than allowed.
        """
        body = self._begin + HEADER.size
        if body > self._end:
            self._wanted = HEADER.size
            return None
        length = checked_length(HEADER.unpack_from(self._view, self._begin)[0], self._limit)
        if body + length > self._end:
            self._wanted = HEADER.size + length
            return None
        self._begin = body + length
        return self._view[body : self._begin]

    def _make_room(self, length: int) -> None:
        """Have a frame of `length` bytes fit behind `_begin`, moving what is here to the front if it must be."""
        if self._begin == self._end:
            self._begin = self._end = 0
        if self._begin + length <= len(self._view):
            return
        here = bytes(self._view[self._begin : self._end])
        if length > len(self._view):
            self._view = memoryview(bytearray(length))
        self._begin, self._end = 0, len(here)
        self._view[: len(here)] = here
