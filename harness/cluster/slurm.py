"""What a sweep may ask of SLURM: only what leaves one job one whole GPU with nobody in its way.

What is allowed is listed, not what is forbidden: sbatch has dozens of ways to share a GPU, and gets new ones.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from harness.cluster import NOT_ALONE
from harness.settings.sentences import nearest

ONE_GPU = re.compile(r"gpu(:[A-Za-z][^:,]*)?(:1)?")
SLICE = re.compile(r"(?<![a-z0-9])(mig|\d+g\.\d+gb)(?![a-z])", re.I)
"""In the type of a GPU: a MIG slice of one, by NVIDIA's names (a100_1g.5gb, 3g.40gb)."""
OWN = (
    "submitit_folder", "timeout_min", "cpus_per_task", "gpus_per_node", "tasks_per_node", "mem_gb", "nodes", "name",
    "stderr_to_stdout", "partition", "qos", "comment", "constraint", "exclude", "gres", "cpus_per_gpu", "gpus_per_task",
    "mem_per_gpu", "mem_per_cpu", "account", "signal_delay_s", "max_num_timeout", "additional_parameters",
    "array_parallelism", "setup",
)  # fmt: skip
"""The keys of hydra-submitit-launcher; those that decide about GPUs have their values checked here."""
MORE = ("nodelist", "dependency", "mail_type", "mail_user", "srun_args")
"""Keys of submitit that the plugin passes on where they are added with `+`."""
FLAGS = (
    "account", "begin", "comment", "constraint", "core-spec", "deadline", "dependency", "exclude", "exclusive",
    "licenses", "mail-type", "mail-user", "mem", "nice", "nodelist", "partition", "prefer", "priority", "qos",
    "reboot", "requeue", "reservation", "switches", "tmp", "wckey",
)  # fmt: skip
"""Flags of sbatch that say where and when a job runs, and nothing of GPUs, tasks or neighbours."""
SRUN = (
    "cpu-bind", "mem-bind", "mpi", "kill-on-bad-exit", "container-image", "container-mounts", "container-name",
    "container-workdir", "container-mount-home", "no-container-mount-home", "container-writable", "quiet", "verbose",
)  # fmt: skip
"""Flags of srun that keep to the process that it starts: where its memory and threads are, and in which container."""
NAMES_GPUS = re.compile(r"gpu|gres|device|(?<![a-z])mps|(?<![a-z])shard|#SBATCH|\b(SLURM|SRUN|SBATCH)_\w+=", re.I)
"""In the commands of `setup` and the values of `srun_args`: what would choose a GPU beside SLURM, or other tasks."""


def check_slurm(launcher: Mapping[str, Any]) -> None:
    """One task, on one node, with one whole GPU, and nobody else in its way. Raises ValueError."""
    extra = launcher.get("additional_parameters") or {}
    _check_listed(launcher, "hydra.launcher.", [*OWN, *MORE])
    _check_listed(extra, "hydra.launcher.additional_parameters.", FLAGS)
    _check_lines({**launcher, **extra})
    _check_gpu(launcher)
    _check_share(launcher, extra)
    if extra.get("requeue") is not True:
        raise ValueError(
            f"hydra.launcher.additional_parameters.requeue={_said(extra.get('requeue'))}: "
            "a preempted job would not go on; give true"
        )
    _check_commands(launcher.get("setup") or (), launcher.get("srun_args") or ())


def _check_listed(given: Mapping[str, Any], place: str, allowed: Iterable[str]) -> None:
    """Every key is one of those allowed; sbatch's flags are written with - or _."""
    names = [name.replace("-", "_") for name in allowed]
    for key in given:
        if key != "_target_" and str(key).replace("-", "_") not in names:
            raise ValueError(
                f"{place}{key} may not be set: what is not listed could give a run part of a GPU, several or "
                f"neighbours{nearest(str(key), names)} (allowed: {', '.join(names)})"
            )


def _check_lines(given: Mapping[str, Any]) -> None:
    """Each value becomes one line for sbatch."""
    for key, value in given.items():
        if isinstance(value, str) and not value.isprintable():
            raise ValueError(f"hydra.launcher: {key} has a line break or another character that can't be printed")


def _check_gpu(launcher: Mapping[str, Any]) -> None:
    for key in ("tasks_per_node", "nodes"):
        if launcher.get(key) != 1:
            raise ValueError(
                f"hydra.launcher.{key}={_said(launcher.get(key))}: a run is one process on one GPU; give 1"
            )
    asked = {key: launcher.get(key) for key in ("gpus_per_node", "gpus_per_task") if launcher.get(key) is not None}
    gres = launcher.get("gres")
    if gres is not None and (not ONE_GPU.fullmatch(str(gres)) or SLICE.search(str(gres))):
        raise ValueError(
            f"hydra.launcher.gres={gres} is not one whole GPU: "
            "give gres=gpu:1 or gpu:TYPE:1, no shard, mps or MIG slice"
        )
    for key, count in asked.items():
        if count != 1:
            raise ValueError(f"hydra.launcher.{key}={count}: each run takes one whole GPU, no less and no more; give 1")
    if len(asked) + (gres is not None) != 1:
        raise ValueError("hydra.launcher: ask for the GPU in one way, gpus_per_node=1, gpus_per_task=1 or gres=gpu:1")


def _check_share(launcher: Mapping[str, Any], extra: Mapping[str, Any]) -> None:
    """The node is the run's own, or at least cores and memory are."""
    exclusive = extra.get("exclusive")
    if exclusive not in (None, True, False):
        raise ValueError(f"hydra.launcher.additional_parameters.exclusive={exclusive}: give true or false")
    cores = any(launcher.get(key) is not None for key in ("cpus_per_task", "cpus_per_gpu"))
    memory = any(launcher.get(key) is not None for key in ("mem_gb", "mem_per_gpu", "mem_per_cpu"))
    if not exclusive and not (cores and memory):
        raise ValueError(
            "hydra.launcher.additional_parameters.exclusive=false shares the node: "
            "give each run cores and memory of its own, hydra.launcher.cpus_per_task=N hydra.launcher.mem_gb=N"
        )


def _check_commands(setup: Iterable[Any], srun: Iterable[Any]) -> None:
    """Neither the commands before a job's srun nor srun's own flags choose a GPU."""
    for line in setup:
        if NAMES_GPUS.search(str(line)):
            raise ValueError(
                f"hydra.launcher.setup: '{line}' names GPUs, devices or SLURM's own settings, which {NOT_ALONE}: "
                "only SLURM gives a job its GPU; allowed are commands such as 'module load cuda'"
            )
    for flag in map(str, srun):
        name, _, value = flag.removeprefix("--").partition("=")
        if not flag.startswith("--") or name not in SRUN or NAMES_GPUS.search(value):
            raise ValueError(
                f"hydra.launcher.srun_args: '{flag}' may not be given: it could choose a GPU or start several tasks "
                f"(allowed, as --NAME or --NAME=VALUE without GPUs or devices: {', '.join(SRUN)})"
            )


def _said(value: Any) -> str:
    return "null" if value is None else str(value)
