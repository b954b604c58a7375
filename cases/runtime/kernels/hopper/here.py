"""Whether kernels for Hopper's tensor cores can run here."""

from __future__ import annotations

import torch

from cases.runtime.kernels.hopper.nvrtc import why_absent

HOPPER = (9, 0)


def obstacle(dtype: torch.dtype) -> str:
    """Why they can't, on numbers of that dtype; empty when they can."""
    if torch.cuda.get_device_capability() != HOPPER:
        return "the GPU is no Hopper"
    if dtype not in (torch.float16, torch.bfloat16):
        return f"our kernels for Hopper have no {str(dtype).removeprefix('torch.')}"
    return why_absent()
