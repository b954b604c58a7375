"""`python -m harness.stored.sums`: SHA256SUMS of the published runs, in the format of sha256sum.

It lies beside the runs, and git keeps it: whoever edits a run and the digests in its manifest has not changed it too.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from harness.disk import write_aside
from harness.output.manifest import file_digest
from harness.settings.compose import ROOT

NAME = "SHA256SUMS"
PUBLISHED = ROOT / "results" / "published"


def summed(folder: Path) -> list[Path]:
    """What is listed, by path: manifest.json and the CSVs of every run in `folder`, without those of its report."""
    runs = (path.parent for path in folder.glob("*/manifest.json"))
    files = (path for run in runs for path in (run / "manifest.json", *run.glob("*.csv")) if path.is_file())
    return sorted(files, key=lambda path: path.relative_to(folder).as_posix())


def sums(folder: Path) -> str:
    """The lines of SHA256SUMS."""
    return "".join(f"{file_digest(path)}  {path.relative_to(folder).as_posix()}\n" for path in summed(folder))


def main(argv: Sequence[str]) -> int:
    """0 when it is written, 2 for a user's mistake."""
    parser = argparse.ArgumentParser(prog="python -m harness.stored.sums", description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", default=PUBLISHED, help="folder of runs: results/published")
    folder = parser.parse_args(argv).folder
    if not summed(folder):
        print(f"error: {folder} holds no run", file=sys.stderr)
        return 2
    write_aside(folder / NAME, sums(folder))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
