"""Which launchers may run a sweep: those that give each run a whole GPU. Needs neither submitit nor a machine."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from hydra.core.plugins import Plugins
from omegaconf import DictConfig, OmegaConf

from harness.cluster import NOT_ALONE
from harness.cluster.slurm import check_slurm
from harness.settings.sentences import nearest

ALLOWED = ("basic", "slurm", "local_gpus")
PLUGIN = "hydra_plugins.hydra_submitit_launcher"
TARGETS = {
    "basic": "hydra._internal.core_plugins.basic_launcher.BasicLauncher",
    "slurm": "hydra_plugins.llm_latency.Slurm",
    "local_gpus": "hydra_plugins.llm_latency.LocalGpus",
}
"""Ours have no such package: Hydra takes a launcher under a name of this form alone, and finds it by `_register`."""
OF_LOCAL = ("_target_", "gpus", "runs_per_gpu", "submitit_folder")
"""The keys of conf/hydra/launcher/local_gpus.yaml, which are all that it reads."""


def check_name(overrides: Sequence[str]) -> None:
    """Refuse a launcher that is none of ours or whose packages are not here, before Hydra says that it can't find it.

    Raises ValueError.
    """
    for override in overrides:
        key, _, names = override.partition("=")
        for name in names.split(",") if key == "hydra/launcher" else ():
            if name not in ALLOWED:
                raise ValueError(_refused(name))
            if name != "basic" and not _is_here():
                raise ValueError(
                    f"hydra/launcher={name} needs hydra-submitit-launcher, which is not installed: "
                    "pip install -c constraints.txt -e '.[launchers]'"
                )


def _refused(name: str) -> str:
    return (
        f"hydra/launcher={name}: only {', '.join(ALLOWED)} give each run a whole GPU, "
        f"any other {NOT_ALONE}{nearest(name, ALLOWED)}"
    )


def _is_here() -> bool:
    try:
        return find_spec(PLUGIN) is not None
    except ModuleNotFoundError:
        return False


def check(composed: Sequence[DictConfig], several: bool) -> None:
    """Refuse a launcher under which a sweep would not measure what it says; make one of ours known to Hydra.

    Raises ValueError in one sentence.

    `composed`: every combination, Hydra's own part included; `several`: whether it is a --multirun.
    """
    names = sorted({_said(one.hydra.runtime.choices.get("hydra/launcher")) for one in composed})
    if len(names) > 1:
        raise ValueError(f"hydra/launcher={','.join(names)}: a sweep has one launcher; choose one of them")
    name = names[0]
    if name not in ALLOWED:
        raise ValueError(_refused(name))
    if not several:
        if name != "basic":
            raise ValueError(f"hydra/launcher={name} launches sweeps, and this is a single run: add --multirun (-m)")
        return
    launcher = OmegaConf.to_container(composed[0].hydra.launcher, resolve=False)
    assert isinstance(launcher, dict)  # noqa: S101  for the type checker
    _check_launcher(name, {str(key): value for key, value in launcher.items()}, composed)
    _check_folders(composed)
    if name != "basic":
        _register(TARGETS[name])


def _register(target: str) -> None:
    """Have Hydra know one of our launchers. It loads what it finds by itself at every start, and ours load submitit.

    The class keeps the name of its module, by which a job finds it again.
    """
    launchers = import_module("harness.cluster.launchers")
    Plugins.instance().class_name_to_class[target] = getattr(launchers, target.rpartition(".")[2])


def _check_launcher(name: str, launcher: Mapping[str, Any], composed: Sequence[DictConfig]) -> None:
    if launcher.get("_target_") != TARGETS[name]:
        raise ValueError(f"hydra.launcher._target_={launcher.get('_target_')} is another launcher: leave it out")
    if name == "basic":
        return
    for one in composed:
        if one.dry_run:
            raise ValueError(f"dry_run=true needs no GPU: leave hydra/launcher={name} out")
        if one.gpu is not None:
            raise ValueError(f"gpu={one.gpu} with hydra/launcher={name}, which chooses each run's GPU: leave gpu out")
    if name == "slurm":
        check_slurm(launcher)
    else:
        check_local(launcher, {str(one.device) for one in composed})


def check_local(launcher: Mapping[str, Any], devices: set[str]) -> None:
    """One run a GPU, no GPU twice; without GPUs (smoke runs on the CPU) the slots are named. Raises ValueError."""
    if launcher.get("runs_per_gpu") != 1:
        raise ValueError(f"hydra.launcher.runs_per_gpu={_said(launcher.get('runs_per_gpu'))} {NOT_ALONE}: give 1")
    if strays := [key for key in launcher if key not in OF_LOCAL]:
        raise ValueError(
            f"hydra.launcher.{strays[0]} may not be set: a run takes one GPU, one process and its share of the cores"
            f"{nearest(strays[0], OF_LOCAL)} (allowed: {', '.join(OF_LOCAL[1:])})"
        )
    if not isinstance(folder := launcher.get("submitit_folder"), str):
        raise ValueError(f"hydra.launcher.submitit_folder={_said(folder)}: leave it out, or give the path of a folder")
    gpus = launcher.get("gpus")
    if len(devices) > 1:
        raise ValueError("hydra/launcher=local_gpus: a sweep is on one device; leave out device=cuda,cpu")
    if gpus is None:
        if "cpu" in devices:
            raise ValueError(
                "hydra/launcher=local_gpus with device=cpu has no GPUs to count: give hydra.launcher.gpus=[0,1]"
            )
        return
    if not isinstance(gpus, list) or not gpus or not all(type(gpu) is int and gpu >= 0 for gpu in gpus):
        raise ValueError(f"hydra.launcher.gpus={gpus}: give a list of indices as nvidia-smi counts, such as [0,1]")
    if len(set(gpus)) < len(gpus):
        raise ValueError(f"hydra.launcher.gpus={gpus} names a GPU twice, which {NOT_ALONE}: name each once")


def _check_folders(composed: Sequence[DictConfig]) -> None:
    """Each combination has a folder of its own, in one that can be made."""
    folders = [_folder(one) for one in composed]
    twice = [folder for folder, count in Counter(folders).items() if count > 1]
    if twice:
        raise ValueError(
            f"{Counter(folders)[twice[0]]} runs of this sweep would write into {twice[0]}: "
            "leave output out, and name no combination twice"
        )
    sweep = Path(str(composed[0].hydra.sweep.dir)).expanduser().absolute()
    there = next(path for path in (sweep, *sweep.parents) if path.exists())
    if not there.is_dir():
        raise ValueError(f"hydra.sweep.dir={sweep}: {there} is a file; give a folder")
    if not os.access(there, os.W_OK):
        raise ValueError(f"hydra.sweep.dir={sweep}: {there} can't be written to; choose another folder")


def _folder(one: DictConfig) -> Path:
    if one.output is not None:
        return Path(str(one.output)).expanduser().resolve()
    return Path(str(one.hydra.sweep.dir), str(one.hydra.sweep.subdir))


def _said(value: Any) -> str:
    return "null" if value is None else str(value)
