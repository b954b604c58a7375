"""Flags anywhere in a command line, and mistakes in it as sentences."""

from __future__ import annotations

import pytest
from hydra._internal.utils import get_args_parser

from harness.__main__ import check_command_line
from harness.settings.commandline import in_order, parse

SLURM = "hydra/launcher=slurm"


@pytest.mark.parametrize(("given", "ordered"), [
    (["model=a,b", "-m", "seed=1"], ["model=a,b", "seed=1", "-m"]),
    (["-m", "seed=1"], ["seed=1", "-m"]),
    ([SLURM, "--info", "config", "-m", "seed=1,2"], [SLURM, "seed=1,2", "--info", "config", "-m"]),
    (["--config-dir", "x", "+a=1", "--cfg", "job", "~b"], ["+a=1", "~b", "--config-dir", "x", "--cfg", "job"]),
    (["seed=1", "-m", "seed=1"], ["seed=1", "seed=1", "-m"]),
])  # fmt: skip
def test_a_flag_may_stand_between_overrides(given, ordered):
    assert in_order(given) == ordered
    assert get_args_parser().parse_args(ordered) == parse(given)


@pytest.mark.parametrize(("given", "sentence"), [
    (["--nosuch", "seed=1"], "--nosuch is no flag: write overrides as key=value"),
    (["seed=1", "--config-dir"], "argument --config-dir/-cd: expected one argument: --help lists what there is"),
    (["--config", "x"], "--config is no flag"),
    (["-m", f"{SLURM}", "hydra.launcher.partiton=a"], "'hydra.launcher.partition'? (keys of hydra/launcher=slurm: "),
    (["-m", SLURM, "hydra.launcher.additional_parameters.mem=0"], "write +hydra.launcher.additional_"),
    (["-m", "hydra/launcher=local_gpus", "hydra.launcher.gpu=[0]"], "(keys of hydra/launcher=local_gpus: gpus, runs"),
    (["-m", "hydra.launcher.partition=a"], "hydra/launcher=basic has no settings (choose slurm or"),
    (["-m", SLURM, "hydra.launcher.timeout_min=x"], "hydra.launcher.timeout_min=x: Value 'x' of type 'str'"),
])  # fmt: skip
def test_mistakes_are_one_sentence(given, sentence):
    with pytest.raises(ValueError) as caught:
        check_command_line(given)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)
