"""`resume=FOLDER`: the configuration of a run that goes on is the stored one. What else is given must agree with it."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import OmegaConf

from harness.settings.compose import compose_raw, flatten, resolved, to_config

FREE = ("lock", "dry_run")
"""What may be given beside `resume`: it is no setting of the run."""
UNWRITTEN = {"output": None, "dry_run": False, "resume": None, "lock": "wait"}
"""Keys that settings.json leaves out."""


def asked(flags: Namespace) -> Path | None:
    """The folder that `resume=` names, None where the key is not given.

    Raises:
        ValueError: with a flag of Hydra's that goes on with no run.
    """
    given = [one.partition("=")[2] for one in flags.overrides if one.startswith("resume=")]
    if not given or given[-1] in ("", "null") or flags.help:
        return None
    if flags.multirun or flags.cfg:
        raise ValueError("resume goes on with one stored run: leave --multirun and --cfg out")
    return Path(given[-1].strip("'\"")).expanduser().resolve()


def stored_settings(folder: Path, overrides: Sequence[str]) -> dict[str, Any]:
    """The resolved configuration of the run in `folder`, and what of `overrides` is no setting of it.

    Raises:
        ValueError: the folder holds no run, or an override asks for another configuration.
    """
    path = folder / "settings.json"
    if not path.is_file():
        if (folder / "manifest.json").is_file():
            raise ValueError(
                f"resume={folder}: this run has no settings.json, as published runs have none, and can't go on: "
                "begin a new one"
            )
        raise ValueError(f"resume={folder} holds no run that can go on (no settings.json): name a run's folder")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))["config"]
        known = dict(flatten(config))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path} is not as the harness wrote it: this run can't go on") from error
    free: dict[str, Any] = {}
    for override in parse([one for one in overrides if not one.startswith("resume=")]):
        if override.key_or_group in FREE:
            free[override.key_or_group] = override.value()
        else:
            check_same(folder, known, override)
    found = {**config, **UNWRITTEN, **free, "output": str(folder)}
    try:
        to_config(OmegaConf.create(found))
    except ValueError as error:
        raise ValueError(
            f"resume={folder}: its settings.json is not what this code asks for ({error}): go on with the code that "
            "began it (git.sha in its manifest.json), or begin a new run"
        ) from error
    return found


def parse(overrides: Sequence[str]) -> list[Override]:
    """Overrides that set a value. Raises ValueError on any other."""
    try:
        parsed = OverridesParser.create().parse_overrides(list(overrides))
    except HydraException as error:
        raise ValueError(f"cannot read {' '.join(overrides)}: write key=value") from error
    for one in parsed:
        if one.is_delete() or one.is_add() or one.is_sweep_override() or one.is_hydra_override():
            raise ValueError(f"{one.input_line} can't be given beside resume: the run goes on as it was configured")
    return parsed


def check_same(folder: Path, known: Mapping[str, Any], override: Override) -> None:
    """Refuse what would change the run. Raises ValueError with the difference."""
    if override.key_or_group == "output":
        other = Path(str(override.value())).expanduser().resolve()
        pairs: list[tuple[str, Any, Any]] = [] if other == folder else [("output", str(folder), str(other))]
    else:
        pairs = [(key, known.get(key), value) for key, value in wanted(known, override) if known.get(key) != value]
    if pairs:
        key, old, new = pairs[0]
        rest = f", and {len(pairs) - 1} more" if len(pairs) > 1 else ""
        raise ValueError(
            f"resume={folder}: {key}: {json.dumps(old)} -> {json.dumps(new)}{rest}: "
            f"a run goes on as it was configured: leave {override.input_line} out, or begin a new run"
        )


def wanted(known: Mapping[str, Any], override: Override) -> Iterator[tuple[str, Any]]:
    """The keys of the configuration that an override decides, and their values."""
    key, value = str(override.key_or_group), override.value()
    if key in known:
        yield key, value
        return
    usual, asked_for = (dict(flatten(resolved(compose_raw(one)))) for one in ([], [str(override.input_line)]))
    yield from ((name, new) for name, new in asked_for.items() if usual.get(name) != new or name.startswith(f"{key}."))
