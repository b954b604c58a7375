"""The text of --help: one line for each option, from the configuration itself.

Keys that every configuration has carry their help in harness/settings/config.py; a case's own keys carry it as the
comment beside (or above) the key in the case's yaml, so that a new case needs no other edit.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_type_hints

import yaml
from omegaconf import DictConfig, OmegaConf

from harness.settings.compose import Source
from harness.settings.config import CaseConfig, RunConfig

USAGE = """\
Measure batch-one LLM latency on one GPU, case by case, each in a process of its own.

usage: python -m harness [key=value ...]
  python -m harness run=[baseline,jit_cuda_graph] sweep.prompt_lengths=[10,400] model=tiny
  python -m harness experiment=smoke             every stage on the CPU with a tiny model
  python -m harness resume=results/NAME          go on with a run that was stopped, as it was configured
  python -m harness summarise results/NAME       make the tables of a run that was killed
  python -m harness validate results/NAME        check the files of a stored run
  python -m harness dry_run=true                 print the plan, run nothing
  python -m harness --cfg job                    print the composed configuration
  python -m harness --multirun seed=1,2          one run for each combination
  python -m harness -m hydra/launcher=slurm model=llama2_7b,llama3_8b   the same as SLURM jobs (or local_gpus)
  python -m harness --hydra-help                 Hydra's own flags and keys
"""
NO_HELP = "(no help: write a comment beside the key in its yaml)"


def help_text(composed: DictConfig, source: Source) -> str:
    """Usage, the choices of each group, and `key  value  help` for every key of the composed configuration."""
    lines = [USAGE, "Groups (choose a file: group=name):"]
    lines += [f"  {name:<12} {', '.join(choices)}" for name, choices in _groups(source)]
    lines += ["", "Options (key, value now, what it is):"]
    rows = list(option_lines(composed, source))
    key_width = max(len(key) for key, _, _ in rows)
    value_width = min(36, max(len(value) for _, value, _ in rows))
    lines += [f"  {key:<{key_width}}  {short(value, value_width):<{value_width}}  {text}" for key, value, text in rows]
    return "\n".join(lines)


def short(value: str, width: int) -> str:
    """A value cut to a column; `--cfg job` shows it whole."""
    return value if len(value) <= width else f"{value[: width - 1]}…"


def option_lines(composed: DictConfig, source: Source) -> Iterator[tuple[str, str, str]]:
    """Key, value and help of every option."""
    plain: Any = OmegaConf.to_container(composed, resolve=False)
    choices = plain["hydra"]["runtime"]["choices"]
    for key, value, text in _from_dataclass(RunConfig, plain, ""):
        if key != "cases":
            yield key, value, text
            continue
        for name, case in plain["cases"].items():
            comments = _case_comments(source, choices.get(f"case@cases.{name}"))
            yield from _case_lines(f"cases.{name}.", case, comments)


def _from_dataclass(kind: type[Any], values: dict[str, Any], prefix: str) -> Iterator[tuple[str, str, str]]:
    hints = get_type_hints(kind)
    for field in fields(kind):
        value = values.get(field.name)
        if is_dataclass(hints[field.name]) and isinstance(value, dict):
            yield from _from_dataclass(hints[field.name], value, f"{prefix}{field.name}.")
        else:
            yield f"{prefix}{field.name}", _show(value), field.metadata["help"]


def _case_lines(prefix: str, case: dict[str, Any], comments: dict[str, str]) -> Iterator[tuple[str, str, str]]:
    common = {key: case[key] for key in case if key in {field.name for field in fields(CaseConfig)}}
    yield from (line for line in _from_dataclass(CaseConfig, common, prefix) if line[0] != f"{prefix}options")
    own = {key: value for key, value in case.items() if key not in common}
    yield from _own_lines(prefix, "", own, comments)


def _own_lines(
    prefix: str, path: str, values: dict[str, Any], comments: dict[str, str]
) -> Iterator[tuple[str, str, str]]:
    for key, value in values.items():
        here = f"{path}{key}"
        if isinstance(value, dict) and value:
            yield from _own_lines(prefix, f"{here}.", value, comments)
        else:
            yield f"{prefix}{here}", _show(value), comments.get(here) or NO_HELP


def _show(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    return f"[{','.join(map(_show, value))}]" if isinstance(value, list) else str(value)


def _groups(source: Source) -> Iterator[tuple[str, list[str]]]:
    for folder in sorted(path for path in source.folder.iterdir() if path.is_dir()):
        choices = sorted(file.stem for file in folder.glob("*.yaml"))
        if choices:
            yield folder.name, choices


def _case_comments(source: Source, choice: str | None) -> dict[str, str]:
    folders = [folder for folder in (source.extra, source.folder) if folder is not None]
    for folder in folders:
        path = folder / "case" / f"{choice}.yaml"
        if path.is_file():
            return yaml_comments(path)
    return {}


def yaml_comments(path: Path) -> dict[str, str]:
    """The comment beside each leaf of a yaml file, else the one on the line above, by dotted key."""
    text = path.read_text(encoding="utf-8")
    root = yaml.compose(text)
    return dict(_comments(root, text.splitlines(), "")) if isinstance(root, yaml.MappingNode) else {}


def _comments(node: yaml.MappingNode, lines: list[str], prefix: str) -> Iterator[tuple[str, str]]:
    for key, value in node.value:
        if isinstance(value, yaml.MappingNode) and value.value:
            yield from _comments(value, lines, f"{prefix}{key.value}.")
            continue
        mark = value.end_mark
        beside = lines[mark.line][mark.column :] if mark.line < len(lines) else ""
        above = lines[key.start_mark.line - 1].strip() if key.start_mark.line else ""
        found = beside.partition("#")[2] or (above[1:] if above.startswith("#") else "")
        yield f"{prefix}{key.value}", found.strip()
