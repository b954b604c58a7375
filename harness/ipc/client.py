"""A case whose engine lives in a server process behind a Unix socket: the same contract, one round trip a token."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import subprocess
import sys
import time
from array import array
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from harness.contract import (
    REPORTS_LIMIT,
    CaptureRecord,
    Case,
    Eviction,
    Footprint,
    Identity,
    Plan,
    Sampling,
    SetUp,
    Stats,
    Unavailable,
    Unsupported,
)
from harness.ipc import messages as m
from harness.ipc.address import connect, private_folder
from harness.ipc.channel import Channel, Spin, spin_here
from harness.ipc.ending import end, ended_with
from harness.ipc.fields import WireError
from harness.ipc.rehearsal import TO_NOBODY
from harness.loader import load_case

ROOT = Path(__file__).resolve().parents[2]
LISTEN_S = 120
"""Longest wait for the server to listen: the start of an interpreter, nothing of the case."""
CLOSE_S = 10
"""Longest wait for the server to end by itself before it is killed."""

Answer = TypeVar("Answer", bound=m.Message)


class RemoteCase(Case):
    """Serves the case `target` by a process of its own (under the interpreter `python`, else this one).

    `prepare` must be called from a thread that lives as long as the case: the server ends with its parent.
    `transport` says how both sides wait.
    """

    def __init__(
        self, target: str, python: str | None = None, spin: Spin | None = None, *, rehearse: bool = True
    ) -> None:
        # Per object and not per class, because it is the served class that knows.
        self.capabilities = load_case(target).capabilities  # type: ignore[misc]
        self._target = target
        self._python = python or sys.executable
        waiting = spin_here() if spin is None else spin
        self._spin = waiting._replace(rehearse=waiting.rehearse and rehearse)
        self._rehearses = self._spin.rehearse and self._spin.server_us > 0
        self.transport = str(self._spin)
        self._folder: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: Channel | None = None
        self._stats = Stats()
        self._owed = self._played = False
        self._reports = 0
        """Phases that the server may still report, while it prepares."""

    @property
    def pid(self) -> int | None:
        """The server's process id while there is one."""
        return self._process.pid if self._process else None

    engine_thread = pid
    """Its main thread, which has the process's id, serves every request."""

    def prepare(self, plan: Plan) -> SetUp:
        """Start the server and have it prepare the case.

        Raises:
            Unavailable, Unsupported: as the served case raised them, or the interpreter does not run.
            RuntimeError: the case failed otherwise, or the server died.
        """
        if self._process is not None:
            raise RuntimeError("prepare was called twice")
        self._folder = private_folder()
        self._start(self._folder / "s")
        spin = self._spin
        asks = spin.rehearse and spin.client_us > 0
        self._channel = Channel(connect(self._folder / "s"), spin.client_us, self._check_alive, rehearse=asks)
        self._reports = REPORTS_LIMIT
        answer = self._ask(m.Prepare(plan), m.Ready)
        self._reports = 0
        # The server has unlinked the socket: nothing is left on disk while requests run.
        self._remove_folder()
        self._stats = answer.stats
        return replace(answer.setup, engine=f"{answer.setup.engine}; {self.transport}")

    def prefill(self, prompt: Sequence[int], new_tokens: int = 1) -> int:
        """One round trip; see Case.prefill."""
        token = self._ask(m.Prefill(prompt, new_tokens), m.Token).token_id
        self._owed = True
        return token

    def decode(self) -> int:
        """One round trip; see Case.decode."""
        token = self._ask(m.Decode(), m.Token).token_id
        self._owed = True
        return token

    def rehearse(self) -> None:
        """Every other time play a request to nobody, over the connection itself: none ever waits for a rehearsal.

        A server that sleeps while it waits is not woken for that.
        """
        self._played = self._rehearses and not self._played
        if self._played and self._channel is not None:
            self._ask(TO_NOBODY, m.Token)
            self._owed = True
            self.stats()

    def stats(self) -> Stats:
        """The counters that follow each token unasked: no round trip. Raises RuntimeError as a request does."""
        if self._owed:
            self._owed = False
            self._stats = self._receive("the counters behind a token", m.Counted).stats
        return self._stats

    def footprint(self) -> Footprint:
        """Memory and graphs of the server. It collects its garbage before it answers."""
        return self._ask(m.GetFootprint(), m.FootprintIs).footprint

    def score(self, prompt: Sequence[int], forced: Sequence[int]) -> list[array[float]]:
        """See Case.score; one frame a row."""
        rows = [self._ask(m.Score(prompt, forced), m.Logits)]
        rows += [self._receive("Score", m.Logits) for _ in forced]
        return [array("f", row.row) for row in rows]

    def identity(self, prompt: Sequence[int]) -> Identity:
        """See Case.identity: the pass runs in the server, which holds the engine."""
        answer = self._ask(m.GetIdentity(prompt), m.IdentityIs)
        self._stats = answer.stats
        return answer.identity

    def use(self, sampling: Sampling) -> None:
        """See Case.use."""
        self._ask(m.Use(sampling), m.Used)

    def captured(self) -> list[CaptureRecord]:
        """See Case.captured."""
        return list(self._ask(m.GetCaptures(), m.CapturesAre).captures)

    def evict(self) -> Eviction:
        """See Case.evict."""
        answer = self._ask(m.Evict(), m.Evicted)
        self._stats = answer.stats
        return answer.eviction

    def close(self) -> None:
        """End the server: asked to at first, killed after CLOSE_S seconds. Idempotent.

        Raises:
            RuntimeError: the case's own `close` failed, or the server hung or died in it, which no request has told;
                the server has ended all the same.
        """
        channel, process = self._channel, self._process
        self._channel = self._process = None
        self._owed = False
        known = process is not None and process.poll() is not None
        deadline = time.monotonic() + CLOSE_S
        try:
            if channel is not None:
                self._say_close(channel, deadline)
        finally:
            if channel is not None:
                channel.close()
            in_time = process is None or end(process, max(0.0, deadline - time.monotonic()))
            self._remove_folder()
        if process is None or channel is None or known:
            return
        if not in_time:
            raise RuntimeError(f"the server of {self._target} did not end within {CLOSE_S} seconds and was killed")
        if process.returncode != 0:
            raise RuntimeError(f"the server of {self._target} ended in Close with {ended_with(process.returncode)}")

    def _start(self, path: Path) -> None:
        """Start the server and wait until it listens."""
        ready, write_end = os.pipe()
        arguments = ["--socket", str(path), "--target", self._target, "--parent", str(os.getpid())]
        arguments += ["--ready-fd", str(write_end), "--spin-us", str(self._spin.server_us)]
        arguments += [] if self._spin.rehearse else ["--no-rehearsals"]
        environment = dict(os.environ)
        environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        try:
            self._process = subprocess.Popen(  # noqa: S603  this package's own module
                [self._python, "-m", "harness.ipc.server", *arguments],
                cwd=ROOT,
                env=environment,
                stdin=subprocess.DEVNULL,
                # What a case prints must not mix with what this process writes to its standard output.
                stdout=2,
                pass_fds=[write_end],
            )
        except OSError as error:
            os.close(ready)
            raise Unavailable(f"the interpreter {self._python} of case.python does not run: {error}") from error
        finally:
            os.close(write_end)
        self._wait_for_listening(ready)

    def _wait_for_listening(self, ready: int) -> None:
        """The server writes one byte when it listens; an end of the pipe without one is its death."""
        try:
            if not select.select([ready], [], [], LISTEN_S)[0]:
                raise RuntimeError(f"the server of {self._target} did not listen within {LISTEN_S} seconds")
            if not os.read(ready, 1):
                raise self._death("its start")
        finally:
            os.close(ready)

    def _check_alive(self) -> None:
        """Each idle second: a forked child of a dead server may still hold the connection open."""
        if self._process is not None and self._process.poll() is not None:
            raise self._death("a request")

    def _ask(self, request: m.Message, wanted: type[Answer]) -> Answer:
        if self._channel is None:
            raise RuntimeError("the case is not prepared")
        stage = type(request).__name__
        if self._owed:
            self.stats()
        try:
            self._channel.send(request)
        except OSError as error:
            raise self._death(stage) from error
        return self._receive(stage, wanted)

    def _receive(self, stage: str, wanted: type[Answer]) -> Answer:
        assert self._channel is not None  # noqa: S101  for the type checker
        try:
            answer = self._channel.receive()
        except OSError as error:
            raise self._death(stage) from error
        except WireError as error:
            raise RuntimeError(f"the server of {self._target} sent no message in {stage}: {error}") from error
        if type(answer) is wanted:
            return answer
        if isinstance(answer, m.Stage) and self._reports:
            self._reports -= 1
            self.report(answer.name)
            return self._receive(stage, wanted)
        if answer is None:
            raise self._death(stage)
        if isinstance(answer, m.Failure):
            raise _EXCEPTIONS[answer.kind](answer.message)
        raise RuntimeError(f"the server of {self._target} answered {stage} with {type(answer).__name__}")

    def _death(self, stage: str) -> RuntimeError:
        """How the server ended, in one sentence."""
        assert self._process is not None  # noqa: S101  for the type checker
        try:
            code = self._process.wait(CLOSE_S)
        except subprocess.TimeoutExpired:
            return RuntimeError(f"the server of {self._target} hung up in {stage} but goes on running")
        return RuntimeError(f"the server of {self._target} ended in {stage} with {ended_with(code)}")

    def _say_close(self, channel: Channel, deadline: float) -> None:
        """Ask the server to close and wait for it, dropping answers that nobody read."""

        def check_deadline() -> None:
            if time.monotonic() > deadline:
                raise TimeoutError

        channel.on_idle = check_deadline
        answer: m.Message | None = None
        # A server that is gone or hangs is ended by the caller: there is nobody left to say more.
        with contextlib.suppress(OSError, WireError):
            channel.send(m.Close())
            while not isinstance(answer := channel.receive(), (m.Closed, m.Failure, type(None))):
                continue
        if isinstance(answer, m.Failure):
            raise RuntimeError(f"close failed: {answer.message}")

    def _remove_folder(self) -> None:
        if self._folder is not None:
            shutil.rmtree(self._folder)
            self._folder = None


_EXCEPTIONS: dict[str, type[Exception]] = {
    "unavailable": Unavailable,
    "unsupported": Unsupported,
    "invalid": ValueError,
    "failed": RuntimeError,
    "busy": RuntimeError,
}
