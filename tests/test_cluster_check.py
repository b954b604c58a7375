"""Which launchers a sweep may have, and where its runs lie; nothing is started."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from hydra.core.plugins import Plugins
from omegaconf import DictConfig, OmegaConf

from harness.__main__ import check_command_line
from harness.cluster import check
from harness.settings.compose import compose_raw, expand_sweeps, folder_name
from harness.task import run_composed

SLURM = "hydra/launcher=slurm"


MODELS = ("model=llama2_7b", "model=llama3_8b")


@pytest.fixture(scope="module", params=["slurm", "local_gpus"])
def sweep(request) -> tuple[str, list[DictConfig]]:
    """A launcher's name, and two combinations composed."""
    return request.param, [compose_raw([model, f"hydra/launcher={request.param}"]) for model in MODELS]


def changed(sweep: list[DictConfig], values: dict[str, Any]) -> list[DictConfig]:
    """Both combinations with other values, as overrides would set them."""
    found = [copy.deepcopy(one) for one in sweep]
    for one in found:
        OmegaConf.set_struct(one, False)
        for key, value in values.items():
            OmegaConf.update(one, key, value, force_add=True)
    return found


LAUNCHER = "hydra.launcher."
FLAGS = "hydra.launcher.additional_parameters."
WELL = {
    "slurm": [
        {},
        {LAUNCHER + "partition": "gpu", LAUNCHER + "account": "lab"},
        {LAUNCHER + "gpus_per_node": None, LAUNCHER + "gres": "gpu:1"},
        {LAUNCHER + "gpus_per_node": None, LAUNCHER + "gres": "gpu:h200:1"},
        {LAUNCHER + "gpus_per_node": None, LAUNCHER + "gres": "gpu:nvidia_h100_80gb_hbm3:1"},
        {FLAGS + "mail_type": "END", FLAGS + "nodelist": "a[1-2]", FLAGS + "reservation": "r", FLAGS + "mem": 0},
        {LAUNCHER + "setup": ["module load cuda/12", "export TMPDIR=/scratch/$SLURM_JOB_ID"]},
        {LAUNCHER + "srun_args": ["--cpu-bind=cores", "--mpi=none"], LAUNCHER + "mail_user": "a@b.example"},
        {FLAGS + "exclusive": False, LAUNCHER + "cpus_per_task": 8, LAUNCHER + "mem_gb": 64},
    ],
    "local_gpus": [{}, {LAUNCHER + "gpus": [0, 3]}, {LAUNCHER + "gpus": [0, 1], "device": "cpu"}],
}
REFUSED = {
    "slurm": [
        ({LAUNCHER + "_target_": "a.B"}, "hydra.launcher._target_=a.B is another launcher: leave it out"),
        ({LAUNCHER + "gpus_per_node": 0}, "hydra.launcher.gpus_per_node=0: each run takes one whole GPU"),
        ({LAUNCHER + "gpus_per_node": 2}, "hydra.launcher.gpus_per_node=2: each run takes one whole GPU"),
        ({LAUNCHER + "gpus_per_node": None}, "ask for the GPU in one way"),
        ({LAUNCHER + "gres": "gpu:1"}, "ask for the GPU in one way"),
        ({LAUNCHER + "gpus_per_node": None, LAUNCHER + "gres": "shard:1"}, "gres=shard:1 is not one whole GPU"),
        *(
            ({LAUNCHER + "gpus_per_node": None, LAUNCHER + "gres": gres}, f"gres={gres} is not one whole GPU")
            for gres in ("gpu:a100_1g.5gb:1", "gpu:nvidia_h100_80gb_hbm3_1g.10gb", "gpu:mig-3g.40gb:1", "gpu:MIG:1")
        ),
        ({LAUNCHER + "gpus_per_node": None, LAUNCHER + "gres": "gpu:2"}, "gres=gpu:2 is not one whole GPU"),
        ({LAUNCHER + "tasks_per_node": 2}, "hydra.launcher.tasks_per_node=2: a run is one process on one GPU; give 1"),
        ({LAUNCHER + "nodes": 2}, "hydra.launcher.nodes=2: a run is one process on one GPU; give 1"),
        (
            {FLAGS + "oversubscribe": True},
            "additional_parameters.oversubscribe may not be set: what is not listed could",
        ),
        ({FLAGS + "gpus-per-node": 0}, "additional_parameters.gpus-per-node may not be set: what is not listed could"),
        ({FLAGS + "exclusive": "user"}, "additional_parameters.exclusive=user: give true or false"),
        ({FLAGS + "exclusive": False}, "exclusive=false shares the node: give each run cores and memory of its own"),
        ({FLAGS + "exclusive": False, LAUNCHER + "mem_gb": 9}, "exclusive=false shares the node"),
        *(
            ({FLAGS + key: 1}, f"additional_parameters.{key} may not be set")
            for key in (
                "gpus_per_socket",
                "gpu-bind",
                "mps",
                "tres-per-job",
                "tres_per_task",
                "G",
                "n",
                "N",
                "ntasks_per_core",
                "array",
                "signal",
                "export",
                "no_requeue",
                "use_min_nodes",
                "partiton",
            )
        ),
        *(
            ({LAUNCHER + key: 1}, f"hydra.launcher.{key} may not be set")
            for key in (
                "num_gpus",
                "exclusive",
                "use_srun",
                "teardown",
                "nosuch",
            )
        ),
        ({FLAGS + "partiton": "a"}, "did you mean 'partition'? (allowed: account, begin, comment, constraint,"),
        ({FLAGS + "requeue": False}, "requeue=False: a preempted job would not go on; give true"),
        ({FLAGS + "requeue": None}, "requeue=null: a preempted job would not go on; give true"),
        ({FLAGS + "comment": "a\n#SBATCH -G0"}, "comment has a line break"),
        ({LAUNCHER + "partition": "a\n#SBATCH -G0"}, "partition has a line break"),
        *(
            ({LAUNCHER + "setup": ["cd /", line]}, f"hydra.launcher.setup: '{line}' names GPUs")
            for line in (
                "export CUDA_VISIBLE_DEVICES=0",
                "nvidia-smi --gpu-reset",
                "#SBATCH -n2",
                "export SLURM_NTASKS=2",
                "export CUDA_MPS_PIPE_DIRECTORY=/tmp",
            )
        ),
        *(
            ({LAUNCHER + "srun_args": [flag]}, f"hydra.launcher.srun_args: '{flag}' may not be given")
            for flag in (
                "--gpus=0",
                "-G0",
                "--ntasks=2",
                "-n",
                "--overlap",
                "cpu-bind=none",
                "--container-mounts=/a,/dev/gpu0:/b",
            )
        ),
        ({"gpu": 1}, "gpu=1 with hydra/launcher=slurm, which chooses each run's GPU: leave gpu out"),
        ({"dry_run": True}, "dry_run=true needs no GPU: leave hydra/launcher=slurm out"),
    ],
    "local_gpus": [
        ({LAUNCHER + "runs_per_gpu": 2}, "runs_per_gpu=2 would time runs against each other on one GPU: give 1"),
        ({LAUNCHER + "gpus": [0, 0]}, "hydra.launcher.gpus=[0, 0] names a GPU twice"),
        ({LAUNCHER + "gpus": []}, "hydra.launcher.gpus=[]: give a list of indices"),
        ({LAUNCHER + "gpus": 1}, "hydra.launcher.gpus=1: give a list of indices"),
        (
            {LAUNCHER + "tasks_per_node": 2},
            "hydra.launcher.tasks_per_node may not be set: a run takes one GPU, one pro",
        ),
        ({LAUNCHER + "gpu": [0]}, "hydra.launcher.gpu may not be set"),
        ({LAUNCHER + "submitit_folder": None}, "hydra.launcher.submitit_folder=null: leave it out, or give the path"),
        ({"device": "cpu"}, "local_gpus with device=cpu has no GPUs to count: give hydra.launcher.gpus=[0,1]"),
        ({"gpu": 0}, "gpu=0 with hydra/launcher=local_gpus, which chooses each run's GPU: leave gpu out"),
        ({"output": "results/x"}, "2 runs of this sweep would write into"),
    ],
}


