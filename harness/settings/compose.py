"""From command-line arguments to a typed configuration, with every mistake as one sentence.

Hydra composes; what it raises on the way is translated here. Nothing here looks at the machine.
"""

from __future__ import annotations

import hashlib
import re
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import ConfigCompositionException, HydraException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from harness.settings.config import RunConfig
from harness.settings.sentences import children, detail, first_line, known_parent, nearest
from harness.settings.typed import typed, typed_case


def pick(key: Any, choices: Mapping[str, Any], otherwise: Any = None) -> Any:
    """`${pick:KEY,{A:1,B:2},3}` in a configuration: what stands under KEY, else the third argument or null.

    Whether KEY is allowed at all is checked where it is defined.
    """
    return choices.get(key, otherwise)


def span(first: int, last: int) -> list[int]:
    """`${span:1,50}` in a configuration: whole numbers, both ends included."""
    return list(range(first, last + 1))


def repository() -> str:
    """`${repository:}` in a configuration: the repository's root."""
    return str(ROOT)


def engine_python(name: str) -> str | None:
    """`${engine_python:vllm}` in a configuration: the interpreter of `.venv-vllm`, from the repository's root; null
    where `make setup-vllm` has not made that environment."""
    python = f".venv-{name}/bin/python"
    return python if (ROOT / python).is_file() else None


def folder_name(overrides: str) -> str:
    """`${folder_name:"model=tiny,seed=1"}` in a configuration: `model-tiny-seed-1`, the folder of a sweep's run.

    Where letters are lost or there are too many, a digest of the whole keeps it apart from every other.
    """
    name = re.sub(r"[^A-Za-z0-9_.-]+", "-", overrides).strip("-.")
    if not re.search(r"[^A-Za-z0-9_.,=-]", overrides) and 0 < len(name) <= LONGEST_NAME:
        return name
    whole = hashlib.sha256(overrides.encode()).hexdigest()[:8]
    return f"{name[:LONGEST_NAME]}-{whole}" if name else "run"


OmegaConf.register_new_resolver("pick", pick, replace=True)
OmegaConf.register_new_resolver("folder_name", folder_name, replace=True)
OmegaConf.register_new_resolver("repository", repository, replace=True)
OmegaConf.register_new_resolver("engine_python", engine_python, replace=True)
OmegaConf.register_new_resolver("span", span, replace=True)
LONGEST_NAME = 100
LAUNCHER = "hydra.launcher."
ENGINE, STAND_IN = "tensorrt_llm", "stand_in"
BRANCHES = {"protocol": "warmup=apart", "protocol.sampling": "strategy=greedy", "sweep": "blocks=1"}
"""Mappings that cases refer to, each with an example of a key."""
ROOT = Path(__file__).resolve().parents[2]
CONF = ROOT / "conf"


@dataclass(frozen=True)
class Source:
    """Where a configuration is composed from; `extra` is searched too (Hydra's --config-dir)."""

    folder: Path = CONF
    name: str = "config"
    extra: Path | None = None

    @classmethod
    def from_arguments(cls, arguments: Namespace) -> Source:
        """From Hydra's own flags --config-path, --config-name and --config-dir."""
        folder = Path(arguments.config_path).resolve() if arguments.config_path else CONF
        extra = Path(arguments.config_dir).resolve() if arguments.config_dir else None
        for path in (folder, extra):
            if path is not None and not path.is_dir():
                raise ValueError(f"the configuration folder {path} does not exist")
        return cls(folder, arguments.config_name or "config", extra)


def compose_raw(overrides: Sequence[str], source: Source | None = None) -> DictConfig:
    """The composed configuration, Hydra's own part included.

    Raises:
        ValueError: one sentence on the first mistake in `overrides`.
    """
    source = source or Source()
    try:
        return _compose(overrides, source)
    except (HydraException, OmegaConfBaseException) as error:
        raise ValueError(_explain(error, source, overrides)) from error
    except ValueError as error:
        raise ValueError(_no_choice(source, overrides) or first_line(error)) from error


def _compose(overrides: Sequence[str], source: Source) -> DictConfig:
    search = [f"hydra.searchpath=[file://{source.extra}]"] if source.extra else []
    with initialize_config_dir(str(source.folder), job_name="harness", version_base="1.3"):
        return compose(source.name, overrides=[*overrides, *search], return_hydra_config=True)


def expand_sweeps(overrides: Sequence[str]) -> list[list[str]]:
    """The override lists of every job of a --multirun command line. Raises ValueError on bad syntax."""
    try:
        parsed = OverridesParser.create().parse_overrides(list(overrides))
        batches = BasicSweeper.split_arguments(parsed, max_batch_size=None)
    except HydraException as error:
        raise ValueError(_explain(error, Source(), overrides)) from error
    return [list(job) for batch in batches for job in batch]


def to_config(composed: DictConfig) -> RunConfig:
    """Check the types of a composed configuration and freeze it; each of `cases` becomes a CaseConfig.

    Raises:
        ValueError: one sentence on a value of the wrong type, an unknown key, or one that is missing.
    """
    _check_branches(composed)
    plain = resolved(composed)
    config = typed(RunConfig, plain, "")
    if not isinstance(plain.get("cases"), dict):
        raise ValueError("cases must be a mapping from a case's name to its settings")
    protocol = plain["protocol"]
    config.cases = {str(name): typed_case(str(name), case, protocol) for name, case in plain["cases"].items()}
    return config


