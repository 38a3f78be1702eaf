"""How a weight matrix may be multiplied with many rows so that each row keeps its own bits.

ggml goes over to other kernels as a batch grows, from two rows for some types, from six for others,
and these sum in another order. Which do is a matter of types, shapes and processors, so it is
tried out, once per sort of matrix, when weights are loaded. What comes of it is speed alone: the
bits of a generated row are always those of the one-row kernel, the bits of a prompt row always
those of the kernel for many rows.
"""

import weakref
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np

from hearthring.protocol.tensors import F32 as States
from hearthring.shards.fingerprint import uniform
from hearthring.shards.ggml_library import I32, Ggml
from hearthring.shards.ggml_memory import Pointer
from hearthring.shards.ggml_rows import RowGraph
from hearthring.shards.ggml_weights import Experts, Matrix

MANY = 8
"""Prompt rows are padded to a multiple of this many where one kernel takes them all."""

ANY = 1 << 30
"""As many rows of an expert as there are."""

_SIZES = (2, 3, 4, 5, 7, 8, 12, 16)
_EXPERT_SIZES = {ANY: (2, 3, 4, 7, 8, 9, 16, 31, 64), 7: range(2, 8), 3: (2, 3)}
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
    def build(at: Pointer, operand: Pointer, rows: int) -> Pointer:
        made: Pointer = ggml.calls.ggml_mul_mat(at, matrix.tensor, operand)
        return made

    rows = uniform(5, (max(_PADDED), matrix.inner))
    first = rows[: max(_SIZES)]
    product = _Products(ggml, matrix.outer, build, threads)
    alone = np.concatenate([product(first[i : i + 1]) for i in range(len(first))])
    whole = product(rows)
    if all(np.array_equal(product(first[-n:]), alone[-n:]) for n in _SIZES) and np.array_equal(
        whole[: len(first)], alone
    ):
        return Batching(True, True)
    padded = all(np.array_equal(product(rows[-n:]), whole[-n:]) for n in _PADDED)
    return Batching(False, padded)


_known_experts: dict[tuple[object, ...], int] = {}


def try_experts(ggml: Ggml, experts: Experts, threads: int) -> int:
    """How many rows one product of experts may have at most, so that each has the bits that it has
    alone even if all go to one expert: ``ANY``, or few. Tried once per process and sort."""
    key = (ggml.path, experts.kind, experts.inner, experts.probed, threads)
    if key not in _known_experts:
        _known_experts[key] = _try_experts(ggml, experts, threads)
    return _known_experts[key]


def _try_experts(ggml: Ggml, experts: Experts, threads: int) -> int:
    call, chosen = ggml.calls, np.zeros(max(_EXPERT_SIZES[ANY]), np.int32)

    def build(at: Pointer, operand: Pointer, rows: int) -> Pointer:
        ids = call.ggml_new_tensor_2d(at, I32, 1, rows)
        call.ggml_backend_tensor_alloc(experts.anywhere, ids, chosen.ctypes.data)
        each = call.ggml_reshape_3d(at, operand, experts.inner, 1, rows)
        made: Pointer = call.ggml_mul_mat_id(at, experts.probe, each, ids)
        return made

    rows = uniform(6, (len(chosen), experts.inner))
    product = _Products(ggml, experts.probed, build, threads)
    alone = np.concatenate([product(rows[i : i + 1]) for i in range(len(rows))])
    for most, sizes in _EXPERT_SIZES.items():
        if all(np.array_equal(product(rows[:n]), alone[:n]) for n in sizes):
            return most
    return 1


class _Build(Protocol):
    def __call__(self, at: Pointer, operand: Pointer, rows: int) -> Pointer: ...


class _Products:
    """Products of rows with one tensor, on a backend of their own."""

    def __init__(self, ggml: Ggml, outer: int, build: "_Build", threads: int) -> None:
        self._ggml, self._outer, self._build = ggml, outer, build
        self._backend = ggml.calls.ggml_backend_cpu_init()
        weakref.finalize(self, ggml.calls.ggml_backend_free, self._backend)
        ggml.calls.ggml_backend_cpu_set_n_threads(self._backend, threads)

    def __call__(self, rows: States) -> States:
        count, inner = rows.shape
        build = partial(self._build, rows=count)
        graph = RowGraph(self._ggml, count, inner, self._outer, build)
        return graph.run(self._backend, rows)
