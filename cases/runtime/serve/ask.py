"""The client's side: ask for an answer, for the server's status, for its end."""

from __future__ import annotations

import sys
import time
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from rich.console import Console
from rich.table import Table

from cases.runtime.serve.text import Text
from cases.runtime.serve.where import default_socket
from harness.contract import Sampling
from harness.ipc import messages as m
from harness.ipc.address import connect
from harness.ipc.channel import Channel, spin_here
from harness.ipc.fields import WireError

INTERRUPTED = 130
STOP_S = 30
MS = 1e6


class Server:
    """The other end of a connection. Raises RuntimeError when it ends or fails, ValueError for what it refuses."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    def send(self, request: m.Message) -> None:
        """Send one request."""
        try:
            self._channel.send(request)
        except OSError as error:
            self._last_word()
            raise RuntimeError(f"the server has gone ({error.strerror})") from error
        except WireError as error:
            raise ValueError(str(error)) from error

    def _last_word(self) -> None:
        """A server that hangs up says why, if there was time to. Raises RuntimeError with its words."""
        with suppress(OSError, WireError):
            answer = self._channel.receive()
            if isinstance(answer, m.Failure):
                raise RuntimeError(answer.message)

    def receive(self) -> m.Message:
        """The next answer."""
        try:
            answer = self._channel.receive()
        except OSError as error:
            raise RuntimeError(f"the server has gone ({error.strerror})") from error
        except WireError as error:
            raise RuntimeError(f"the server sent no message: {error}") from error
        if answer is None:
            raise RuntimeError("the server has hung up")
        if isinstance(answer, m.Failure):
            raise (ValueError if answer.kind in ("invalid", "unsupported") else RuntimeError)(answer.message)
        return answer


@contextmanager
def connected(path: Path) -> Iterator[Server]:
    """A connection to the server at `path`. Raises ValueError when there is none."""
    try:
        connection = connect(path)
    except OSError as error:
        start = "python -m cases.runtime.serve" + ("" if path == default_socket() else f" --socket {path}")
        why = error.strerror or error  # a path that is too long has no number of the system's
        raise ValueError(f"no server listens at {path} ({why}): start one with {start}") from error
    with connection:
        yield Server(Channel(connection, spin_here().client_us, lambda: None))


def generate(args: Namespace) -> int:
    """Print an answer as it comes; 0, or 130 when it was interrupted."""
    with connected(args.socket) as server:
        text = Text(Path(status_of(server).folder)) if args.prompt is not None else None
        prompt = text.ids(args.prompt) if text else parse_ids("--prompt-ids", args.prompt_ids)
        stop = parse_ids("--stop-ids", args.stop_ids) if args.stop_ids else text.stop if text else []
        request = m.Generate(prompt, at_least_one(args.new_tokens), sampling(args), stop, not args.no_stream)
        printer = Printer(text)
        started = time.perf_counter_ns()
        server.send(request)
        interrupted = False
        while True:
            try:
                answer = server.receive()
            except KeyboardInterrupt:
                interrupted = True
                server.send(m.Cancel())
                continue
            if isinstance(answer, m.Token):
                printer.put(answer.token_id)
            if isinstance(answer, m.Finished):
                break
    for token in answer.tokens[printer.count :]:
        printer.put(token)
    printer.end()
    if args.timings:
        print(timings(answer, printer, started), file=sys.stderr)
    if answer.reason == "stopped":
        raise RuntimeError("the server was stopped before the answer was whole")
    return INTERRUPTED if interrupted else 0


def status(args: Namespace) -> int:
    """Print how the server is."""
    with connected(args.socket) as server:
        found = status_of(server)
    now, stats = found.status, found.stats
    table = Table(show_header=False, title=f"{found.model}", title_justify="left")
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in (
        ("Engine", found.engine),
        ("Process, up", f"{now.pid}, {now.uptime_ms / 1e3:.0f} s"),
        ("Clients (this one too), waiting requests", f"{now.clients}, {now.waiting}"),
        ("Answered, tokens", f"{now.served}, {now.tokens}"),
        ("Cancelled, refused or failed", f"{now.cancelled}, {now.failed}"),
        ("Clients refused, hung up on", f"{now.refused}, {now.dropped}"),
        (f"TTFT with queue, last {now.recent} (ms)", latencies(now.recent, now.ttft_p50_us, now.ttft_p99_us)),
        (
            f"Later tokens, last {now.recent_later} (ms)",
            latencies(now.recent_later, now.token_p50_us, now.token_p99_us),
        ),
        ("Graphs: hits, misses", f"{stats.hits}, {stats.misses}"),
        ("Captures, evictions, failures", f"{stats.captures}, {stats.evictions}, {stats.failures}"),
    ):
        table.add_row(name, value)
    Console(highlight=False).print(table)
    return 0


def stop(args: Namespace) -> int:
    """End the server and wait until its socket has gone. Raises RuntimeError when it has not after STOP_S."""
    with connected(args.socket) as server:
        server.send(m.Shutdown())
        server.receive()
    until = time.monotonic() + STOP_S
    while args.socket.exists():
        if time.monotonic() > until:
            raise RuntimeError(f"the server at {args.socket} goes on {STOP_S} s after it said that it stops")
        time.sleep(0.02)
    print("stopped")
    return 0


class Printer:
    """Puts tokens on standard output as they come: text where there is a tokenizer, else ids with commas between."""

    def __init__(self, text: Text | None) -> None:
        self._text = text
        self.count = 0
        self.first_ns = 0

    def put(self, token: int) -> None:
        """One more token."""
        self.first_ns = self.first_ns or time.perf_counter_ns()
        shown = self._text.more(token) if self._text else f"{',' if self.count else ''}{token}"
        self.count += 1
        print(shown, end="", flush=True)

    def end(self) -> None:
        """The answer is over: what was held back of a character that never became whole, and the line's end."""
        print(self._text.rest() if self._text else "", flush=True)


