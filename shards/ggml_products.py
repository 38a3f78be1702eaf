"""How a weight matrix may be multiplied with many rows so that each row keeps its own bits.

ggml goes over to other kernels as a batch grows, from two rows for some types, from six for others,
and these sum in another order. Which do is a matter of types, shapes and processors, so it is
tried out, once per sort of matrix, when weights are loaded. What comes of it is speed alone: the
bits of a generated row are always those of the one-row kernel, the bits of a prompt row always
those of the kernel for many rows.
"""

import ctypes as c
from dataclasses import dataclass

import numpy as np

from hearthring.protocol.tensors import F32 as States
from hearthring.shards.fingerprint import uniform
from hearthring.shards.ggml_library import F32, Ggml
from hearthring.shards.ggml_memory import Memory, Pointer, view
from hearthring.shards.ggml_weights import Matrix

MANY = 8
"""Prompt rows are padded to a multiple of this many where one kernel takes them all."""

_SIZES = (2, 3, 4, 5, 7, 8, 12, 16)
_PADDED = (8, 16, 24, 32, 64, 72)


@dataclass(frozen=True, slots=True)
class Batching:
    """What may be multiplied at once.

    ``any_size``: every batch gives each row the bits that it has alone. ``padded``: batches of
    a multiple of ``MANY`` rows all give a row the same bits.
    """

    any_size: bool
    padded: bool


_known: dict[tuple[object, ...], Batching] = {}


def try_batches(ggml: Ggml, matrix: Matrix, threads: int) -> Batching:
    """Multiply random rows in batches of many sizes and compare bits; tried once per process."""
    key = (ggml.path, matrix.sort, threads)
    if key not in _known:
        _known[key] = _try(ggml, matrix, threads)
    return _known[key]


def _try(ggml: Ggml, matrix: Matrix, threads: int) -> Batching:
    rows = uniform(5, (max(_PADDED), matrix.inner))
    first = rows[: max(_SIZES)]
    product = _Product(ggml, matrix, threads)
    alone = np.concatenate([product.run(first[i : i + 1]) for i in range(len(first))])
    if all(np.array_equal(product.run(first[-n:]), alone[-n:]) for n in _SIZES):
        whole = product.run(rows)
        if np.array_equal(whole[: len(first)], alone):
            return Batching(True, True)
    whole = product.run(rows)
    padded = all(np.array_equal(product.run(rows[-n:]), whole[-n:]) for n in _PADDED)
    return Batching(False, padded)


class _Product:
    def __init__(self, ggml: Ggml, matrix: Matrix, threads: int) -> None:
        self._ggml, self._matrix, self._threads = ggml, matrix, threads

    def run(self, rows: States) -> States:
        """``[n, inner]`` to ``[n, outer]``."""
        call, matrix, count = self._ggml.calls, self._matrix, len(rows)
        memory = Memory(self._ggml, 8, 8)
        given = call.ggml_new_tensor_2d(memory.context, F32, matrix.inner, count)
        call.ggml_set_input(given)
        out: Pointer = call.ggml_mul_mat(memory.context, matrix.tensor, given)
        call.ggml_set_output(out)
        graph = call.ggml_new_graph_custom(memory.context, 8, False)
        call.ggml_build_forward_expand(graph, out)
        allocator = call.ggml_gallocr_new(call.ggml_backend_cpu_buffer_type())
        backend = call.ggml_backend_cpu_init()
        try:
            if not call.ggml_gallocr_alloc_graph(allocator, graph):
                raise MemoryError("no memory for a product")
            call.ggml_backend_cpu_set_n_threads(backend, self._threads)
            view(call, given, c.c_float, count, matrix.inner)[:] = rows
            if call.ggml_backend_graph_compute(backend, graph) != 0:
                raise MemoryError("ggml failed to compute a product")
            return view(call, out, c.c_float, count, matrix.outer).copy()
        finally:
            call.ggml_backend_free(backend)
            call.ggml_gallocr_free(allocator)
