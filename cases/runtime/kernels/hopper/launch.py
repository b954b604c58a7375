"""Launching a compiled product: tensor maps for the copy engine, clusters, programmatic launch."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from functools import cache, lru_cache
from typing import Any

import torch
from cuda.bindings import driver
from torch import Tensor
from triton.runtime import driver as triton_driver

from cases.runtime.kernels.cache import Place
from cases.runtime.kernels.hopper.source import compiled
from cases.runtime.kernels.hopper.tiles import Tile

MOST_KEPT = 2**14
"""Launches kept for the next time, and their configurations: of some 130 lengths of a prompt, 125 each."""


class Cache(ctypes.Structure):
    """Where keys and values go; the layout is that of `Cache` in staging.cuh."""

    _fields_ = (
        ("keys", ctypes.c_void_p), ("values", ctypes.c_void_p), ("words", ctypes.c_void_p),
        ("cosines", ctypes.c_void_p), ("sines", ctypes.c_void_p),
        ("heads", ctypes.c_int), ("kv_heads", ctypes.c_int), ("capacity", ctypes.c_int), ("first", ctypes.c_int),
    )  # fmt: skip

    def fill(self, to: Place, raw: bool) -> None:
        """Take a layer's addresses; `raw` queries are not rotated."""
        self.keys, self.values, self.words = *(part.data_ptr() for part in to.cache), to.words.data_ptr()
        self.cosines, self.sines = (table.data_ptr() for table in to.tables)
        self.heads, self.kv_heads = to.shape.num_attention_heads, to.shape.num_key_value_heads
        self.capacity, self.first = to.cache[0].shape[1], self.heads if raw else 0


class Problem(ctypes.Structure):
    """The kernel's third argument; the layout is that of `Problem` in staging.cuh."""

    _fields_ = (
        ("out", ctypes.c_void_p), ("count", ctypes.c_int), ("features", ctypes.c_int), ("k_blocks", ctypes.c_int),
        ("cache", Cache),
    )  # fmt: skip


def done(result: tuple[Any, ...]) -> Any:
    """What a call of the driver gives behind its state. Raises RuntimeError for any state but success."""
    if result[0] != driver.CUresult.CUDA_SUCCESS:
        raise RuntimeError(f"CUDA driver: {result[0].name}")
    return result[1] if len(result) > 1 else None


def loaded(code: bytes, name: bytes, device: int) -> Any:
    """A kernel of a device out of machine code."""
    with torch.cuda.device(device):
        torch.cuda.synchronize()  # whatever else it does, it makes the device's context this thread's
        return done(driver.cuModuleGetFunction(done(driver.cuModuleLoadData(code)), name))


@cache
def function(tile: Tile, bf16: bool, device: int) -> Any:
    """The kernel of a tile, loaded on a device once and for all."""
    found = loaded(compiled(tile, bf16), b"linear", device)
    attribute = driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
    done(driver.cuFuncSetAttribute(found, attribute, tile.shared_bytes))
    return found


@lru_cache(MOST_KEPT)
def configuration(threads: int, grid: tuple[int, int], stream: int, shared_bytes: int = 0, paired: bool = False) -> Any:
    """Grid, block, shared memory, cluster of two where `paired`, and programmatic launch."""
    made = driver.CUlaunchConfig()
    made.hStream = stream
    made.gridDimX, made.gridDimY, made.gridDimZ = *grid, 1
    made.blockDimX, made.blockDimY, made.blockDimZ = threads, 1, 1
    made.sharedMemBytes = shared_bytes
    early = driver.CUlaunchAttribute()
    early.id = driver.CUlaunchAttributeID.CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION
    value = early.value
    value.programmaticStreamSerializationAllowed = 1
    early.value = value
    attributes = [early]
    if paired:
        pair = driver.CUlaunchAttribute()
        pair.id = driver.CUlaunchAttributeID.CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION
        value = pair.value
        value.clusterDim.x, value.clusterDim.y, value.clusterDim.z = 2, 1, 1
        pair.value = value
        attributes.append(pair)
    made.attrs = attributes
    made.numAttrs = len(attributes)
    return made


def _encode_rows(x: Tensor, box: int) -> Any:
    """The map of a matrix, read `box` rows of 64 columns at a time."""
    count, width = x.shape
    return _encode(x, [width, count], [2 * width], [64, box])


