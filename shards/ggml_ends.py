"""The client's side of a model through ggml: weights where the file is mapped, nothing widened.

Rows keep their bits in any company, as in ``ggml_layer.py``: the norm sums a row by itself, and the
head is multiplied with many rows at once only where that was found to change nothing; otherwise,
and with few rows, as matrices of one row each, which share what the processor has cached of it.
"""

import hashlib
import weakref
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property, partial

import numpy as np
from gguf import GGMLQuantizationType
from numpy.typing import NDArray

from hearthring.protocol.errors import BadOption, BadShape
from hearthring.protocol.tensors import F32, Residual, pack, unpack
from hearthring.shards.ends import head_of
from hearthring.shards.engine import Numerics
from hearthring.shards.families import EMBEDDING, HEAD, NORM
from hearthring.shards.fingerprint import uniform
from hearthring.shards.ggml_check import quantised
from hearthring.shards.ggml_library import F32 as FLOAT
from hearthring.shards.ggml_library import Ggml, load_ggml
from hearthring.shards.ggml_memory import EVERYWHERE, Memory, Pointer
from hearthring.shards.ggml_products import try_batches
from hearthring.shards.ggml_rows import RowGraph
from hearthring.shards.ggml_weights import Matrix, Weights, check_type
from hearthring.shards.shape import Shape

TOGETHER = 16
"""Rows of one pass over the head: enough to pay for reading it, few enough for memory."""

APART = 5
"""So many rows are faster as matrices of one row each: kernels for several rows read a large head
at a third of the speed."""
BLOCK = 4
"""More of them are filled up to a multiple of this, which is what those kernels take at once."""

GRAPHS = 8
PROBE = 1024
"""Outputs of the head that decide how it may be multiplied, and of the fixed model's head. Those
beyond a multiple of it come on top, as kernels treat a remainder in ways of their own."""


