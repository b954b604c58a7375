"""`python -m harness.output.provenance RUN`: which commit of this checkout has the very code that a run measured.

A run may come from an exported tree that knows no commit, or one that lies in another checkout. The digest of the code
is in its manifest; the commit that has it is added there as `git.same_code_as`.
"""

from __future__ import annotations

import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

from harness.output.manifest import CODE, code_digest
from harness.output.record import read_json, write_json
from harness.settings.compose import ROOT

NEWEST = 200
"""Commits that are looked at, from the newest back."""


def commit_with(digest: str, root: Path = ROOT) -> str | None:
    """The oldest of the newest commits whose code has this digest, None when none has: later ones changed other files.

    Raises ValueError outside a git checkout.
    """
    found = None
    for commit in _git(root, "rev-list", f"--max-count={NEWEST}", "HEAD").decode().split():
        if digest in digests_of(commit, root):
            found = commit
        elif found:
            break
    return found


def digests_of(commit: str, root: Path = ROOT) -> set[str]:
    """The digests of a commit's code: today's, and that of early runs, over Python files alone."""
    present = set(_git(root, "ls-tree", "--name-only", commit).decode().split())
    folders = [folder for folder in CODE if folder in present]
    with tempfile.TemporaryDirectory() as folder:
        if folders:
            with tarfile.open(fileobj=BytesIO(_git(root, "archive", commit, *folders))) as archive:
                archive.extractall(folder, filter="data")
        return {code_digest(Path(folder)), code_digest(Path(folder), (".py",))}


def text_at(commit: str, path: str, root: Path = ROOT) -> str:
    """A file as a commit has it, "" where it has none. Raises ValueError when the commit is not in this checkout."""
    if not _git(root, "ls-tree", "--name-only", commit, path):
        return ""
    return _git(root, "show", f"{commit}:{path}").decode()


def _git(root: Path, *arguments: str) -> bytes:
    done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, check=False)  # noqa: S603, S607  no shell
    if done.returncode != 0:
        raise ValueError(f"git {arguments[0]} failed in {root}: {done.stderr.decode().strip()}")
    return done.stdout


def main(argv: Sequence[str]) -> int:
    """0 when the commit was found and written, 1 when no commit has the code, 2 for a user's mistake."""
    if len(argv) != 1 or not (path := Path(argv[0]) / "manifest.json").is_file():
        print("error: name the folder of a run: python -m harness.output.provenance results/NAME", file=sys.stderr)
        return 2
    try:
        stored = read_json(path)
        commit = commit_with(str(stored.get("code_digest")))
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if commit is None:
        print(f"none of the last {NEWEST} commits has the code of {argv[0]}")
        return 1
    write_json(path, {**stored, "git": {**(stored.get("git") or {}), "same_code_as": commit}})
    print(f"{argv[0]} measured the code of commit {commit}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
