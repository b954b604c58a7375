"""JIT+CUDA, the hybrid: the composition of JIT-Only and CUDA Graph, and nothing third."""

from __future__ import annotations

from cases.cuda_graph import CudaGraph
from cases.jit import Jit


class JitCudaGraph(Jit, CudaGraph):
    """Kernels and dynamic ops from Jit, the runner from CudaGraph."""
