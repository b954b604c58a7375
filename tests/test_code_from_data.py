"""No code from data: nothing in the tree unpickles, evaluates, or imports what a file, a frame or a name told it to.

Read from the source of cases, harness and reports, and from the files of conf.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

import pytest
import yaml

from tests.test_imports import FILES, ROOT, name

PICKLES = {
    "pickle",
    "cPickle",
    "_pickle",
    "marshal",
    "shelve",
    "dill",
    "cloudpickle",
    "joblib",
    "runpy",
    "code",
    "codeop",
}
LISTENERS = {"socketserver", "http.server", "xmlrpc", "multiprocessing.managers"}
BUILTINS = {"eval", "exec", "compile", "__import__"}
IMPORTS = {"importlib.import_module", "importlib.util.spec_from_file_location"}
OS = {"os.system", "os.popen", "pty.spawn", "subprocess.getoutput", "subprocess.getstatusoutput"}
YAML = {"yaml.load", "yaml.load_all", "yaml.full_load", "yaml.unsafe_load", "yaml.Loader", "yaml.UnsafeLoader"}
HYDRA = {"hydra.utils"}
PANDAS = {"read_pickle", "to_pickle"}
LAUNCHERS = {f"hydra_plugins.llm_latency.{name}" for name in ("Slurm", "LocalGpus")}
ALLOWED = {
    (
        "harness/loader.py",
        "importlib.import_module",
    ): "the one way to code by its name; packages of this checkout alone",
    ("harness/loader.py", "getattr of a module"): "a class in such a module, by the target's last part",
    ("cases/runtime/serve/__main__.py", "getattr of a module"): "generate, status or stop: argparse lets no other pass",
    ("cases/runtime/lean.py", "getattr of a module"): "torch's dtype; the plan has one of three, checked",
    ("cases/runtime/calibration.py", "getattr of a module"): "torch's dtype, checked",
    ("cases/runtime/transformers_model.py", "getattr of a module"): "torch's dtype, checked",
    ("cases/runtime/checkpoint.py", "getattr of a module"): "torch's dtype, checked",
    ("cases/runtime/kernels/outputs.py", "getattr of a module"): "torch's dtype, one of argparse's choices",
    ("cases/runtime/kernels/bench_kernels.py", "getattr of a module"): "torch's dtype, one of argparse's choices",
    ("cases/jit.py", "getattr of a module"): "torch's dtype, checked",
    (
        "harness/cluster/check.py",
        "importlib.import_module",
    ): "one of its own constants TARGETS: the launchers of this checkout",
    ("harness/ipc/server.py", "listens"): "the one socket that is listened at",
}


def dotted(node: ast.AST) -> str:
    """`a.b.c` of names and attributes; what stands before them, when it is neither, is left out."""
    parts = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return ".".join([*([node.id] if isinstance(node, ast.Name) else []), *reversed(parts)])


def is_true(call: ast.Call, keyword: str) -> bool:
    """Whether a keyword is given and is not plainly False."""
    given = [item.value for item in call.keywords if item.arg == keyword]
    return bool(given) and not (isinstance(given[0], ast.Constant) and given[0].value is False)


def imported(tree: ast.AST) -> dict[str, str]:
    """Local names and what they were imported as."""
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {item.asname or item.name.split(".")[0]: item.name for item in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {item.asname or item.name: f"{node.module}.{item.name}" for item in node.names}
    return found


def of_call(call: ast.Call, names: dict[str, str]) -> Iterator[str]:
    """What is wrong with a call."""
    said = dotted(call.func)
    first, _, rest = said.partition(".")
    whole = names.get(first, first) + ("." + rest if rest else "")
    if isinstance(call.func, ast.Name) and said in BUILTINS and said not in names:
        yield said
    if whole in OS or whole in IMPORTS:
        yield whole
    if whole.startswith(("os.exec", "os.spawn")) or is_true(call, "shell"):
        yield "a shell, or another program in this one's place"
    if whole == "torch.load" and not is_true(call, "weights_only"):
        yield "torch.load of what may be a pickle"
    if is_true(call, "allow_pickle") or is_true(call, "trust_remote_code") or whole.rpartition(".")[2] in PANDAS:
        yield "a pickle, or code of a checkpoint"
    if said == "getattr" and dotted(call.args[0]) in (*names, "module") and not isinstance(call.args[1], ast.Constant):
        yield "getattr of a module"
    yield from of_method(call, names)


def of_method(call: ast.Call, names: dict[str, str]) -> Iterator[str]:
    """What is wrong with a call of something's method."""
    if not isinstance(call.func, ast.Attribute):
        return
    method = call.func.attr
    if method in ("eval", "query") and call.args and not isinstance(call.args[0], ast.Constant):
        yield f"an expression from a variable in .{method}"
    of_socket = "socket" in names.values() and isinstance(call.func.value, ast.Name)
    if method in ("create_server", "start_server") or (of_socket and method in ("bind", "listen")):
        yield "listens"


