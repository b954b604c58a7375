"""A Triton kernel that writes where no memory is."""

import torch
import triton
import triton.language as tl


@triton.jit
def astray(pointer, offset):
    tl.store(pointer + offset, 1.0)


def write_astray(memory: torch.Tensor) -> None:
    """Write 2^42 elements behind `memory`: an address that no allocation has."""
    astray[(1,)](memory, 1 << 42)
