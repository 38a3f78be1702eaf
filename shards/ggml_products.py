"""How a weight matrix may be multiplied with many rows so that each row keeps its own bits.

ggml goes over to other kernels as a batch grows, from two rows for some types, from six for others,
and these sum in another order. Which do is a matter of types, shapes and processors, so it is
tried out, once per sort of matrix, when weights are loaded. What comes of it is speed alone: the
bits of a generated row are always those of the one-row kernel, the bits of a prompt row always
those of the kernel for many rows.
"""

from dataclasses import dataclass

import numpy as np

from hearthring.protocol.tensors import F32 as States
from hearthring.shards.fingerprint import uniform
from hearthring.shards.ggml_library import Ggml
from hearthring.shards.ggml_memory import Pointer
from hearthring.shards.ggml_rows import RowGraph
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
    backend = ggml.calls.ggml_backend_cpu_init()
    ggml.calls.ggml_backend_cpu_set_n_threads(backend, threads)

    def product(given: States) -> States:
        def build(at: Pointer, operand: Pointer) -> Pointer:
            made: Pointer = ggml.calls.ggml_mul_mat(at, matrix.tensor, operand)
            return made

        graph = RowGraph(ggml, len(given), matrix.inner, matrix.outer, build)
        return graph.run(backend, given)

    try:
        alone = np.concatenate([product(first[i : i + 1]) for i in range(len(first))])
        if all(np.array_equal(product(first[-n:]), alone[-n:]) for n in _SIZES):
            whole = product(rows)
            if np.array_equal(whole[: len(first)], alone):
                return Batching(True, True)
        whole = product(rows)
        padded = all(np.array_equal(product(rows[-n:]), whole[-n:]) for n in _PADDED)
        return Batching(False, padded)
    finally:
        ggml.calls.ggml_backend_free(backend)
