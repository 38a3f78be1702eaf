"""Prompt rows times weights in float32: widened piece by piece, multiplied by numpy's BLAS.

On processors whose 8-bit products are slow this is the fastest way through a prompt, and the most
exact: activations stay in float32. A BLAS rounds by the shape of its operands, so each product here
has the shape of its own: a prompt row lies at index ``position % BLOCK`` of a block of zeros, and
outputs are cut into pieces that depend on the matrix alone. Threads share out the pieces and call
a BLAS of one thread each. Where larger or smaller groups of rows turn out to give the same bits,
they are used in place of whole blocks.
"""

import ctypes as c
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
from threadpoolctl import ThreadpoolController

from hearthring.protocol.tensors import F32
from hearthring.shards.fingerprint import uniform
from hearthring.shards.ggml_library import F32 as FLOAT
from hearthring.shards.ggml_library import Ggml
from hearthring.shards.ggml_memory import Pointer, view
from hearthring.shards.ggml_weights import Matrix

BLOCK = 48
"""Rows of the product that defines a prompt row's bits."""

PIECE = 256
"""Outputs in a piece, at most."""

_GROUPS = (4, 8, 12, 16, 24, 48)  # divisors of BLOCK
_ALL_THREADS = -1  # GGML_N_TASKS_MAX

_Custom = c.CFUNCTYPE(None, c.c_void_p, c.c_int, c.c_int, c.c_void_p)


