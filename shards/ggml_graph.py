"""Graphs of Llama-family layers for ggml: what is computed, in which order, from which inputs.

A graph is made for a number of rows and of slots in sight per session, and kept. Which slots rows
write and see, their positions and the caches themselves are inputs. Rows keep their bits whatever
they are batched with, because every operation here treats a row by itself:

- a matrix product is one dot product per row and output, in ggml's one-row kernel. Where ggml would
  go over to llamafile's kernels for two rows and more, which sum in another order, the rows are
  handed over as matrices of one row each;
- attention is ggml's one-row flash attention (``use_ref``): it adds up one slot after the other
  and passes over masked ones, so only the order of the slots of a path matters.
"""

import ctypes as c
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from hearthring.protocol.errors import EngineUnavailable
from hearthring.protocol.tensors import F32 as States
from hearthring.protocol.tensors import Residual
from hearthring.shards.engine import EngineRow, Window
from hearthring.shards.ggml_kv import KEY, VALUE, GgmlKv
from hearthring.shards.ggml_library import BF16, DATA_OFFSET, F16, F32, I32, I64, Ggml, InitParams
from hearthring.shards.shape import Shape

PARTS = {
    "attn_norm": 1,
    "attn_q": 2,
    "attn_k": 2,
    "attn_v": 2,
    "attn_output": 2,
    "ffn_norm": 1,
    "ffn_gate": 2,
    "ffn_up": 2,
    "ffn_down": 2,
}
"""Tensors of a layer with their dimensions."""

_MANY_ROW_KERNELS = {0, 1, 2, 6, 8, 20, 30}
"""F32, F16, Q4_0, Q5_0, Q8_0, IQ4_NL, BF16: types that llamafile's kernels take over."""

_ROUND = {Residual.FP16: F16, Residual.BF16: BF16}
_MASKED = 0xFC00  # minus infinity in fp16
_EVERYWHERE = 4096, 1 << 47

Pointer = int


class Weights(Protocol):
    """Where tensors come from: a ``GgufFile``, or anything that looks alike."""

    @property
    def shape(self) -> Shape:
        """The model's shape."""

    def raw(self, name: str) -> tuple[int, tuple[int, ...], NDArray[np.uint8]]:
        """ggml type, row-major shape and bytes."""


@dataclass(frozen=True, slots=True)
class GraphKey:
    """What a graph is made for. ``parts``: rows, slots in sight and capacity per session."""

    window: Window
    parts: tuple[tuple[int, int, int], ...]
    taps: tuple[int, ...]