def status_of(server: Server) -> m.StatusIs:
    """Ask for the status."""
    server.send(m.GetStatus())
    answer = server.receive()
    assert isinstance(answer, m.StatusIs)  # noqa: S101  what `status` is answered with
    return answer


def sampling(args: Namespace) -> Sampling:
    """Greedy unless something about sampling is asked for. Raises ValueError for what could only be ignored."""
    if args.temperature is None:
        if args.top_k or args.top_p != 1.0:
            raise ValueError("--top-k and --top-p need --temperature: without it the likeliest token is taken")
        return Sampling(seed=args.seed)
    return Sampling("sample", args.temperature, args.top_k, args.top_p, args.seed)


def parse_ids(option: str, listed: str) -> list[int]:
    """Token ids with commas between. Raises ValueError for anything else."""
    try:
        return [int(item) for item in listed.split(",")]
    except ValueError:
        raise ValueError(f"{option} takes token ids with commas between, as in 1,543,318, not {listed!r}") from None


def at_least_one(count: int) -> int:
    """The number of new tokens. Raises ValueError for none."""
    if count < 1:
        raise ValueError(f"--new-tokens must be at least 1, not {count}")
    return count


def latencies(count: int, p50_us: int, p99_us: int) -> str:
    """P50 and P99 in ms, a dash without a sample. Of fewer than a hundred the P99 is the slowest, and is called so."""
    tail = "slowest" if count < 100 else "P99"
    return f"P50 {p50_us / 1e3:.2f}, {tail} {p99_us / 1e3:.2f}" if count > 0 else "-"


def timings(answer: m.Finished, printer: Printer, started_ns: int) -> str:
    """One line: by this client's clock to the first token, by the server's for the rest."""
    spent = answer.timing
    later = max(1, len(answer.tokens) - 1)
    first = f"first token after {(printer.first_ns - started_ns) / MS:.2f} ms" if answer.tokens else "no token"
    return (
        f"{len(answer.tokens)} tokens ({answer.reason}); {first} (queue {spent.queue_ns / MS:.2f}, engine "
        f"{spent.prefill_ns / MS:.2f}); {spent.decode_ns / later / MS:.2f} ms a later token by the engine"
    )
