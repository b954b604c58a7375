"""The engine itself: made from what the plan says, held against it, and ended without leaving anything behind."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cases.tensorrt import processes, versions
from cases.tensorrt.versions import Version
from harness.contract import Plan, Unavailable, Unsupported

PACKAGE = "tensorrt_llm"


@dataclass
class Engine:
    """A loaded `LLM`, and what a request to it is made with."""

    plan: Plan
    version: Version
    llm: Any
    sampling_class: Any
    mark: str
    described: str

    def sampling(self, new_tokens: int) -> Any:
        """SamplingParams of a request. Raises Unsupported where this version has not what it needs."""
        arguments = versions.sampling_arguments(self.plan, new_tokens)
        return made(self.version, self.sampling_class, arguments)

    def shutdown(self) -> None:
        """End the engine and every process that it started."""
        try:
            self.llm.shutdown()
        finally:
            processes.end_left_overs(self.mark)


def load(plan: Plan) -> Engine:
    """Import the package, make the engine, and check that it is what was asked for.

    Raises:
        Unavailable: the package is missing, too old, or can't be imported.
        Unsupported: this version lacks an argument that is needed.
        ValueError: the checkpoint's folder has no weights.
        RuntimeError: what was made is not what was asked for.
    """
    need_weights(Path(plan.checkpoint))
    mark = processes.mark()
    with ExitStack() as undo:
        undo.callback(processes.end_left_overs, mark)
        # The engine reads it on import or at its first LLM: it is set before either.
        worker = processes.choose_worker(plan.options["worker"])
        package, api, version = imported()
        arguments = llm_arguments(plan, version, api)
        llm = package.LLM(**arguments)
        undo.callback(llm.shutdown)
        check_made(llm, plan)
        engine = Engine(plan, version, llm, package.SamplingParams, mark, "")
        engine.sampling(1)
        engine.described = describe(engine, worker)
        undo.pop_all()
    return engine


def imported() -> tuple[Any, Any, Version]:
    """The package, its LLM API and its version. Raises Unavailable."""
    try:
        import tensorrt_llm

        version = versions.version_of(tensorrt_llm)
        from tensorrt_llm import LLM, SamplingParams, llmapi  # noqa: F401  a package without them is none of ours
        from tensorrt_llm.llmapi import CudaGraphConfig, KvCacheConfig, TorchLlmArgs  # noqa: F401
    except ImportError as error:
        raise Unavailable(f"the package {PACKAGE} can't be imported ({error}): {versions.HOW_TO_GET_IT}") from error
    return tensorrt_llm, llmapi, version


def llm_arguments(plan: Plan, version: Version, api: Any) -> dict[str, Any]:
    """Every argument of `LLM`. Raises Unsupported for one that this version does not have."""
    known = frozenset(api.TorchLlmArgs.model_fields)
    arguments = versions.llm_arguments(plan, version) | versions.per_request_sampler(plan, known)
    arguments["kv_cache_config"] = made(version, api.KvCacheConfig, versions.cache_arguments(plan))
    arguments["cuda_graph_config"] = made(version, api.CudaGraphConfig, versions.GRAPH_ARGUMENTS)
    versions.refuse_unknown(version, "LLM", known, arguments)
    return arguments


def made(version: Version, kind: Any, arguments: dict[str, Any]) -> Any:
    """`kind(**arguments)`; the package's refusal of a name or value becomes Unsupported with the version in it."""
    try:
        return kind(**arguments)
    except (TypeError, ValueError) as error:
        said = " ".join(str(error).split())[:200]
        raise Unsupported(f"tensorrt_llm {version.text} refuses the arguments of {kind.__name__}: {said}") from error


def need_weights(folder: Path) -> None:
    """Raises ValueError where the folder holds no weights: the engine must read those that every case reads."""
    if not (folder / "config.json").is_file() or not any(folder.glob("*.safetensors")):
        raise ValueError(f"the checkpoint {folder} has no config.json and *.safetensors to load")


def check_made(llm: Any, plan: Plan) -> None:
    """Nothing else answers in this name: the engine is the package's own, and its settings are those asked for.

    Raises:
        RuntimeError: one sentence on the first difference.
    """
    kind = type(llm)
    if kind.__module__.partition(".")[0] != PACKAGE:
        raise RuntimeError(f"tensorrt_llm.LLM gave a {kind.__module__}.{kind.__name__}, which is not TensorRT-LLM")
    found = llm.args
    graphs = found.cuda_graph_config
    facts = {
        "backend": (found.backend, "pytorch"),
        "load_format": (getattr(found.load_format, "name", str(found.load_format)).upper(), "AUTO"),
        "enable_block_reuse": (found.kv_cache_config.enable_block_reuse, False),
        "cuda_graph_config.batch_sizes": (graphs and list(graphs.batch_sizes), [1]),
        "disable_overlap_scheduler": (found.disable_overlap_scheduler, not plan.options["overlap_scheduler"]),
    }
    for name, (value, wanted) in facts.items():
        if value != wanted:
            raise RuntimeError(f"the engine runs with {name}={value!r}, and {wanted!r} was asked for")


def describe(engine: Engine, worker: str) -> str:
    """What answered: version, backend, and every way in which two installs could differ."""
    options = engine.plan.options
    early = ", first token early" if options["early_first_token"] else ""
    clock = "submission" if engine.version.numbers >= versions.LLM_METRICS else "arrival in the engine"
    return (
        f"{PACKAGE} {engine.version.text} {type(engine.llm).__name__}, backend {engine.llm.args.backend}, "
        f"CUDA graph of batch 1, block reuse off, overlap scheduler {'on' if options['overlap_scheduler'] else 'off'}"
        f"{early}, {worker}, server clock from a request's {clock}"
    )