class Memory:
    """A ggml context whose structs lie in an array of ours, and its C objects' lives."""

    def __init__(self, ggml: Ggml, tensors: int, nodes: int = 0) -> None:
        call = ggml.calls
        size = tensors * call.ggml_tensor_overhead() + 64
        if nodes:
            size += call.ggml_graph_overhead_custom(nodes, False)
        self.words = np.empty(-(-size // 8), np.uint64)
        self.base = self.words.ctypes.data
        self.context = call.ggml_init(InitParams(self.words.nbytes, self.base, True))
        weakref.finalize(self, call.ggml_free, self.context)

    def data_index(self, tensor: Pointer) -> int:
        """Where in ``words`` a tensor keeps its data pointer."""
        return (tensor + DATA_OFFSET - self.base) // 8


class LoadedWeights:
    """ggml tensors over the bytes of some layers, by GGUF name. Nothing is copied.

    Raises ``EngineUnavailable`` for a type that no kernel here takes.
    """

    def __init__(
        self,
        ggml: Ggml,
        weights: Weights,
        start: int,
        end: int,
        progress: Callable[[int, int], None] | None,
    ) -> None:
        call = ggml.calls
        # One buffer over the whole address space: it only vouches that addresses are memory of
        # the CPU, which those of maps and caches are.
        self.anywhere = call.ggml_backend_cpu_buffer_from_ptr(*_EVERYWHERE)
        weakref.finalize(self, call.ggml_backend_buffer_free, self.anywhere)
        self._memory = Memory(ggml, (end - start) * len(PARTS))
        self._bytes: list[NDArray[np.uint8]] = []  # tensors point into them
        self.tensors: dict[str, Pointer] = {}
        self.kinds: dict[str, int] = {}
        for layer in range(start, end):
            for part, dimensions in PARTS.items():
                name = f"blk.{layer}.{part}.weight"
                kind, shape, data = weights.raw(name)
                check_type(name, kind, dimensions)
                new = getattr(call, f"ggml_new_tensor_{dimensions}d")
                tensor = new(self._memory.context, kind, *reversed(shape))
                call.ggml_backend_tensor_alloc(self.anywhere, tensor, data.ctypes.data)
                self._bytes.append(data)
                self.tensors[name], self.kinds[name] = tensor, kind
            if progress is not None:
                progress(layer + 1 - start, end - start)


def check_type(name: str, kind: int, dimensions: int) -> None:
    """Raise ``EngineUnavailable`` for a tensor of a type that is never used for such."""
    # F32, F16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K to Q6_K, IQ4_NL, BF16
    known = {0, 1, 2, 3, 6, 7, 8, 10, 11, 12, 13, 14, 20, 30} if dimensions == 2 else {0}
    if kind not in known:
        raise EngineUnavailable(
            f"tensor {name!r} is of ggml type {kind}", field="engine", mend="use the torch engine"
        )


@dataclass(slots=True)
class _Part:
    """Inputs of one session's rows, as views of the graph's memory."""

    first: int
    slots: NDArray[np.int64]
    mask: NDArray[np.uint16]
    pointers: NDArray[np.int64]  # where the graph keeps addresses of this session's K and V
    sources: NDArray[np.int64]  # which of the cache's addresses belong there
    bound: "weakref.ref[GgmlKv] | None" = None


class Graph:
    """A graph with its buffers. One run at a time."""

    def __init__(
        self, ggml: Ggml, weights: LoadedWeights, shape: Shape, residual: Residual, key: GraphKey
    ) -> None:
        self._ggml = ggml
        build = _Builder(ggml, weights, shape, residual, key)
        self._memory = build.memory
        self._handle = build.handle
        call = ggml.calls
        allocator = call.ggml_gallocr_new(call.ggml_backend_cpu_buffer_type())
        weakref.finalize(self, call.ggml_gallocr_free, allocator)
        if not call.ggml_gallocr_alloc_graph(allocator, self._handle):
            raise MemoryError("no memory for a graph")
        self.bytes = self._memory.words.nbytes + call.ggml_gallocr_get_buffer_size(allocator, 0)
        rows = sum(part[0] for part in key.parts)
        self._states = view(call, build.states, c.c_float, rows, shape.width)
        self._positions = view(call, build.positions, c.c_int32, rows)
        self._result = view(call, build.result, c.c_float, rows, shape.width)
        self._taps = {
            boundary: view(call, tensor, c.c_float, rows, shape.width)
            for boundary, tensor in build.taps.items()
        }
        self._parts = []
        first = 0
        for (count, visible, _), (slots, mask, held) in zip(key.parts, build.parts, strict=True):
            self._parts.append(
                _Part(
                    first,
                    view(call, slots, c.c_int64, count),
                    view(call, mask, c.c_uint16, count, visible),
                    np.array([self._memory.data_index(tensor) for tensor, _ in held]),
                    np.array([source for _, source in held]),
                )
            )
            first += count

    def run(
        self, backend: Pointer, pieces: list[tuple[GgmlKv, list[EngineRow]]], states: States
    ) -> tuple[States, dict[int, States]]:
        """Results that the next run overwrites. ``pieces`` fit the key, part by part."""
        self._states[...] = states
        at = 0
        for (cache, rows), part in zip(pieces, self._parts, strict=True):
            if part.bound is None or part.bound() is not cache:
                self._memory.words[part.pointers] = cache.addresses.reshape(-1)[part.sources]
                part.bound = weakref.ref(cache)
            part.mask.fill(_MASKED)
            for seen, row in zip(part.mask, rows, strict=True):
                seen[row.path] = 0
            part.slots[:] = [row.slot for row in rows]
            self._positions[at : at + len(rows)] = [row.position for row in rows]
            at += len(rows)
        if self._ggml.calls.ggml_backend_graph_compute(backend, self._handle) != 0:
            raise EngineUnavailable("ggml failed to compute a graph", field="engine")
        return self._result, self._taps


class _Builder:
    """Puts a graph together. ``held`` of a part: tensors over its cache, and which K or V."""

    def __init__(
        self, ggml: Ggml, weights: LoadedWeights, shape: Shape, residual: Residual, key: GraphKey
    ) -> None:
        self._call, self._weights, self._shape = ggml.calls, weights, shape
        start, end = key.window
        tensors = (end - start) * (34 + 18 * len(key.parts)) + 2 * len(key.parts) + 8
        self.memory = Memory(ggml, tensors, tensors)
        self._context = self.memory.context
        self.handle = self._call.ggml_new_graph_custom(self._context, tensors, False)
        self._count = sum(part[0] for part in key.parts)
        self.states = self._input(F32, shape.width, self._count)
        self.positions = self._input(I32, self._count)
        self.parts: list[tuple[Pointer, Pointer, list[tuple[Pointer, int]]]] = [
            (self._input(I64, count), self._input(F16, visible, count), [])
            for count, visible, _ in key.parts
        ]
        self.taps: dict[int, Pointer] = {}
        state = self.states
        for local, layer in enumerate(range(start, end)):
            state = self._layer(key, local, f"blk.{layer}.", state)
            if residual in _ROUND:
                state = self._do("cast", self._do("cast", state, _ROUND[residual]), F32)
            if layer + 1 in key.taps:
                self._call.ggml_set_output(state)
                self.taps[layer + 1] = state
        self.result = state
        self._call.ggml_set_output(state)
        self._expand(state)

    def _do(self, name: str, *arguments: Any) -> Pointer:
        tensor: Pointer = getattr(self._call, f"ggml_{name}")(self._context, *arguments)
        return tensor

    def _input(self, kind: int, *size: int) -> Pointer:
        tensor = self._do(f"new_tensor_{len(size)}d", kind, *size)
        self._call.ggml_set_input(tensor)
        return tensor

    def _expand(self, tensor: Pointer) -> None:
        self._call.ggml_build_forward_expand(self.handle, tensor)

    def _norm(self, state: Pointer, name: str) -> Pointer:
        normed = self._do("rms_norm", state, self._shape.norm_epsilon)
        return self._do("mul", normed, self._weights.tensors[name + ".weight"])

    def _product(self, name: str, state: Pointer, inner: int, outer: int) -> Pointer:
        weight = self._weights.tensors[name + ".weight"]
        if self._count == 1 or self._weights.kinds[name + ".weight"] not in _MANY_ROW_KERNELS:
            return self._do("mul_mat", weight, state)
        apart = self._do("reshape_3d", state, inner, 1, self._count)
        return self._do("reshape_2d", self._do("mul_mat", weight, apart), outer, self._count)

    def _rotated(self, flat: Pointer, heads: int) -> Pointer:
        shape = self._shape
        split = self._do("reshape_3d", flat, shape.head_width, heads, self._count)
        mode = 0 if shape.interleaved_rope else 2
        angles = (shape.head_width, mode, 0, shape.rope_base, 1.0, 0.0, 1.0, 32.0, 1.0)
        return self._do("rope_ext", split, self.positions, None, *angles)

    def _layer(self, key: GraphKey, local: int, blk: str, state: Pointer) -> Pointer:
        shape = self._shape
        queries, keys = shape.heads * shape.head_width, shape.kv_heads * shape.head_width
        normed = self._norm(state, blk + "attn_norm")
        q = self._product(blk + "attn_q", normed, shape.width, queries)
        k = self._product(blk + "attn_k", normed, shape.width, keys)
        v = self._product(blk + "attn_v", normed, shape.width, keys)
        q = self._rotated(q, shape.heads)
        k = self._do("reshape_2d", self._rotated(k, shape.kv_heads), keys, self._count)
        self._expand(q)
        mixed = self._attention(key, local, q, k, v)
        mixed = self._product(blk + "attn_output", mixed, queries, shape.width)
        state = self._do("add", mixed, state)
        normed = self._norm(state, blk + "ffn_norm")
        gate = self._product(blk + "ffn_gate", normed, shape.width, shape.ffn)
        up = self._product(blk + "ffn_up", normed, shape.width, shape.ffn)
        gated = self._do("swiglu_split", gate, up)
        down = self._product(blk + "ffn_down", gated, shape.ffn, shape.width)
        return self._do("add", down, state)

    def _attention(self, key: GraphKey, local: int, q: Pointer, k: Pointer, v: Pointer) -> Pointer:
        """All rows' attention ``[rows, heads * head_width]``, session by session."""
        shape, call = self._shape, self._call
        width, row = shape.head_width, shape.kv_heads * shape.head_width
        caches: list[list[Pointer]] = []
        first = 0
        # Nothing consumes the writes, so they must enter the graph before the reads.
        for (count, _, capacity), (slots, _, held) in zip(key.parts, self.parts, strict=True):
            caches.append([])
            for which, new in ((KEY, k), (VALUE, v)):
                cache = self._do("new_tensor_2d", F16, row, capacity)
                call.ggml_backend_tensor_alloc(self._weights.anywhere, cache, _EVERYWHERE[0])
                part = self._do("view_2d", new, row, count, row * 4, first * row * 4)
                written = self._do("set_rows", cache, part, slots)
                self._expand(written)
                caches[-1].append(cache)
                held += [(cache, 2 * local + which), (written, 2 * local + which)]
            first += count
        mixed = []
        first, stride = 0, shape.heads * width * 4
        for (count, visible, _), (_, mask, held), pair in zip(
            key.parts, self.parts, caches, strict=True
        ):
            mine = self._do(
                "view_3d", q, width, shape.heads, count, width * 4, stride, first * stride
            )
            mine = self._do("permute", mine, 0, 2, 1, 3)
            seen = []
            for which, cache in enumerate(pair):
                size = (width, visible, shape.kv_heads, row * 2, width * 2, 0)
                seen.append(self._do("view_3d", cache, *size))
                held.append((seen[-1], 2 * local + which))
            scale = width**-0.5
            out = self._do("flash_attn_ext", mine, *seen, mask, scale, 0.0, 0.0)
            mixed.append(self._do("reshape_2d", out, shape.heads * width, count))
            first += count
        while len(mixed) > 1:
            mixed = [
                self._do("concat", *mixed[i : i + 2], 1) if i + 1 < len(mixed) else mixed[i]
                for i in range(0, len(mixed), 2)
            ]
        return mixed[0]


def view(call: c.CDLL, tensor: Pointer, kind: type[Any], *shape: int) -> NDArray[Any]:
    """The memory of an allocated tensor as an array, valid as long as the tensor's allocator."""
    pointer = c.cast(call.ggml_get_data(tensor), c.POINTER(kind))
    return np.ctypeslib.as_array(pointer, (int(np.prod(shape)),)).reshape(shape)
