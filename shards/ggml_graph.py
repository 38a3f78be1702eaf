"""Graphs of layers with their buffers, made once for a number of rows and kept.

Which slots rows write and see, their positions and the caches themselves are inputs.
"""

import ctypes as c
import weakref
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hearthring.protocol.errors import EngineUnavailable
from hearthring.protocol.tensors import F32 as States
from hearthring.shards.engine import Kind
from hearthring.shards.ggml_kv import GgmlKv
from hearthring.shards.ggml_layer import GraphKey, LayerGraph, Model
from hearthring.shards.ggml_memory import Pointer, view
from hearthring.shards.ggml_passes import Run

_MASKED = 0xFC00  # minus infinity in fp16


@dataclass(slots=True)
class _Part:
    """Inputs of one session's rows, as views of the graph's memory."""

    homes: NDArray[np.int64]  # [layers and K or V, rows and heads]: where new ones go
    masks: dict[int, NDArray[np.uint16]]  # by sliding window, 0 for none
    pointers: NDArray[np.int64]  # where the graph keeps addresses of this session's K and V
    sources: NDArray[np.int64]  # which of the cache's addresses belong there
    bound: "weakref.ref[GgmlKv] | None" = None

    def bind(self, cache: GgmlKv, words: NDArray[np.uint64]) -> None:
        """Let the graph read a session's cache."""
        if self.bound is None or self.bound() is not cache:
            words[self.pointers] = cache.addresses.reshape(-1)[self.sources]
            self.bound = weakref.ref(cache)


class Graph:
    """A graph with its buffers. One run at a time."""

    def __init__(self, model: Model, key: GraphKey) -> None:
        self._call = call = model.ggml.calls
        build = LayerGraph(model, key)
        self._memory = build.memory
        self._handle = build.handle
        # Other attention tiles the keys, or cuts them by threads: see ``ggml_layer.py``.
        self._tiled = key.kind is Kind.PROMPT
        self.use_ref = not self._tiled and model.policy.exact
        allocator = call.ggml_gallocr_new(call.ggml_backend_cpu_buffer_type())
        weakref.finalize(self, call.ggml_gallocr_free, allocator)
        if not call.ggml_gallocr_alloc_graph(allocator, self._handle):
            raise MemoryError("no memory for a graph")
        for tensor, offset in build.placed:
            place = call.ggml_get_data(build.mixed) + offset
            self._memory.words[self._memory.data_index(tensor)] = place
        self.bytes = self._memory.words.nbytes + call.ggml_gallocr_get_buffer_size(allocator, 0)
        rows, width = key.rows, model.shape.width
        self._wide = build.wide
        if self._wide is not None:
            self._wide.bind(rows)
        self._states = view(call, build.states, c.c_float, rows, width)
        self._positions = view(call, build.positions, c.c_int32, rows)
        self.result = view(call, build.result, c.c_float, rows, width)
        self.taps = {
            boundary: view(call, tensor, c.c_float, rows, width)
            for boundary, tensor in build.taps.items()
        }
        start, end = key.window
        size = width * model.residual.bytes
        self.trace: NDArray[np.uint8] | None = None
        """``[layers, rows, bytes]``, overwritten by the next run."""
        if build.trace is not None:
            self.trace = view(call, build.trace, c.c_uint8, end - start, rows, size)
        heads = model.shape.kv_heads
        homes = view(call, build.homes, c.c_int64, 2 * (end - start), rows * heads)
        ends = np.cumsum([count for count, *_ in key.parts])
        self._parts = [
            _Part(
                homes[:, (last - count) * heads : last * heads],
                {
                    window: view(call, mask, c.c_uint16, model.mask_rows(key, count), visible)
                    for window, mask in inputs.masks.items()
                },
                np.array([self._memory.data_index(tensor) for tensor, _ in inputs.held]),
                np.array([source for _, source in inputs.held]),
            )
            for (count, visible, _), last, inputs in zip(key.parts, ends, build.parts, strict=True)
        ]

    def run(self, backend: Pointer, runs: Sequence[Run], states: States) -> None:
        """Put results into ``result``, ``taps`` and ``trace``, until the next run. ``runs`` fit the
        key, part by part; the backend is set to ``use_ref``."""
        self._states[...] = states
        at = 0
        for run, part in zip(runs, self._parts, strict=True):
            cache, rows = run.cache, run.rows
            part.bind(cache, self._memory.words)
            for window, mask in part.masks.items():
                mask.fill(_MASKED)
                for seen, row in zip(mask, rows, strict=False):  # padding stays masked
                    first = max(0, row.position + 1 - window) if window else 0
                    if self._tiled:  # prompt rows lie where their positions are
                        seen[first : row.position + 1] = 0
                    else:
                        seen[row.path[first:]] = 0
            cache.homes([row.slot for row in rows], part.homes)
            for row in rows:
                self._positions[at] = row.position
                at += 1
        if self._wide is None:
            status = self._call.ggml_backend_graph_compute(backend, self._handle)
        else:
            chains = [(run.rows[0].position, len(run.rows)) for run in runs]
            status = self._wide.compute(
                chains, lambda: self._call.ggml_backend_graph_compute(backend, self._handle)
            )
        if status != 0:
            raise EngineUnavailable("ggml failed to compute a graph", field="engine")
