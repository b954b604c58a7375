"""JIT-Only: our lean Llama with JIT-compiled kernels and dynamic ops, no graphs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from cases.runtime.lean import LeanCase, check_keys
from cases.runtime.shape import LlamaShape
from harness.contract import Plan, Unsupported

if TYPE_CHECKING:
    from cases.runtime.dynamic_ops import DynamicOps
    from cases.runtime.llama import Blocks

NARROWEST_HEAD = 32
BACKENDS = ("auto", "triton", "torchscript")


class Jit(LeanCase):
    """Compiled kernels under whatever runner the case has."""

    own_options: ClassVar[tuple[str, ...]] = ("jit",)

    @classmethod
    def check_options(cls, options: Mapping[str, Any]) -> None:
        """See harness.contract.Case."""
        super().check_options(options)
        check_keys(options["jit"], ["backend", "draws"], "jit.")
        backend = options["jit"].get("backend")
        if backend not in BACKENDS:
            raise ValueError(f"jit.backend must be {', '.join(BACKENDS[:-1])} or {BACKENDS[-1]}, not {backend!r}")
        draws = options["jit"].get("draws")
        if not isinstance(draws, int) or isinstance(draws, bool) or draws < 1:
            raise ValueError(f"jit.draws must be a whole number of at least 1, not {draws!r}")

    def make_blocks(self, plan: Plan, shape: LlamaShape) -> Blocks:
        """Kernels by the backend that the configuration names."""
        if backend_of(plan) == "triton":
            check_head(shape)
            import torch

            from cases.runtime.kernels.blocks import TritonBlocks

            return TritonBlocks(shape, getattr(torch, plan.dtype))
        from cases.runtime.scripted import scripted_blocks

        return scripted_blocks(shape)

    def make_ops(self, plan: Plan, shape: LlamaShape) -> DynamicOps:
        """Dynamic ops by the same backend."""
        kind: type[DynamicOps]
        if backend_of(plan) == "triton":
            from cases.runtime.kernels.dynamic_ops import TritonOps as kind
        else:
            from cases.runtime.scripted import ScriptedOps as kind
        ops = kind(plan.sampling, plan.device, shape.vocab_size)
        ops.draws = int(plan.options["jit"]["draws"])
        return ops


def check_head(shape: LlamaShape) -> None:
    """Refuse a head that the kernels have no tile for. Raises Unsupported."""
    width = shape.head_dim
    if width < NARROWEST_HEAD or width & (width - 1):
        raise Unsupported(
            f"jit.backend=triton needs a head_dim that is a power of 2 of at least {NARROWEST_HEAD}, not {width}: "
            "set jit.backend=torchscript"
        )


def backend_of(plan: Plan) -> str:
    """The backend that the configuration names, by the device where it says auto.

    Raises Unsupported for Triton without a GPU.
    """
    backend = str(plan.options["jit"]["backend"])
    if backend == "auto":
        return "triton" if plan.device == "cuda" else "torchscript"
    if backend == "triton" and plan.device != "cuda":
        raise Unsupported(f"jit.backend=triton needs a GPU: set cases.{plan.case}.jit.backend=torchscript")
    return backend
