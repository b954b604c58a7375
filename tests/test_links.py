"""Every page here leads to what is in the repository, not to what only one machine has."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path, PurePosixPath

import pytest

ROOT = Path(__file__).resolve().parent.parent
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")


def tracked() -> list[str]:
    """The files of the repository; the test is skipped where it is no checkout."""
    if not (ROOT / ".git").exists():
        pytest.skip("no checkout: which files are tracked is not known")
    return subprocess.run(["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True).stdout.splitlines()


def test_every_link_between_pages_leads_to_a_tracked_file():
    files = tracked()
    there = {*files, *(str(folder) for file in files for folder in PurePosixPath(file).parents)}
    pages = [file for file in files if file.endswith(".md")]
    lost = []
    for page in pages:
        for link in LINK.findall((ROOT / page).read_text()):
            leads = os.path.normpath(PurePosixPath(page).parent / link)
            if "://" not in link and leads not in there:
                lost.append((page, link))
    assert "README.md" in pages
    assert not lost