def test_launchers_that_give_each_run_a_whole_gpu_pass(sweep):
    name, combinations = sweep
    for values in WELL[name]:
        check.check(changed(combinations, values), several=True)
    assert check.TARGETS[name] in Plugins.instance().class_name_to_class


def test_every_other_way_is_refused_in_one_sentence(sweep):
    name, combinations = sweep
    for values, sentence in REFUSED[name]:
        with pytest.raises(ValueError) as caught:
            check.check(changed(combinations, values), several=True)
        assert sentence in str(caught.value)
        assert "\n" not in str(caught.value)


def test_two_devices_or_launchers_in_one_sweep_are_refused(sweep):
    name, (first, other) = sweep[0], changed(sweep[1], {})
    other.device = "cpu"
    if name == "local_gpus":
        with pytest.raises(ValueError, match="local_gpus: a sweep is on one device; leave out device=cuda,cpu"):
            check.check([first, other], several=True)
    other.hydra.runtime.choices["hydra/launcher"] = "basic"
    with pytest.raises(ValueError, match="a sweep has one launcher; choose one of them"):
        check.check([first, other], several=True)


def test_a_launcher_without_a_sweep_is_refused_and_not_ignored(sweep):
    name, combinations = sweep
    with pytest.raises(ValueError, match=rf"{name} launches sweeps, and this is a single run: add --multirun \(-m\)"):
        check.check(combinations[:1], several=False)


