"""Small graphs from rows to rows, for what isn't part of a layer."""

import ctypes as c
import weakref
from collections.abc import Callable

from hearthring.protocol.errors import EngineUnavailable
from hearthring.protocol.tensors import F32 as States
from hearthring.shards.ggml_library import F32, Ggml
from hearthring.shards.ggml_memory import Memory, Pointer, view

TENSORS = 16
"""Most tensors of a graph."""

Build = Callable[[Pointer, Pointer], Pointer]
"""Given a context and ``[rows, inner]`` in it, makes ``[rows, outer]``, contiguous."""


class RowGraph:
    """``build`` for so many rows, with the memory for its input and output. One run at a time."""

    def __init__(self, ggml: Ggml, rows: int, inner: int, outer: int, build: Build) -> None:
        self._call = call = ggml.calls
        self._memory = memory = Memory(ggml, TENSORS, TENSORS)
        given = call.ggml_new_tensor_2d(memory.context, F32, inner, rows)
        call.ggml_set_input(given)
        out = build(memory.context, given)
        call.ggml_set_output(out)
        self._handle = call.ggml_new_graph_custom(memory.context, TENSORS, False)
        call.ggml_build_forward_expand(self._handle, out)
        allocator = call.ggml_gallocr_new(call.ggml_backend_cpu_buffer_type())
        weakref.finalize(self, call.ggml_gallocr_free, allocator)
        if not call.ggml_gallocr_alloc_graph(allocator, self._handle):
            raise MemoryError("no memory for a graph")
        self._given = view(call, given, c.c_float, rows, inner)
        self._out = view(call, out, c.c_float, rows, outer)

    def run(self, backend: Pointer, rows: States) -> States:
        """The result, in an array of the caller's own. Raises ``EngineUnavailable``."""
        self._given[...] = rows
        if self._call.ggml_backend_graph_compute(backend, self._handle) != 0:
            raise EngineUnavailable("ggml failed to compute a graph", field="engine")
        return self._out.copy()
