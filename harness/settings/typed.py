"""Plain values as the dataclasses of a configuration, with every mistake as one sentence."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any, get_args, get_type_hints

from omegaconf import OmegaConf
from omegaconf.errors import ConfigKeyError, MissingMandatoryValue, OmegaConfBaseException, ValidationError

from harness.settings.config import CaseConfig
from harness.settings.sentences import first_line, nearest, wrong_type


def typed_case(name: str, case: Any, protocol: Mapping[str, Any]) -> CaseConfig:
    """A case without a procedure or a sampling of its own has the protocol's, one without blocks the sweep's.

    Raises ValueError as `typed` does.
    """
    if not isinstance(case, dict):
        raise ValueError(f"cases.{name} must be a mapping, not {case!r}: choose a file with case@cases.{name}=NAME")
    case = {"procedure": protocol, "sampling": protocol["sampling"], "blocks": None, **case}
    common = {field.name for field in fields(CaseConfig)} - {"options"}
    missing = sorted(common - case.keys())
    if missing:
        raise ValueError(f"cases.{name}.{missing[0]} is missing: every file in conf/case needs it")
    values: dict[str, Any] = {key: value for key, value in case.items() if key in common}
    values["options"] = {key: value for key, value in case.items() if key not in common}
    return typed(CaseConfig, values, f"cases.{name}.")


def typed(kind: type[Any], values: dict[str, Any], prefix: str) -> Any:
    """`values` as an instance of the dataclass `kind`; `prefix` stands before keys in error sentences.

    Raises:
        ValueError: one sentence on a value of the wrong type, an unknown key, or one that is missing.
    """
    try:
        made = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(kind), values))
    except ValidationError as error:
        key = "" if error.full_key is None else str(error.full_key)
        where = f"item {key} of {prefix}{_culprit(kind, values)}" if key.isdigit() else f"{prefix}{key}"
        raise ValueError(f"{where}: {wrong_type(error)}") from error
    except ConfigKeyError as error:
        allowed = [field.name for field in fields(error.object_type or kind)]
        raise ValueError(
            f"unknown key '{prefix}{error.full_key}'{nearest(str(error.key), allowed)} "
            f"(keys beside it: {', '.join(allowed)})"
        ) from error
    except MissingMandatoryValue as error:
        key = re.sub(r".*value: ", "", first_line(error))
        sentence = f"{prefix}{error.full_key or key} is missing: it can't be removed from the configuration"
        raise ValueError(sentence) from error
    except OmegaConfBaseException as error:
        raise ValueError(f"{prefix}{error.full_key or ''}: {first_line(error)}") from error
    _check_items(made, prefix)
    return made


def _check_items(made: Any, prefix: str) -> None:
    """Refuse a list within a list where single values are asked for, which OmegaConf lets pass. Raises ValueError."""
    hints = get_type_hints(type(made))
    for field in fields(made):
        value = getattr(made, field.name)
        if is_dataclass(value):
            _check_items(value, f"{prefix}{field.name}.")
        elif isinstance(value, list) and get_args(hints[field.name])[0] in (int, float, str):
            inner = [item for item in value if isinstance(item, list | dict)]
            if inner:
                raise ValueError(f"{prefix}{field.name}: {inner[0]} is no single value: write [a,b]")


def _culprit(kind: type[Any], values: Mapping[str, Any], path: tuple[str, ...] = ()) -> str:
    """The dotted key whose value the dataclass `kind` does not take: OmegaConf names an item of a list alone."""
    node = values
    for key in path:
        node = node[key]
    for key, value in node.items():
        alone = {key: value}
        for above in reversed(path):
            alone = {above: alone}
        try:
            OmegaConf.merge(OmegaConf.structured(kind), alone)
        except OmegaConfBaseException:
            return _culprit(kind, values, (*path, key)) if isinstance(value, dict) else ".".join((*path, key))
    return ".".join(path)
