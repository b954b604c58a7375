"""Hydra takes launchers from packages of this name alone, and loads what has no `_` before it at every start: submitit
is for sweeps that ask for it, so harness.cluster.check registers these."""

from __future__ import annotations

from harness.cluster import launchers


class Slurm(launchers.Slurm):
    """See harness.cluster.launchers."""


class LocalGpus(launchers.LocalGpus):
    """See harness.cluster.launchers."""
