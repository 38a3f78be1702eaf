"""Weights as ggml tensors over the bytes of a model file, without a copy of them."""

import ctypes as c
import weakref
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from hearthring.protocol.errors import EngineUnavailable
from hearthring.shards.families import layer_parts
from hearthring.shards.ggml_library import F32, Ggml
from hearthring.shards.ggml_memory import EVERYWHERE, Memory, Pointer
from hearthring.shards.ggml_packing import Packing
from hearthring.shards.shape import Shape

PROBED = 256
"""Outputs of an expert that its kernels are tried on, and those beyond a multiple of it on top, as
kernels treat a remainder in ways of their own."""

Sort = tuple[int, int, int, bool]
"""Type, outputs, inputs, and whether packed: all that the kernels of a matrix depend on."""


class Weights(Protocol):
    """Where tensors come from: a ``GgufFile``, or anything that looks alike."""

    @property
    def shape(self) -> Shape:
        """The model's shape."""

    def raw(self, name: str) -> tuple[int, tuple[int, ...], NDArray[np.uint8]]:
        """ggml type, row-major shape and bytes."""

    def kind(self, name: str) -> int:
        """ggml type; known of tensors too whose bytes aren't here."""


JOINED = (
    ("ffn_gate.weight", "ffn_up.weight"),
    ("attn_q.weight", "attn_k.weight", "attn_v.weight"),
    ("attn_q.weight", "attn_v.weight"),
)
"""Matrices with one operand. Packed ones lie one behind the other, those of some files too."""


@dataclass(frozen=True, slots=True)
class Matrix:
    """A weight matrix, ``outer`` outputs of ``inner`` inputs each."""

    tensor: Pointer
    kind: int
    outer: int
    inner: int
    data: NDArray[np.uint8]
    """The bytes of the file, whatever ``tensor`` points to."""

    packed: bool = False
    """Whether ``tensor`` lies in ggml's interleaved layout."""

    @property
    def sort(self) -> Sort:
        """All that its kernels depend on."""
        return self.kind, self.outer, self.inner, self.packed


@dataclass(frozen=True, slots=True)
class Experts:
    """Matrices of as many experts in one ``tensor``. ``probe`` is the first ``probed`` outputs of
    the first of them, to try kernels on; ``anywhere`` a buffer that vouches for any memory."""

    tensor: Pointer
    kind: int
    inner: int
    probe: Pointer
    probed: int
    anywhere: Pointer


class LoadedWeights:
    """Tensors of some layers by GGUF name: ``vectors``, ``matrices``, and ``experts``, matrices
    of which there are several in one tensor. ``factors``: those of layers' rotations.

    Nothing is copied, unless ``repack`` asks for ggml's interleaved layout, which is made for
    the types that have one: in memory of their own, as large as in the file.

    Raises ``EngineUnavailable`` for a type that no kernel here takes.
    """

    def __init__(
        self,
        ggml: Ggml,
        weights: Weights,
        start: int,
        end: int,
        progress: Callable[[int, int], None] | None,
        repack: bool = False,
    ) -> None:
        call = ggml.calls
        # One buffer over the whole address space: it only vouches that addresses are memory of
        # the CPU, which those of maps and caches are.
        self.anywhere = call.ggml_backend_cpu_buffer_from_ptr(*EVERYWHERE)
        weakref.finalize(self, call.ggml_backend_buffer_free, self.anywhere)
        shape = weights.shape
        parts = layer_parts(shape)
        self._memory = Memory(ggml, (end - start) * (len(parts) + 5))
        self._packing = packing = None
        if repack:
            names = (f"blk.{layer}.{part}" for layer in range(start, end) for part in parts)
            self._packing = packing = Packing(ggml, map(weights.raw, names))
        self._bytes: list[NDArray[np.uint8]] = []  # tensors point into them
        self.vectors: dict[str, Pointer] = {}
        self.matrices: dict[str, Matrix] = {}
        self.joined: dict[str, Matrix] = {}
        """By the name of the first, matrices that lie one behind the other, as one."""
        self.experts: dict[str, Experts] = {}
        self.factors: dict[tuple[float, ...], Pointer] = {}

        def tensor_over(kind: int, dims: tuple[int, ...], data: NDArray[Any]) -> Pointer:
            new = getattr(call, f"ggml_new_tensor_{len(dims)}d")
            tensor: Pointer = new(self._memory.context, kind, *reversed(dims))
            call.ggml_backend_tensor_alloc(self.anywhere, tensor, data.ctypes.data)
            self._bytes.append(data)
            return tensor

        for layer in range(start, end):
            for part in parts:
                name = f"blk.{layer}.{part}"
                kind, dims, data = weights.raw(name)
                check_type(name, kind, len(dims))
                if packing is not None and packing.takes(kind, dims):
                    self._bytes.append(data)
                    tensor = packing.pack(kind, dims, data)
                    self.matrices[name] = Matrix(tensor, kind, dims[0], dims[1], data, True)
                    continue
                tensor = tensor_over(kind, dims, data)
                if len(dims) == 1:
                    self.vectors[name] = tensor
                elif len(dims) == 2:
                    self.matrices[name] = Matrix(tensor, kind, dims[0], dims[1], data)
                else:
                    few = min(dims[1], PROBED + dims[1] % PROBED)
                    probe = tensor_over(kind, (1, few, dims[2]), data)
                    self.experts[name] = Experts(tensor, kind, dims[2], probe, few, self.anywhere)
            for run in JOINED:
                self._join(call, [f"blk.{layer}.{part}" for part in run])
            factors = shape.rope(layer).factors
            if factors and factors not in self.factors:
                held = np.array(factors, np.float32)
                self.factors[factors] = tensor_over(F32, held.shape, held)
            if progress is not None:
                progress(layer + 1 - start, end - start)

    def _join(self, call: c.CDLL, names: list[str]) -> None:
        found = [self.matrices[name] for name in names if name in self.matrices]
        if len(found) < len(names) or names[0] in self.joined:
            return
        first = found[0]
        behind = call.ggml_get_data(first.tensor)
        for matrix in found:
            if call.ggml_get_data(matrix.tensor) != behind:
                return
            if (matrix.kind, matrix.inner, matrix.packed) != (
                first.kind,
                first.inner,
                first.packed,
            ):
                return
            behind += matrix.data.nbytes
        outer = sum(matrix.outer for matrix in found)
        if self._packing is not None and first.packed:
            tensor = self._packing.over(first.tensor, first.kind, (outer, first.inner))
        else:
            tensor = call.ggml_new_tensor_2d(self._memory.context, first.kind, first.inner, outer)
            call.ggml_backend_tensor_alloc(self.anywhere, tensor, call.ggml_get_data(first.tensor))
        self.joined[names[0]] = replace(first, tensor=tensor, outer=outer)


def check_type(name: str, kind: int, dimensions: int) -> None:
    """Raise ``EngineUnavailable`` for a tensor of a type that is never used for such."""
    # F32, F16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K to Q6_K, IQ4_NL, BF16
    known = {0, 1, 2, 3, 6, 7, 8, 10, 11, 12, 13, 14, 20, 30} if dimensions > 1 else {0}
    if kind not in known:
        raise EngineUnavailable(
            f"tensor {name!r} is of ggml type {kind}", field="engine", mend="use the torch engine"
        )
