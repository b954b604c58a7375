import shutil

import pandas as pd
import pytest

from reports.__main__ import tables_of
from reports.run import load
from tests.synthetic import STORED, Spec, invent


@pytest.fixture
def run_dir(tmp_path):
    """A copy of the stored run, free to spoil."""
    return shutil.copytree(STORED, tmp_path / "run")


@pytest.fixture(scope="session")
def stored():
    return load(STORED)


@pytest.fixture(scope="session")
def full(tmp_path_factory):
    """Enough samples for a P99, no case missing, none wrong, the machine's state beside each sample."""
    spec = Spec(cases=("baseline", "cuda_graph", "jit", "jit_cuda_graph"), iterations=125, blocks=3, judged=True)
    path = invent(tmp_path_factory.mktemp("full") / "run", spec)
    state = {"temperature_c": 46, "power_w": 300.5, "co_tenants": 0, "co_tenant_mib": 0, "host_loop_us": 2.25}
    pd.read_csv(path / "samples.csv").assign(**state).to_csv(path / "samples.csv", index=False)
    return load(path)


@pytest.fixture(scope="session")
def tables(stored):
    return {table.name: table for table in tables_of(stored)}


@pytest.fixture(scope="session")
def odd(tmp_path_factory):
    """A smoke run whose titles try to break out of every format."""
    titles = {
        "baseline": r"Base_100% & #1 $x^2$ ~ {a\b}",
        "jit": '<script>alert("x")</script>|*b*`c`[d](e)',
        "jit_cuda_graph": "[JIT] Größe Ω †",
    }
    spec = Spec(cases=("baseline", "jit", "jit_cuda_graph"), missing=(), wrong=("jit",), titles=titles, smoke=True)
    return load(invent(tmp_path_factory.mktemp("odd") / "run", spec))
