"""Targets that lead to no case, each one sentence."""

from __future__ import annotations

import pytest

from harness.loader import load_case


@pytest.mark.parametrize(
    ("target", "sentence"),
    [
        ("Baseline", "is not a dotted name: write package.module.Name"),
        (".Baseline", "is not a dotted name"),
        ("..baseline.Baseline", "is not a dotted name"),
        ("cases.nothing.Baseline", "there is no module cases.nothing"),
        ("cases.baseline.Nothing", "module cases.baseline has no Nothing"),
        ("json.decoder.JSONDecoder", "is not a subclass of harness.contract.Case"),
        ("harness.contract.Case", "lacks close, decode, prefill, prepare, stats: a case defines them"),
    ],
)
def test_what_is_no_case_is_refused(target, sentence):
    with pytest.raises(ValueError, match=f"^target '{target}'.*{sentence}"):
        load_case(target)


def test_a_module_that_lacks_a_package_says_which(tmp_path, monkeypatch):
    (tmp_path / "mine_alone.py").write_text("import surely_not_here\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ValueError, match=r"its module needs surely_not_here, which is not installed here$"):
        load_case("mine_alone.Case")
