"""How a server process ends, and in which words that is told."""

from __future__ import annotations

import signal
import subprocess


def ended_with(code: int) -> str:
    """`exit code 3`, or `signal SIGKILL`."""
    return f"exit code {code}" if code >= 0 else f"signal {signal.Signals(-code).name}"


def end(process: subprocess.Popen[bytes], seconds: float) -> bool:
    """Wait for the process to end, kill it after so many seconds; whether it ended by itself."""
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return False
    return True
