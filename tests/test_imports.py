"""Who may import whom, read from the source, and what the parent may load."""

import ast
import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("cases", "harness", "reports")
FILES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
BORDERS = {"harness/worker.py", "harness/ipc/answers.py"}
"""The two borders of processes."""
HEAVY = {"torch", "transformers", "tensorrt_llm", "triton", "vllm"}


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def imports(path: Path) -> Iterator[str]:
    """Dotted names of what a file imports, anywhere in it; of `from a import b`, both a and a.b."""
    package = path.relative_to(ROOT).parent.parts
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            base = ".".join(part for part in (above, node.module) if part)
            yield from (f"{base}.{alias.name}" for alias in node.names)


def under(imported: str, package: str) -> bool:
    return imported == package or imported.startswith(package + ".")


def of(package: str) -> list[Path]:
    return [path for path in FILES if name(path).startswith(package + "/")]


@pytest.mark.parametrize("path", of("cases"), ids=name)
def test_cases_know_the_contract_only(path):
    # No cases but programs around them: the server by hand, which composes a configuration and speaks to clients, and
    # the benchmark of kernels, whose tables say which code and driver they are of.
    if name(path).startswith(("cases/runtime/serve/", "cases/runtime/kernels/bench.py")):
        assert not [found for found in imports(path) if under(found, "reports")]
        return
    known = [found for found in imports(path) if under(found, "harness") and not under(found, "harness.contract")]
    assert known == []
    assert not [found for found in imports(path) if under(found, "reports")]


@pytest.mark.parametrize("path", of("harness"), ids=name)
def test_harness_reaches_cases_through_the_loader_only(path):
    assert not [found for found in imports(path) if under(found, "cases") or under(found, "reports")]
    assert not [found for found in imports(path) if found.split(".")[0] in HEAVY]


@pytest.mark.parametrize("path", of("reports"), ids=name)
def test_reports_know_the_schema_only_and_how_a_command_speaks(path):
    ours = [found for found in imports(path) if under(found, "harness") or under(found, "cases")]
    shared = ["harness.schema", "harness.output.spoken"]
    shared += ["harness.measure.adaptive"] if path.name == "adaptive_coverage.py" else []  # it simulates that very rule
    assert [found for found in ours if not any(under(found, one) for one in shared) and found != "harness"] == []


def test_how_a_command_speaks_needs_nothing_of_ours():
    found = imports(ROOT / "harness/output/spoken.py")
    assert {one.split(".")[0] for one in found} <= sys.stdlib_module_names


def harness_file(imported: str) -> Path | None:
    """The file of harness that a dotted name leads to."""
    parts = imported.split(".")
    for end in range(len(parts), 1, -1):
        stem = ROOT.joinpath(*parts[:end])
        for path in (stem.with_suffix(".py"), stem / "__init__.py"):
            if parts[0] == "harness" and path.is_file():
                return path
    return None


def worker_files() -> list[Path]:
    """All of harness that a worker or a server loads, from its two entries on."""
    found: set[Path] = set()
    waiting = [ROOT / "harness/worker.py", *(ROOT / "harness/ipc").glob("*.py")]
    while waiting:
        path = waiting.pop()
        if path not in found:
            found.add(path)
            waiting += [file for imported in imports(path) if (file := harness_file(imported))]
    return sorted(found)


@pytest.mark.parametrize("path", worker_files(), ids=name)
def test_the_workers_side_needs_the_standard_library_alone(path):
    allowed = {*sys.stdlib_module_names, "harness", *({"msgpack"} if path.parent.name == "ipc" else ())}
    assert [found for found in imports(path) if found.split(".")[0] not in allowed] == []


@pytest.mark.parametrize("path", FILES, ids=name)
def test_broad_excepts_stand_at_process_borders_only(path):
    broad = [
        node.lineno
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ExceptHandler)
        and (node.type is None or (isinstance(node.type, ast.Name) and node.type.id in ("Exception", "BaseException")))
    ]
    assert broad == [] or name(path) in BORDERS


@pytest.mark.parametrize("package", PACKAGES)
def test_the_imported_packages_lie_in_this_checkout(package):
    assert Path(str(importlib.import_module(package).__file__)).resolve().parent == ROOT / package


def test_pyproject_lists_every_package():
    import tomllib

    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    assert sorted(listed) == sorted({".".join(path.parent.relative_to(ROOT).parts) for path in FILES})


def test_the_parent_loads_no_engine_even_when_it_checks_every_case():
    code = (
        "import sys; from harness import run; from harness.settings import validate;"
        "from harness.settings.compose import compose_raw, to_config;"
        "config = to_config(compose_raw([])); config.run = sorted(config.cases); validate.check(config);"
        f"print(sorted({HEAVY!r} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "[]", "")
