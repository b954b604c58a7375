"""From a tile to machine code: the CUDA source with the tile's constants, compiled by NVRTC and kept on disk."""

from __future__ import annotations

import hashlib
from pathlib import Path

from triton.runtime.cache import get_cache_manager

from cases.runtime.kernels.hopper import nvrtc
from cases.runtime.kernels.hopper.tiles import EPILOGUES, Tile

FILES = ("tile.cuh", "numbers.cuh", "instructions.cuh", "staging.cuh", "rotated.cuh", "linear.cu")
NAME = "linear.cubin"


def wgmma(tokens: int, bf16: bool) -> str:
    """The tensor cores' instruction as a macro: its width is part of its name, its registers are listed one by one."""
    count = tokens // 2
    kind = "bf16" if bf16 else "f16"
    places = ", ".join(f"%{place}" for place in range(count))
    outputs = ", ".join(f'"+f"(d[{place}])' for place in range(count))
    return (
        f'#define WGMMA(d, a, b, add) asm volatile("{{\\n.reg .pred p;\\nsetp.ne.b32 p, %{count + 2}, 0;\\n'
        f"wgmma.mma_async.sync.aligned.m64n{tokens}k16.f32.{kind}.{kind} "
        f'{{{places}}}, %{count}, %{count + 1}, p, 1, 1, 0, 0;\\n}}\\n" : {outputs} : "l"(a), "l"(b), "r"(add))\n'
    )


def source(tile: Tile, bf16: bool) -> str:
    """The whole translation unit of one kernel."""
    values = {
        "ROWS": tile.rows, "USED": tile.used, "TOKENS": tile.tokens, "STAGES": tile.stages, "SPLIT": tile.split,
        "SHARE": int(tile.share), "EPILOGUE": EPILOGUES[tile.kind], "DEPTH": tile.depth, "BF16": int(bf16),
        "TALL": tile.tall, "LOADERS": tile.loaders, "LASTING": int(tile.lasting),
        "BOX": tile.box_rows, "HEAD": tile.head_dim,
    }  # fmt: skip
    lines = [f"#define {name} {value}" for name, value in values.items()]
    lines.append(wgmma(tile.tokens, bf16))
    lines += [(Path(__file__).parent / name).read_text(encoding="utf-8") for name in FILES]
    return "\n".join(lines)


def compiled(tile: Tile, bf16: bool) -> bytes:
    """Machine code of a tile. Raises RuntimeError with NVRTC's message."""
    return kept(source(tile, bf16), NAME)


def kept(text: str, name: str) -> bytes:
    """Machine code for sm_90a, from the folder where Triton keeps its own when it was compiled before.

    Raises:
        RuntimeError: NVRTC's message.
    """
    key = hashlib.sha256(f"{nvrtc.version()}\n{text}".encode()).hexdigest()
    cache = get_cache_manager(key)
    if found := cache.get_file(name):
        return Path(found).read_bytes()
    code = nvrtc.compiled(text, Path(name).with_suffix(".cu").name)
    cache.put(code, name, binary=True)
    return code