def _check_branches(composed: DictConfig) -> None:
    """Refuse a single value where keys have keys of their own: what refers to those could only fail obscurely."""
    for place in BRANCHES:
        node = OmegaConf.select(composed, place)
        if not isinstance(node, DictConfig):
            first = BRANCHES[place]
            raise ValueError(f"{place}={node} is no mapping: set its keys one by one, as in {place}.{first}")


def resolved(composed: DictConfig) -> dict[str, Any]:
    """The configuration as plain values with every interpolation resolved, without Hydra's own part."""
    try:
        plain = OmegaConf.to_container(
            OmegaConf.masked_copy(composed, [str(key) for key in composed if key != "hydra"]),
            resolve=True,
            throw_on_missing=True,
        )
    except MissingMandatoryValue as error:
        raise ValueError(f"{error.full_key} has no value: give it as {error.full_key}=...") from error
    except OmegaConfBaseException as error:
        raise ValueError(first_line(error)) from error
    assert isinstance(plain, dict)  # noqa: S101  for the type checker
    return rename_impersonators({str(key): value for key, value in plain.items()})


def rename_impersonators(plain: dict[str, Any]) -> dict[str, Any]:
    """What answers in an engine's place has not its name in any file either: `tensorrt_llm` becomes `stand_in`.

    Raises ValueError where there is a case of that name already.
    """
    cases = plain.get("cases")
    if not isinstance(cases, dict) or not isinstance(cases.get(ENGINE), dict):
        return plain
    if cases[ENGINE].get("impersonate") != "transformers":
        return plain
    if STAND_IN in cases:
        raise ValueError(f"cases.{ENGINE}.impersonate: there is a case {STAND_IN} here already, which does the same")
    renamed = {STAND_IN if name == ENGINE else name: entry for name, entry in cases.items()}
    run = [STAND_IN if name == ENGINE else name for name in plain.get("run", [])]
    return {**plain, "cases": renamed, "run": run}


def flatten(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and values of the leaves of nested mappings."""
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _explain(error: Exception, source: Source, overrides: Sequence[str]) -> str:
    """One sentence for what Hydra or OmegaConf raised."""
    text = str(error)
    if isinstance(error, OverrideParseException):
        return f"cannot read the override '{error.override}' ({detail(text)}): write key=value, a list as key=[a,b]"
    if found := re.search(r"Could not override '([^']+)'", text):
        return _unknown_key(found[1], source, overrides)
    if found := re.search(r"Could not find '([^']+)/([^'/]+)'\s+Available options in '[^']+':\s+(.*?)\n\S", text, re.S):
        allowed = found[3].split()
        return f"{found[1]}={found[2]}: no such choice; allowed: {', '.join(allowed)}{nearest(found[2], allowed)}"
    if text.startswith("Ambiguous value"):
        value = text.splitlines()[0].split("'")[1]
        key, _, values = value.partition("=")
        return f"'{value}' names several values: write {key}=[{values}] for a list, or add --multirun to run each"
    if text.startswith("Error merging override") and error.__cause__ is not None:
        return f"{text.split()[3]}: {first_line(error.__cause__)}"
    if isinstance(error, ConfigCompositionException) and error.__cause__ is not None and not text:
        return first_line(Exception(str(error.__cause__)))
    return first_line(error)


def _no_choice(source: Source, overrides: Sequence[str]) -> str:
    """A group was given something other than the name of one of its files; empty where none was."""
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    groups = {one.input_line: source.folder / one.key_or_group for one in parsed if not isinstance(one.value(), str)}
    for line, group in groups.items():
        if group.is_dir():
            return f"{line}: no such choice; allowed: {', '.join(sorted(path.stem for path in group.glob('*.yaml')))}"
    return ""


def _unknown_key(key: str, source: Source, overrides: Sequence[str]) -> str:
    if key == "hydra":
        return "hydra can't be set as a whole: set its keys one by one, as in hydra.sweep.dir=FOLDER"
    if key.startswith(LAUNCHER):
        return _unknown_of_launcher(key, source, overrides)
    base = resolved_keys(source)
    groups = sorted(path.name for path in source.folder.iterdir() if path.is_dir())
    allowed = [*base, *groups]
    parent = known_parent(key, base)
    names = children(parent, base) if parent else sorted({name.split(".")[0] for name in allowed})
    where = f"keys of {parent}" if parent else "top-level keys and groups"
    return f"unknown key '{key}'{nearest(key, allowed)} ({where}: {', '.join(names)})"


def _unknown_of_launcher(key: str, source: Source, overrides: Sequence[str]) -> str:
    """The keys of the launcher that was chosen; sbatch's flags are added to it under one of them."""
    chosen = _compose([one for one in overrides if one.startswith("hydra/launcher=")][-1:], source).hydra
    name = str(chosen.runtime.choices["hydra/launcher"])
    names = [str(one) for one in chosen.launcher if one != "_target_"]
    if not names:
        return f"unknown key '{key}': hydra/launcher={name} has no settings (choose slurm or local_gpus for such)"
    if key.startswith(f"{LAUNCHER}additional_parameters."):
        return f"unknown key '{key}': write +{key}=... to add a flag of sbatch"
    close = nearest(key, [LAUNCHER + one for one in names])
    return f"unknown key '{key}'{close} (keys of hydra/launcher={name}: {', '.join(names)})"


def resolved_keys(source: Source) -> list[str]:
    """Every dotted key of the configuration without overrides."""
    composed = _compose([], source)
    plain = OmegaConf.to_container(composed, resolve=False)
    assert isinstance(plain, dict)  # noqa: S101  for the type checker
    return [key for key, _ in flatten({str(k): v for k, v in plain.items() if k != "hydra"})]