def cut(outer: int) -> list[tuple[int, int]]:
    """Pieces ``(low, high)`` of a matrix's outputs, an even number of them where possible."""
    count = min(outer, 2 * -(-outer // (2 * PIECE)))
    edges = [outer * i // count for i in range(count + 1)]
    return list(pairwise(edges))


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the rows of a pass lie in the operand: ``(first, count, index)`` per session."""

    rows: int
    spans: tuple[tuple[int, int, int], ...]

    @property
    def plain(self) -> bool:
        """Whether the rows of the pass are the operand as they are."""
        ordered = all(first == index for first, _, index in self.spans)
        return ordered and self.rows == sum(count for _, count, _ in self.spans)


def arrange(chains: Iterable[tuple[int, int]], group: int) -> Layout:
    """The layout of chains of rows, ``(first position, rows)``: each row's index is its position,
    modulo ``group``. Short chains share a group where their indices differ."""
    spans, shared = [], dict[int, set[int]]()
    first = rows = 0
    for position, count in chains:
        lead = position % group
        taken = set(range(lead, lead + count))
        if lead + count > group:
            at, rows = rows, rows + -(-(lead + count) // group) * group
        else:
            at = next((at for at, held in shared.items() if not held & taken), rows)
            rows = max(rows, at + group)
            shared[at] = shared.get(at, set()) | taken
        spans.append((first, count, at + lead))
        first += count
    return Layout(rows, tuple(spans))


class Widener:
    """Matrices in float32: those that fit into ``budget`` bytes are kept, the others are widened
    a piece at a time whenever they are used.

    What is kept lies ``turned``, input by input, if the BLAS gives equal bits then: it copies
    weights into panels before it multiplies, and so the copy goes along the memory.
    """

    def __init__(
        self, ggml: Ggml, matrices: Iterable[Matrix], budget: int, turned: bool = False
    ) -> None:
        self._ggml = ggml
        self._functions: dict[int, Any] = {}
        self._kept: dict[tuple[Pointer, int], F32] = {}
        self.bytes = 0
        """What kept matrices take."""
        for matrix in matrices:
            size = 4 * matrix.outer * matrix.inner
            if matrix.kind != FLOAT and self.bytes + size <= budget:
                self.bytes += size
                for low, high in cut(matrix.outer):
                    wide = np.empty((high - low, matrix.inner), np.float32)
                    operand = self.widen(matrix, low, high, wide).T
                    self._kept[matrix.tensor, low] = operand.copy() if turned else operand

    def piece(self, matrix: Matrix, low: int, high: int, scratch: "Scratch") -> F32:
        """A piece of ``cut``: what gives outputs ``low`` to ``high``, ``[inner, high - low]``."""
        if matrix.kind == FLOAT:
            whole: F32 = matrix.data.view(np.float32).reshape(matrix.outer, matrix.inner)
            return whole[low:high].T
        kept = self._kept.get((matrix.tensor, low))
        if kept is not None:
            return kept
        return self.widen(matrix, low, high, scratch.array("weight", high - low, matrix.inner)).T

    def widen(self, matrix: Matrix, low: int, high: int, out: F32) -> F32:
        """Outputs ``low`` to ``high``, dequantised into ``out``, ``[high - low, inner]``."""
        row = matrix.data.nbytes // matrix.outer
        address = matrix.data.ctypes.data + low * row
        self._function(matrix.kind)(address, out.ctypes.data, (high - low) * matrix.inner)
        return out

    def _function(self, kind: int) -> Any:
        if kind not in self._functions:
            self._functions[kind] = self._ggml.to_float(kind)
        return self._functions[kind]


@dataclass(slots=True)
class Scratch:
    """Arrays of one thread, used again and again."""

    _held: dict[str, F32] = field(default_factory=dict)

    def array(self, name: str, rows: int, columns: int) -> F32:
        """``[rows, columns]``, of whatever values."""
        held = self._held.get(name)
        if held is None or held.size < rows * columns:
            held = self._held[name] = np.empty(rows * columns, np.float32)
        return held[: rows * columns].reshape(rows, columns)


class Blas:
    """numpy's BLAS: its name, which groups of rows it gives equal bits, and whether it does so
    for weights that lie ``turned``, too."""

    def __init__(self, sorts: Iterable[tuple[int, int]]) -> None:
        self._pools = ThreadpoolController().select(user_api="blas")
        self.name = _name(self._pools.info())
        with self.alone():
            sizes = {(inner, high - low) for outer, inner in sorts for low, high in cut(outer)}
            self.group, self.whole, self.turned = _group(tuple(sorted(sizes)))

    def alone(self) -> AbstractContextManager[Any]:
        """While this is held, a call of the BLAS is computed by its caller alone."""
        limit: AbstractContextManager[Any] = self._pools.limit(limits=1)
        return limit

    def multiply(self, rows: F32, weight: F32, out: F32) -> None:
        """``[n, inner]`` times ``[inner, outer]`` to ``[n, outer]``; n is a multiple of
        ``group``."""
        step = len(rows) if self.whole else BLOCK
        for low in range(0, len(rows), step):
            np.matmul(rows[low : low + step], weight, out=out[low : low + step])


def _name(pools: Sequence[dict[str, Any]]) -> str:
    """Such as ``openblas-0.3.31-Zen``, of numpy's own library if there are several."""
    ours = [pool for pool in pools if "numpy" in str(pool["filepath"])] or list(pools)
    if not ours:
        return "blas"
    parts = (ours[0].get(key) for key in ("internal_api", "version", "architecture"))
    return "-".join(str(part).replace("/", "_") for part in parts if part)


Grouping = tuple[int, bool, bool]
_groups: dict[object, Grouping] = {}


def _group(sizes: tuple[tuple[int, int], ...]) -> Grouping:
    """The smallest group of rows whose multiples, wherever they begin, give every row the bits
    that it has in its block of ``BLOCK``; whether blocks may be multiplied together; and whether
    weights may lie turned, for which a larger group is taken if it must be."""
    if sizes not in _groups:
        kept = (
            (group, True, turned)
            for turned in (True, False)
            for group in _GROUPS
            if all(_keeps(group, *size, turned) for size in sizes)
        )
        _groups[sizes] = next(kept, (BLOCK, False, False))
    return _groups[sizes]


def _keeps(group: int, inner: int, outer: int, turned: bool) -> bool:
    rows, plain = uniform(1, (4 * BLOCK, inner)), uniform(2, (outer, inner)).T
    blocks = np.concatenate([rows[at : at + BLOCK] @ plain for at in range(0, len(rows), BLOCK)])
    layouts = [plain, plain.copy()] if turned else [plain]
    return all(
        np.array_equal(rows[first : first + count] @ weight, blocks[first : first + count])
        for weight in layouts
        for count in (group, 2 * group, 3 * group, 96, 96 + group, 144)
        for first in (0, group, 48 - group, 48)
    )


class WideProducts:
    """The products of one graph: nodes that call back into this object."""

    def __init__(self, ggml: Ggml, blas: Blas, widener: Widener) -> None:
        self._call, self._blas, self._widener = ggml.calls, blas, widener
        self._callback = _Custom(self._run)
        self._nodes: list[tuple[Matrix, Pointer, Pointer]] = []
        self._views: list[tuple[F32, F32]] = []
        self._scratch: dict[int, Scratch] = {}
        self._layout = Layout(0, ())
        self._error: BaseException | None = None

    def node(self, context: Pointer, matrix: Matrix, state: Pointer, rows: int) -> Pointer:
        """A tensor ``[rows, outer]`` that will hold the product of ``state``."""
        arguments = (c.c_void_p * 1)(state)
        out: Pointer = self._call.ggml_custom_4d(
            *(context, FLOAT, matrix.outer, rows, 1, 1, arguments, 1),
            *(c.cast(self._callback, c.c_void_p), _ALL_THREADS, len(self._nodes)),
        )
        self._nodes.append((matrix, state, out))
        return out

    def bind(self, rows: int) -> None:
        """Find the operands, once the graph is allocated."""
        self._views = [
            (
                view(self._call, state, c.c_float, rows, matrix.inner),
                view(self._call, out, c.c_float, rows, matrix.outer),
            )
            for matrix, state, out in self._nodes
        ]

    def compute(self, chains: Iterable[tuple[int, int]], run: Any) -> int:
        """Call ``run``, which computes the graph, for chains ``(first position, rows)``."""
        self._layout = arrange(chains, self._blas.group)
        self._error = None
        with self._blas.alone():
            status: int = run()
        if self._error is not None:
            raise self._error
        return status

    def _run(self, tensor: int, thread: int, threads: int, node: int | None) -> None:
        try:
            scratch = self._scratch.setdefault(thread, Scratch())
            self._multiply(node or 0, thread, threads, scratch)
        except BaseException as error:  # none can pass through C, Ctrl-C's neither
            self._error = error

    def _multiply(self, node: int, thread: int, threads: int, scratch: Scratch) -> None:
        matrix = self._nodes[node][0]
        given, out = self._views[node]
        layout = self._layout
        pieces = cut(matrix.outer)[thread::threads]
        if not layout.plain and pieces:
            padded = scratch.array("given", layout.rows, matrix.inner)
            padded.fill(0)
            for first, count, index in layout.spans:
                padded[index : index + count] = given[first : first + count]
            given = padded
        for low, high in pieces:
            weight = self._widener.piece(matrix, low, high, scratch)
            if layout.plain:
                self._blas.multiply(given, weight, out[:, low:high])
                continue
            product = scratch.array("out", layout.rows, high - low)
            self._blas.multiply(given, weight, product)
            for first, count, index in layout.spans:
                out[first : first + count, low:high] = product[index : index + count]
