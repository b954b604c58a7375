"""Which code and which driver a table of kernels comes from."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

REVISION = re.compile("[0-9a-f]{40}")
UNKNOWN = "unknown"


def origin(root: Path) -> dict[str, str]:
    """The commit of the code below `root`, and the driver; `unknown` where nobody says."""
    return {"code": commit(root), "driver": driver()}


def commit(root: Path) -> str:
    """An exported tree names its commit in .revision, a checkout asks git; `and changes` where cases/ has any."""
    exported = root / ".revision"
    said = exported.read_text(encoding="utf-8").strip() if exported.is_file() else ""
    if REVISION.fullmatch(said):
        return said
    try:
        head = _git(root, "rev-parse", "HEAD")
        return f"{head} and changes" if _git(root, "status", "--porcelain", "--", "cases") else head
    except (OSError, subprocess.CalledProcessError):
        return UNKNOWN


def driver() -> str:
    """The version of NVIDIA's driver."""
    import pynvml

    try:
        pynvml.nvmlInit()
        return str(pynvml.nvmlSystemGetDriverVersion())
    except pynvml.NVMLError:
        return UNKNOWN


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=True)  # noqa: S603, S607
    return done.stdout.strip()
