"""Exact versions of everything that is installed, and an audit that can't pass without having looked."""

from __future__ import annotations

import json
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, distribution, distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests import audit

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def pinned() -> dict[str, str]:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")]
    found = {}
    for line in lines:
        name, sign, version = line.partition("==")
        assert sign, f"{line} is no exact version"
        assert version.strip("0123456789.") in ("", "a", "b", "rc", "post"), f"{line} is no exact version"
        found[canonicalize_name(name)] = version
    assert len(found) == len(lines)
    return found


def walked() -> dict[str, set[str]]:
    """Every package that `pip install .[dev]` brings here, and the ranges asked of it."""
    found: dict[str, set[str]] = {}
    left = [Requirement(text) for text in (*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["dev"])]
    done: set[tuple[str, str]] = set()
    while left:
        one = left.pop()
        extras = one.extras or {""}
        if one.marker is not None and not one.marker.evaluate({"extra": ""}):
            continue
        name = canonicalize_name(one.name)
        found.setdefault(name, set()).add(str(one.specifier))
        for extra in extras - {extra for known, extra in done if known == name}:
            done.add((name, extra))
            try:
                asked = distribution(name).requires or []
            except PackageNotFoundError:
                continue
            inner = [Requirement(text) for text in asked]
            left += [
                Requirement(str(each).partition(";")[0]) for each in inner
                if each.marker is None or each.marker.evaluate({"extra": extra})
            ]  # fmt: skip
    return found


CUDA = ("nvidia-", "cuda-", "triton")
"""What a CUDA build of torch asks for, each by an exact version of its own."""


def test_everything_that_is_installed_has_an_exact_version():
    versions = pinned()
    lacking = sorted(name for name in walked() if name not in versions and not name.startswith(CUDA))
    assert lacking == []


def test_the_exact_versions_are_within_what_is_asked_for():
    versions = pinned()
    wrong = [
        (name, text) for name, ranges in walked().items() if name in versions
        for text in ranges if not Requirement(f"{name}{text}").specifier.contains(versions[name], prereleases=True)
    ]  # fmt: skip
    assert wrong == []


def test_no_version_is_left_that_nothing_asks_for():
    asked = walked()
    here = {canonicalize_name(one.name) for one in distributions()}
    if absent := sorted(name for name in asked if name not in here and not name.startswith(CUDA)):
        pytest.skip(f"{', '.join(absent)} not installed here, so what they ask for is not known")
    assert sorted(pinned().keys() - asked.keys()) == []


KEPT = [{"id": "GHSA-1", "package": "a", "reason": "not called here"}]
CLEAN, HOLE = {"name": "b", "version": "1", "vulns": []}, {"name": "a", "version": "1", "vulns": [{"id": "GHSA-1"}]}
SKIPPED = {"name": "c", "skip_reason": "Dependency not found on PyPI"}


@pytest.mark.parametrize(("found", "kept", "code", "said"), [
    ([CLEAN], [], 0, "1 versions looked up, 0 findings"),
    ([CLEAN, HOLE], KEPT, 0, "a: GHSA-1: not called here"),
    ([CLEAN, HOLE], [], 1, "a: GHSA-1: NO REASON GIVEN"),
    ([CLEAN], KEPT, 1, "is found no more: take it away"),
    ([CLEAN, SKIPPED], [], 2, "1 of 2 versions were not looked up (c and so on)"),
    ([], [], 2, "0 of 0 versions were not looked up"),
])  # fmt: skip
def test_an_audit_passes_only_when_all_was_looked_up_and_explained(found, kept, code, said):
    given, lines = audit.judged(found, kept)
    assert given == code
    assert any(said in line for line in lines), lines


def test_an_audit_without_an_answer_is_no_pass(tmp_path, capsys):
    tool = tmp_path / "pip-audit"
    tool.write_text(f"#!{sys.executable}\nimport sys\nsys.exit('no network')\n")
    tool.chmod(0o700)
    assert audit.main([str(tool), "constraints.txt"]) == 2
    assert "pip-audit gave no answer (no network)" in capsys.readouterr().out
    tool.write_text(f"#!{sys.executable}\nprint({json.dumps(json.dumps({'dependencies': [CLEAN]}))})\n")
    assert audit.main([str(tool), "constraints.txt"]) == 0
