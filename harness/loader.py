"""The one place where the harness reaches code of `cases`: by the dotted names that the configuration holds."""

from __future__ import annotations

import importlib
from typing import Any

from harness.contract import Case


def load(target: str) -> Any:
    """Import `package.module.name`.

    Raises:
        ValueError: one sentence on what part of the name does not exist.
    """
    module_name, _, name = target.rpartition(".")
    if not module_name:
        raise ValueError(f"target '{target}' is not a dotted name: write package.module.Name")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name and (module_name == error.name or module_name.startswith(error.name + ".")):
            raise ValueError(f"target '{target}': there is no module {error.name}") from error
        raise
    if not hasattr(module, name):
        raise ValueError(f"target '{target}': module {module_name} has no {name}")
    return getattr(module, name)


def load_case(target: str) -> type[Case]:
    """The class behind a case's `target`. Raises ValueError when it is no `Case`."""
    found = load(target)
    if not (isinstance(found, type) and issubclass(found, Case)):
        raise ValueError(f"target '{target}' is not a subclass of harness.contract.Case")
    return found