class GgmlEnds:
    """Embedding, final norm and head of one model; see ``Ends`` for the contract.

    ``weights`` is an opened model file; its map must stay whole as long as this object lives.
    Raises ``EngineUnavailable`` when the library or a type isn't what it should be.
    """

    def __init__(
        self, weights: Weights, residual: Residual = Residual.BF16, threads: int = 1
    ) -> None:
        self._ggml = load_ggml()
        call = self._call = self._ggml.calls
        self.shape, self.residual, self.threads = weights.shape, residual, threads
        self._backend = call.ggml_backend_cpu_init()
        weakref.finalize(self, call.ggml_backend_free, self._backend)
        call.ggml_backend_cpu_set_n_threads(self._backend, threads)
        self._anywhere = call.ggml_backend_cpu_buffer_from_ptr(*EVERYWHERE)
        weakref.finalize(self, call.ggml_backend_buffer_free, self._anywhere)
        self._memory = Memory(self._ggml, 3)
        self._kind, dims, data = _checked(weights, EMBEDDING)
        self._embedding = data.reshape(dims[0], -1)
        kind, dims, self._factors = _checked(weights, NORM)
        self._norm = self._tensor(kind, dims, self._factors)
        self._head = self._matrix(*_checked(weights, head_of(self.shape)))
        self._together = try_batches(self._ggml, self._probe(), threads).any_size
        self._graphs: OrderedDict[tuple[str, int], RowGraph] = OrderedDict()

    @cached_property
    def numerics(self) -> Numerics:
        """The class of the ends, measured when first asked for."""
        kinds = {EMBEDDING: self._kind, NORM: FLOAT, HEAD: self._head.kind}
        words = [GGMLQuantizationType(kinds[name]).name.lower() for name in (EMBEDDING, HEAD)]
        name = f"ggml-{self._ggml.build}/{'+'.join(words)}/ends/{self.residual.value}"
        rows = probed(self.shape.vocabulary)
        shape = replace(self.shape, vocabulary=rows, tied_head=False)
        ends = GgmlEnds(_Fixed(self._ggml, shape, kinds), self.residual, self.threads)
        digest = hashlib.sha256(f"hearthring ggml ends 1 {self.residual.value}".encode())
        for count in (1, 3, 8, 16):
            states = ends.embed(range(count))
            normed = ends.norm(states)
            for array in (states, normed, ends.logits(normed)):
                digest.update(array.astype("<f4").tobytes())
        return Numerics(name, self.residual, digest.hexdigest())

    def embed(self, ids: Sequence[int]) -> F32:
        """Embeddings, as ``Ends.embed``."""
        index = np.asarray(ids, np.int64).reshape(-1)
        if len(index) and not (index.min() >= 0 and index.max() < self.shape.vocabulary):
            raise BadOption(f"token id outside 0 .. {self.shape.vocabulary - 1}", field="ids")
        count, width = len(index), self.shape.width
        packed = self._embedding[index]
        if self._kind == FLOAT:
            wide: F32 = packed.view(np.float32)
        else:
            wide = np.empty((count, width), np.float32)
            self._ggml.to_float(self._kind)(packed.ctypes.data, wide.ctypes.data, wide.size)
        if self.shape.embedding_scale != 1:
            wide = wide * np.float32(self.shape.embedding_scale)
        return unpack(pack(wide, self.residual), count, width, self.residual)

    def norm(self, states: F32) -> F32:
        """The final norm, as ``Ends.norm``."""
        return self._run("norm", self._rows(states), self.shape.width)

    def logits(self, normed: F32) -> F32:
        """Logits, as ``Ends.logits``."""
        rows = self._rows(np.atleast_2d(normed))
        count = len(rows)
        if self._together and count > APART:
            rows = np.pad(rows, ((0, -count % BLOCK), (0, 0)))
        out = self._run("head", rows, self._head.outer)
        return out[0] if normed.ndim == 1 else out[:count]

    def _rows(self, rows: F32) -> F32:
        if rows.ndim != 2 or rows.shape[1] != self.shape.width:
            raise BadShape(f"{rows.shape} for rows of {self.shape.width}", field="states")
        return rows

    def _run(self, what: str, rows: F32, outer: int) -> F32:
        done = [
            self._graph(what, len(some), outer).run(self._backend, some)
            for some in (rows[at : at + TOGETHER] for at in range(0, len(rows), TOGETHER))
        ]
        if len(done) == 1:
            return done[0]
        return np.concatenate(done) if done else np.empty((0, outer), np.float32)

    def _graph(self, what: str, rows: int, outer: int) -> RowGraph:
        """A kept graph, or a new one in place of that longest unused."""
        key = what, rows
        if key not in self._graphs:
            build = self._build_norm if what == "norm" else partial(self._build_head, rows)
            self._graphs[key] = RowGraph(self._ggml, rows, self.shape.width, outer, build)
        self._graphs.move_to_end(key)
        if len(self._graphs) > GRAPHS:
            self._graphs.popitem(last=False)
        return self._graphs[key]

    def _build_norm(self, at: Pointer, states: Pointer) -> Pointer:
        normed = self._call.ggml_rms_norm(at, states, self.shape.norm_epsilon)
        made: Pointer = self._call.ggml_mul(at, normed, self._norm)
        return made

    def _build_head(self, rows: int, at: Pointer, normed: Pointer) -> Pointer:
        call, head = self._call, self._head
        if rows <= APART or not self._together:
            normed = call.ggml_reshape_3d(at, normed, head.inner, 1, rows)
        made: Pointer = call.ggml_mul_mat(at, head.tensor, normed)
        if cap := self.shape.final_cap:
            made = call.ggml_scale(at, call.ggml_tanh(at, call.ggml_scale(at, made, 1 / cap)), cap)
        return made

    def _tensor(self, kind: int, dims: tuple[int, ...], data: NDArray[np.uint8]) -> Pointer:
        new = getattr(self._call, f"ggml_new_tensor_{len(dims)}d")
        tensor: Pointer = new(self._memory.context, kind, *reversed(dims))
        self._call.ggml_backend_tensor_alloc(self._anywhere, tensor, data.ctypes.data)
        return tensor

    def _matrix(self, kind: int, dims: tuple[int, ...], data: NDArray[np.uint8]) -> Matrix:
        return Matrix(self._tensor(kind, dims, data), kind, dims[0], dims[1], data)

    def _probe(self) -> Matrix:
        """The first outputs of the head."""
        head, rows = self._head, probed(self._head.outer)
        few = head.data[: head.data.nbytes // head.outer * rows]
        return self._matrix(head.kind, (rows, head.inner), few)


class _Fixed:
    """The ends' weights of the fingerprint, in a model's types."""

    def __init__(self, ggml: Ggml, shape: Shape, kinds: dict[str, int]) -> None:
        self.shape = shape
        self._ggml, self._kinds = ggml, kinds

    def raw(self, name: str) -> tuple[int, tuple[int, ...], NDArray[np.uint8]]:
        width = self.shape.width
        size = (width,) if name == NORM else (self.shape.vocabulary, width)
        values = uniform(list(self._kinds).index(name) + 1, size)
        return self._kinds[name], size, quantised(self._ggml, self._kinds[name], values)

    def kind(self, name: str) -> int:
        return self._kinds[name]


def probed(outer: int) -> int:
    """How many outputs of so many are tried."""
    return min(outer, PROBE + outer % PROBE)


def _checked(weights: Weights, name: str) -> tuple[int, tuple[int, ...], NDArray[np.uint8]]:
    kind, dims, data = weights.raw(name)
    check_type(name, kind, len(dims))
    return kind, dims, data
