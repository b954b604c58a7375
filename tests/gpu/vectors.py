"""Products of a matrix and a vector in float64, those of real models, and what every kernel for them must hold."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
from torch import Tensor

from tests.gpu.support import assert_near, poisoned, randn

EPS = 1e-5
FLAGS = list(itertools.product((False, True), repeat=3))
HIDDEN = 4096
LAYERS = {
    # name: outputs, inputs, norm, gated, residual: as the model calls it
    "Llama-2-7B qkv": (12288, HIDDEN, True, False, False),
    "Llama-2-7B out": (4096, HIDDEN, False, False, True),
    "Llama-2-7B gate-up": (11008, HIDDEN, True, True, False),
    "Llama-2-7B down": (4096, 11008, False, False, True),
    "Llama-2-7B head": (32000, HIDDEN, True, False, False),
    "Llama-3-8B qkv": (6144, HIDDEN, True, False, False),
    "Llama-3-8B gate-up": (14336, HIDDEN, True, True, False),
    "Llama-3-8B down": (4096, 14336, False, False, True),
    "Llama-3-8B head": (128256, HIDDEN, True, False, False),
    "Mistral-7B head": (32768, HIDDEN, True, False, False),
}


def reference(
    weight: Tensor, x: Tensor, norm: Tensor | None, eps: float, gated: bool, residual: Tensor | None,
    *, rounded: bool = False,
) -> Tensor:  # fmt: skip
    """The same product in float64; where `rounded`, of RMSNorm(x) rounded once."""
    wide = x.double()
    if norm is not None:
        wide = wide * torch.rsqrt(wide.pow(2).mean() + eps) * norm.double()
        wide = wide.to(x.dtype).double() if rounded else wide
    # By pieces, because the widest head would take gigabytes at once.
    product = torch.cat([piece.double() @ wide for piece in weight.split(8192)])
    if gated:
        gate, up = product.chunk(2)
        product = gate * torch.sigmoid(gate) * up
    return product if residual is None else product + residual.double()


def check(
    product: Callable[..., Tensor], outputs: int, inputs: int, norm: bool, gated: bool, add: bool,
    dtype: torch.dtype = torch.float16, eps: float = EPS, scale: float = 1.0, rounded: bool = False,
) -> None:  # fmt: skip
    """`product`, as in kernels.vectors.Vectors, is near the reference and writes its output and nothing else."""
    weight = randn(outputs * (2 if gated else 1), inputs, dtype=dtype, scale=inputs**-0.5)
    x = randn(inputs, dtype=dtype, scale=scale)
    gains = randn(inputs, dtype=dtype) + 1 if norm else None
    residual = randn(outputs, dtype=dtype) if add else None
    out, guard = poisoned(outputs, dtype)
    found = product(weight, x, out, norm=gains, eps=eps, gated=gated, residual=residual)
    assert found.data_ptr() == out.data_ptr()
    assert_near(out, reference(weight, x, gains, eps, gated, residual, rounded=rounded))
    assert guard.isnan().all(), "written behind the output"


def check_chain(product: Callable[..., Tensor]) -> None:
    """Each kernel may begin before the one before it has ended, but must not read what that one writes."""
    first, second = (randn(HIDDEN, HIDDEN, scale=HIDDEN**-0.5) for _ in range(2))
    x = randn(HIDDEN)
    expected = x.double()
    for weight in (first, second) * 4:
        expected = reference(weight, expected.half(), None, 0.0, False, None)
    wrong = torch.zeros((), dtype=torch.int64, device="cuda")
    bits: Tensor | None = None
    for _ in range(200):
        buffers = [poisoned(HIDDEN)[0] for _ in range(8)]
        value = x
        for weight, out in zip((first, second) * 4, buffers, strict=True):
            value = product(weight, value, out)
        bits = value.clone() if bits is None else bits
        wrong += (value != bits).sum()
    assert wrong.item() == 0
    assert bits is not None
    assert_near(bits, expected, factor=4)


def check_same_bits(product: Callable[..., Tensor]) -> None:
    """The same input gives the same bits."""
    weight, x = randn(11008 * 2, HIDDEN, scale=HIDDEN**-0.5), randn(HIDDEN)
    first = product(weight, x, poisoned(11008)[0], gated=True).clone()
    differing = torch.zeros((), dtype=torch.int64, device="cuda")
    for _ in range(200):
        out, _ = poisoned(11008)
        differing += (product(weight, x, out, gated=True) != first).sum()
    assert differing.item() == 0