def _encode_turns(weight: Tensor, box: int, group: int) -> Any:
    """The map of groups of so many rows, read as 8 rows of a group's first half, 8 of its second, `box` in all."""
    rows, width = weight.shape
    sizes, strides = [width, 8, 2, group // 16], [2 * width, width * group, 16 * width]
    lengths = [64, 8, 2, box // 16]
    if group == rows:
        return _encode(weight, sizes, strides, lengths)
    return _encode(weight, [*sizes, rows // group], [*strides, 2 * width * group], [*lengths, 1])


def _encode(x: Tensor, sizes: list[int], strides: list[int], box: list[int]) -> Any:
    """A tensor map with rows of 128 bytes swizzled as wgmma reads them, and zeros beyond the edges."""
    kinds = driver.CUtensorMapDataType
    kind = {
        torch.float16: kinds.CU_TENSOR_MAP_DATA_TYPE_FLOAT16,
        torch.bfloat16: kinds.CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
    }[x.dtype]
    return done(
        driver.cuTensorMapEncodeTiled(
            kind, len(sizes), x.data_ptr(),
            [driver.cuuint64_t(size) for size in sizes], [driver.cuuint64_t(stride) for stride in strides],
            [driver.cuuint32_t(length) for length in box], [driver.cuuint32_t(1)] * len(sizes),
            driver.CUtensorMapInterleave.CU_TENSOR_MAP_INTERLEAVE_NONE,
            driver.CUtensorMapSwizzle.CU_TENSOR_MAP_SWIZZLE_128B,
            driver.CUtensorMapL2promotion.CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
            driver.CUtensorMapFloatOOBfill.CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
        )
    )  # fmt: skip


class Prepared:
    """A launch whose arguments are known; the driver copies them each time, so any thread may launch it."""

    __slots__ = ("_arguments", "_configuration", "_function", "_kept", "_places")

    def __init__(self, configuration: Any, function: Any, places: Sequence[int], kept: object) -> None:
        """`places`: the addresses of the arguments, which lie in `kept`."""
        self._configuration, self._function, self._kept = configuration, function, kept
        self._arguments = (ctypes.c_void_p * len(places))(*places)
        self._places = ctypes.addressof(self._arguments)

    def __call__(self) -> None:
        """Launch it. Raises RuntimeError with the driver's state."""
        result = driver.cuLaunchKernelEx(self._configuration, self._function, self._places, 0)
        if result[0]:  # CUDA_SUCCESS is 0
            done(result)


class Launches(dict[tuple[object, ...], Prepared]):
    """Prepared launches by all that tells them apart; when there are too many, they are forgotten."""

    def __init__(self) -> None:
        super().__init__()
        self.stream: Callable[[int], int] = triton_driver.active.get_current_stream
        """The current stream of a device, without an object made of it."""

    def add(self, key: tuple[object, ...], made: Prepared) -> Prepared:
        """Keep one, which is returned."""
        if len(self) >= MOST_KEPT:
            self.clear()
        self[key] = made
        return made


class Launcher:
    """Launches products on the current stream."""

    def __init__(self) -> None:
        self._launches = Launches()

    def __call__(
        self, tile: Tile, x: Tensor, weight: Tensor, out: Tensor, to: Place | None = None, *, raw: bool = False
    ) -> None:
        """out[count, features] from x[count, inputs] and weight[rows, inputs], all contiguous and of one dtype.

        With `to`, the tile being rotated, `out` takes the queries, [count, query size], not rotated where `raw`.
        """
        stream = self._launches.stream(x.get_device())
        # A tile is told by its place in memory, which is nobody else's while the launch keeps it.
        key = (
            id(tile), stream, x.data_ptr(), x.shape, x.dtype, weight.data_ptr(), weight.shape, out.data_ptr(),
            None if to is None else to.layout, raw,
        )  # fmt: skip
        found = self._launches.get(key)
        if found is None:
            found = self._launches.add(key, prepare(tile, stream, x, weight, out, to, raw))
        found()


def prepare(tile: Tile, stream: int, x: Tensor, weight: Tensor, out: Tensor, to: Place | None, raw: bool) -> Prepared:
    """A product's launch; see Launcher."""
    if tile.kind == "gated":
        weights = _encode_turns(weight, tile.box_rows, weight.shape[0])
    elif tile.kind == "rotated":
        weights = _encode_turns(weight, tile.box_rows, tile.head_dim)
    else:
        weights = _encode_rows(weight, tile.box_rows)
    tokens, problem = _encode_rows(x, tile.tokens), Problem()
    if to is not None:
        problem.cache.fill(to, raw)
    problem.out, problem.count = out.data_ptr(), x.shape[0]
    problem.features = weight.shape[0] // (2 if tile.kind == "gated" else 1)
    problem.k_blocks = -(-x.shape[1] // (64 * tile.depth))
    found = configuration(tile.threads, tile.grid(x.shape[0], weight.shape[0]), stream, tile.shared_bytes, tile.paired)
    kernel = function(tile, x.dtype is torch.bfloat16, x.device.index)
    places = (int(weights.getPtr()), int(tokens.getPtr()), ctypes.addressof(problem))
    return Prepared(found, kernel, places, (tile, weights, tokens, problem))
