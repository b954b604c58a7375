"""CUDA Graph: our lean Llama in plain PyTorch, its forward replayed from a rolling pool of CUDA graphs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from cases.runtime.buckets import GraphOptions
from cases.runtime.decoding import decoding_of
from cases.runtime.lean import LeanCase

if TYPE_CHECKING:
    from cases.runtime.dynamic_ops import DynamicOps
    from cases.runtime.llama import Model
    from cases.runtime.runner import Runner
    from harness.contract import Plan


class CudaGraph(LeanCase):
    """Graphs around whatever kernels the case has."""

    own_options: ClassVar[tuple[str, ...]] = ("graph",)

    @classmethod
    def check_options(cls, options: Mapping[str, Any]) -> None:
        """See harness.contract.Case."""
        super().check_options(options)
        GraphOptions.read(options)

    def make_runner(self, plan: Plan, model: Model, ops: DynamicOps) -> Runner:
        """The rolling pool."""
        from cases.runtime.capture import CudaCapture, EagerCapture
        from cases.runtime.graph_runner import GraphRunner

        graph = GraphOptions.read(plan.options)
        kind = CudaCapture if plan.device == "cuda" else EagerCapture
        capture = kind(shared=graph.shared_pool, executables=graph.executables)
        return GraphRunner(model, graph, capture, ops.pull, one_token=decoding_of(plan.options) == "kv_cache")
