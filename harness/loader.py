"""The one place where the harness reaches code of `cases`: by the dotted names that the configuration holds."""

from __future__ import annotations

import importlib
from inspect import isabstract
from typing import Any

from harness.contract import Case

CASES = ("cases", "tests")
"""Packages of this checkout where a case may stand: a configuration names one of their classes, and no other code."""
OURS = (*CASES, "harness")


def load(target: str) -> Any:
    """Import `package.module.name`, of one of this checkout's packages.

    Raises:
        ValueError: one sentence on what part of the name does not exist, or what its module lacks.
    """
    module_name, _, name = target.rpartition(".")
    if not module_name or module_name.startswith("."):
        raise ValueError(f"target '{target}' is not a dotted name: write package.module.Name")
    _inside(target, OURS)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name and (module_name == error.name or module_name.startswith(error.name + ".")):
            raise ValueError(f"target '{target}': there is no module {error.name}") from error
        raise ValueError(f"target '{target}': its module needs {error.name}, which is not installed here") from error
    if not hasattr(module, name):
        raise ValueError(f"target '{target}': module {module_name} has no {name}")
    return getattr(module, name)


def load_case(target: str) -> type[Case]:
    """The class behind a case's `target`. Raises ValueError when it is no `Case`, or not a whole one.

    Nothing outside `CASES` is even imported: to import a module is to run it.
    """
    _inside(target, CASES)
    found = load(target)
    if not (isinstance(found, type) and issubclass(found, Case)):
        raise ValueError(f"target '{target}' is not a subclass of harness.contract.Case")
    if isabstract(found):
        raise ValueError(f"target '{target}' lacks {', '.join(sorted(found.__abstractmethods__))}: a case defines them")
    return found


def _inside(target: str, packages: tuple[str, ...]) -> None:
    top, dot, _ = target.partition(".")
    if dot and top and top not in packages:
        raise ValueError(
            f"target '{target}' lies outside the packages {' and '.join(packages)}: "
            "a case is a class in a file of cases/"
        )
