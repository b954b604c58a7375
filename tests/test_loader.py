"""Targets that lead to no case, each one sentence."""

from __future__ import annotations

import pytest

from harness.loader import load, load_case


@pytest.mark.parametrize(
    ("target", "sentence"),
    [
        ("Baseline", "is not a dotted name: write package.module.Name"),
        (".Baseline", "is not a dotted name"),
        ("..baseline.Baseline", "is not a dotted name"),
        ("cases.nothing.Baseline", "there is no module cases.nothing"),
        ("cases.baseline.Nothing", "module cases.baseline has no Nothing"),
        ("tests.fakes.next_token", "is not a subclass of harness.contract.Case"),
        ("tests.fakes.Case", "lacks close, decode, prefill, prepare, stats: a case defines them"),
        (
            "json.decoder.JSONDecoder",
            "lies outside the packages cases and tests: a case is a class in a file of cases/",
        ),
        ("os.system", "lies outside the packages"),
        ("harness.ipc.client.RemoteCase", "lies outside the packages"),
        ("casesx.jit.Jit", "lies outside the packages"),
    ],
)
def test_what_is_no_case_is_refused(target, sentence):
    with pytest.raises(ValueError, match=f"^target '{target}'.*{sentence}"):
        load_case(target)


def test_a_module_that_lacks_a_package_says_which(tmp_path, monkeypatch):
    (tmp_path / "mine_alone.py").write_text("import surely_not_here\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr("harness.loader.CASES", ("mine_alone",))
    monkeypatch.setattr("harness.loader.OURS", ("mine_alone",))
    with pytest.raises(ValueError, match=r"its module needs surely_not_here, which is not installed here$"):
        load_case("mine_alone.Case")


@pytest.mark.parametrize("reach", [load, load_case])
def test_a_module_outside_this_checkout_is_not_even_imported(tmp_path, monkeypatch, fault, reach):
    tried = fault("Socket", "a configuration names code outside this checkout as a case")
    (tmp_path / "not_ours.py").write_text("raise AssertionError('imported')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ValueError, match="lies outside the packages"):
        reach("not_ours.Case")
    tried.happened("refused in one sentence; nothing is imported")
