"""Whether NVIDIA's run-time compiler is here, on machines that have cuda-bindings, half of it, or nothing."""

from __future__ import annotations

import sys
from enum import IntEnum
from types import ModuleType

import pytest

from cases.runtime.kernels.hopper import nvrtc


class Result(IntEnum):
    SUCCESS = 0
    INTERNAL_ERROR = 11


class Unfound(RuntimeError):
    """As cuda-bindings raises it for a library that it can't load."""


def answer(*values):
    def version():
        return values

    return version


def unfound():
    raise Unfound("Failure finding libnvrtc.so")


@pytest.fixture
def bindings(monkeypatch):
    """`bindings(call)`: a cuda-bindings whose question for the version is answered by `call`."""

    def install(call) -> None:
        package, bound, compiler = ModuleType("cuda"), ModuleType("cuda.bindings"), ModuleType("cuda.bindings.nvrtc")
        compiler.nvrtcVersion = call
        bound.nvrtc, bound.driver, package.bindings = compiler, ModuleType("cuda.bindings.driver"), bound
        for module in (package, bound, compiler, bound.driver):
            monkeypatch.setitem(sys.modules, module.__name__, module)

    return install


def test_it_is_here_with_its_version(bindings):
    bindings(answer(Result.SUCCESS, 13, 0))
    assert nvrtc.why_absent() == ""
    assert nvrtc.version() == "NVRTC 13.0"


def test_no_bindings_are_a_reason(monkeypatch):
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    assert nvrtc.why_absent().startswith("no cuda-bindings: ")


def test_bindings_without_the_library_are_a_reason_too(bindings):
    bindings(unfound)
    assert nvrtc.why_absent() == "no NVRTC: Failure finding libnvrtc.so"


def test_a_library_that_can_not_answer_is_one(bindings):
    bindings(answer(Result.INTERNAL_ERROR, 0, 0))
    assert nvrtc.why_absent() == "no NVRTC: it has no version: INTERNAL_ERROR"