@pytest.mark.parametrize("name", ["submitit_local", "submitit_slurm", "joblib", "slurm,ray"])
def test_launchers_that_know_no_gpus_are_refused(name):
    refused = (
        f"hydra/launcher={name.split(',')[-1]}: only basic, slurm, local_gpus give each run a whole GPU, any other"
    )
    with pytest.raises(ValueError, match=refused):
        check_command_line(["-m", f"hydra/launcher={name}"])


def test_a_sweep_without_a_launcher_is_refused_in_one_sentence():
    with pytest.raises(ValueError, match="hydra/launcher=null: only basic, slurm, local_gpus give each run a whole"):
        check_command_line(["-m", "seed=1,2", "~hydra/launcher"])


def test_mistakes_of_a_later_combination_are_said_before_anything_is_submitted():
    with pytest.raises(ValueError, match="model=llama9: no such choice"):
        check_command_line(["-m", SLURM, "model=llama2_7b,llama9"])


def test_a_launcher_that_is_not_installed_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr(check, "PLUGIN", "hydra_plugins.absent")
    with pytest.raises(ValueError, match=r"needs hydra-submitit-launcher, .*: pip install -c constraints.txt -e '\.\["):
        check_command_line(["-m", SLURM])
    assert check.check_name(["seed=1,2", "hydra/launcher=basic"]) is None


def test_a_combination_named_twice_is_refused():
    with pytest.raises(ValueError, match=r"2 runs of this sweep would write into .*-sweep/seed-1: leave output out"):
        check_command_line(["-m", "seed=1,1"])


@pytest.mark.parametrize(("overrides", "name"), [
    ("model=llama2_7b,sweep=default", "model-llama2_7b-sweep-default"),
    ("", "run"),
    ("seed=1", "seed-1"),
])  # fmt: skip
def test_a_run_is_named_after_its_overrides(overrides, name):
    assert folder_name(overrides) == name


def test_names_that_would_be_alike_or_too_long_are_kept_apart():
    lossy = ["x=a/b", "x=a b", "x=[a,b]", "x=[a],b", "+x=a-b", "x=" + "y" * 300, "x=" + "y" * 301, "x=.."]
    names = [folder_name(one) for one in [*lossy, "x=a-b"]]
    assert len(set(names)) == len(names)
    assert all(Path(name).name == name and len(name) < 120 and not name.startswith(".") for name in names)


def test_the_folder_of_a_combination_does_not_depend_on_what_only_says_where(tmp_path):
    base = ["hydra.sweep.dir=results/x", "model=tiny", "seed=3"]
    folders = {
        str(compose_raw([*base, *more]).hydra.sweep.subdir) for more in ([], ["cache=/elsewhere"], ["dry_run=true"])
    }
    assert folders == {"model-tiny-seed-3"}
    assert [one[-1] for one in expand_sweeps([*base, "run=[jit],[eager]"])] == ["run=[jit]", "run=[eager]"]


def test_run_composed_refuses_with_exit_code_2(capsys):
    composed = compose_raw(["run=[basline]"])
    assert run_composed(composed) == 2
    assert capsys.readouterr().err.startswith("error: run names the unknown case 'basline'")
