"""One Generate under way: a token a step, so that the server can look at its other clients in between."""

from __future__ import annotations

from harness.ipc import messages as m
from harness.ipc.answers import Answers
from harness.ipc.connection import Clock, Connection, Waiting
from harness.ipc.wire import encode


class Generation:
    """The answer to one request, so far."""

    def __init__(self, connection: Connection, waiting: Waiting, answers: Answers, clock: Clock) -> None:
        assert isinstance(waiting.request, m.Generate)  # noqa: S101  for the type checker
        self.connection = connection
        self.request = waiting.request
        self._came_ns, self._started_ns = waiting.came_ns, clock()
        self._answers, self._clock, self._tally = answers, clock, answers.tally
        self._tokens: list[int] = []
        self._stop = frozenset(self.request.stop)
        self._prefill_ns = self._decode_ns = 0
        connection.cancel = False

    @property
    def count(self) -> int:
        """Tokens made so far."""
        return len(self._tokens)

    def step(self) -> list[bytes]:
        """One more token; its frame, where the answer is streamed. Raises what the engine raises."""
        started = self._clock()
        if self._tokens:
            token = self._answers.engine().decode()
            took = self._clock() - started
            self._decode_ns += took
            self._tally.later(took)
        else:
            token = self._answers.begin(self.request).prefill(self.request.prompt, self.request.new_tokens)
            ended = self._clock()
            self._prefill_ns = ended - started
            self._tally.first(ended - self._came_ns)
        self._tokens.append(token)
        return [encode(m.Token(token))] if self.request.stream else []

    def over(self) -> m.Reason | None:
        """Why there are no more tokens to come, None when there are."""
        if self._tokens and self._tokens[-1] in self._stop:
            return "stop"
        if len(self._tokens) >= self.request.new_tokens:
            return "length"
        return "cancelled" if self.connection.cancel or self.connection.gone else None

    def finished(self, reason: m.Reason) -> m.Finished:
        """The last message of the answer."""
        timing = m.Timing(self._started_ns - self._came_ns, self._prefill_ns, self._decode_ns)
        return m.Finished(reason, self._tokens, timing)
