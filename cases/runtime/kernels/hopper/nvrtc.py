"""NVIDIA's run-time compiler, by way of cuda-bindings: whether it is here, which, and source to machine code."""

from __future__ import annotations

from typing import Any

OPTIONS = (b"--gpu-architecture=sm_90a", b"--std=c++17", b"-default-device")


def why_absent() -> str:
    """Why nothing can be compiled here; empty when it can.

    cuda-bindings can be imported where the library behind it is missing: only a call tells.
    """
    try:
        version()
    except ImportError as error:
        return f"no cuda-bindings: {error}"
    except (RuntimeError, OSError) as error:
        return f"no NVRTC: {error}"
    return ""


def version() -> str:
    """NVRTC's version. Raises ImportError without cuda-bindings, RuntimeError without the library."""
    from cuda.bindings import driver, nvrtc  # noqa: F401  the kernels are launched by the first

    state, major, minor = nvrtc.nvrtcVersion()
    if int(state) != 0:
        raise RuntimeError(f"it has no version: {state.name}")
    return f"NVRTC {major}.{minor}"


def compiled(text: str, name: str) -> bytes:
    """Machine code of a translation unit for sm_90a. Raises RuntimeError with NVRTC's message, which has its name."""
    from cuda.bindings import nvrtc

    program = _done(nvrtc.nvrtcCreateProgram(text.encode(), name.encode(), 0, None, None))
    try:
        (state,) = nvrtc.nvrtcCompileProgram(program, len(OPTIONS), list(OPTIONS))
        if state != nvrtc.nvrtcResult.NVRTC_SUCCESS:
            log = bytearray(_done(nvrtc.nvrtcGetProgramLogSize(program)))
            _done(nvrtc.nvrtcGetProgramLog(program, log))
            raise RuntimeError(f"NVRTC could not compile a kernel: {log.decode(errors='replace').strip()}")
        code = bytearray(_done(nvrtc.nvrtcGetCUBINSize(program)))
        _done(nvrtc.nvrtcGetCUBIN(program, code))
        return bytes(code)
    finally:
        nvrtc.nvrtcDestroyProgram(program)


def _done(result: tuple[Any, ...]) -> Any:
    """What a call gives behind its state. Raises RuntimeError for any state but success."""
    if int(result[0]) != 0:
        raise RuntimeError(f"NVRTC: {result[0].name}")
    return result[1] if len(result) > 1 else None