def findings(source: str) -> set[str]:
    """What in a file would make code of data."""
    tree = ast.parse(source)
    names = imported(tree)
    found = {whole for whole in names.values() if whole.split(".")[0] in PICKLES}
    found |= {
        whole for whole in names.values() if any((whole + ".").startswith(one + ".") for one in LISTENERS | HYDRA)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            found |= set(of_call(node, names))
        if isinstance(node, ast.Attribute) and (said := dotted(node)) in YAML | {
            f"socket.AF_INET{six}" for six in ("", "6")
        }:
            found.add(said)
    return found


@pytest.mark.parametrize("path", FILES, ids=name)
def test_no_code_comes_from_data(path):
    found = findings(path.read_text(encoding="utf-8"))
    assert found - {what for file, what in ALLOWED if file == name(path)} == set()


def test_every_exception_is_still_one():
    found = {(name(path), what) for path in FILES for what in findings(path.read_text(encoding="utf-8"))}
    assert set(ALLOWED) - found == set()


@pytest.mark.parametrize("path", sorted((ROOT / "conf").rglob("*.*")), ids=lambda path: path.name)
def test_a_configuration_is_yaml_without_code(path):
    assert path.suffix == ".yaml"
    text = path.read_text(encoding="utf-8")
    assert "!!python" not in text
    # Hydra makes its launcher by this name; the files of `conf` name none but our own.
    assert set(re.findall(r"_target_: *(\S+)", text)) <= LAUNCHERS
    assert text.count("_target_") <= 1


def test_every_target_of_the_configuration_is_a_case_of_this_repository():
    targets = [
        target
        for path in (ROOT / "conf/case").glob("*.yaml")
        for target in re.findall(r"[\w.]+\.[A-Z]\w+", yaml.safe_load(path.read_text(encoding="utf-8"))["target"])
    ]
    assert len(targets) >= 5
    assert [target for target in targets if not target.startswith("cases.")] == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle", "from pickle import loads", "import marshal", "import shelve as s", "import dill",
        "import cloudpickle", "from joblib import load", "import runpy", "eval('1')", "exec(x)", "compile(x, '', y)",
        "__import__(x)", "import os; os.system(x)", "from os import system; system(x)", "import os; os.execvp(x, y)",
        "import subprocess; subprocess.run(x, shell=True)", "import subprocess; subprocess.run(x, shell=y)",
        "import importlib; importlib.import_module(x)", "from importlib import import_module as m; m(x)",
        "import torch; torch.load(x)", "import torch; torch.load(x, weights_only=False)",
        "import numpy as np; np.load(x, allow_pickle=True)", "import pandas as pd; pd.read_pickle(x)",
        "import yaml; yaml.load(x, yaml.Loader)", "import yaml; yaml.unsafe_load(x)", "frame.query(x)", "frame.eval(x)",
        "import a; getattr(a, x)", "from hydra.utils import instantiate", "import socketserver",
        "from http.server import HTTPServer", "import socket; s = socket.socket(socket.AF_INET)",
        "import socket; s.bind(x)", "import socket; s.listen(5)", "f(trust_remote_code=True)",
    ],
)  # fmt: skip
def test_what_is_looked_for_is_found(source):
    assert findings(source) != set()


@pytest.mark.parametrize(
    "source",
    [
        "import torch; torch.load(x, weights_only=True)", "import re; re.compile(x)", "model.eval()", "getattr(row, x)",
        "import torch; getattr(torch, 'float16')", "import yaml; yaml.safe_load(x)", "f(trust_remote_code=False)",
        "import json; json.load(x)", "import subprocess; subprocess.run(x)", "frame.query('a > 1')",
    ],
)  # fmt: skip
def test_what_is_no_code_is_left_alone(source):
    assert findings(source) == set()
