"""Weights that no file holds: fixed ones for fingerprints, and float32 ones from a function."""

from collections.abc import Callable

import numpy as np
from gguf import GGMLQuantizationType
from numpy.typing import NDArray

from hearthring.protocol.tensors import F32
from hearthring.shards.ggml_library import Ggml
from hearthring.shards.shape import Shape


class FixedWeights:
    """The fingerprint's weights in types of a model: ``kinds`` by name, as in ``layer_parts``."""

    def __init__(
        self, ggml: Ggml, load: Callable[[str], F32], shape: Shape, kinds: dict[str, int]
    ) -> None:
        self.shape = shape
        self._ggml, self._load, self._kinds = ggml, load, kinds

    def raw(self, name: str) -> tuple[int, tuple[int, ...], NDArray[np.uint8]]:
        """Quantised by ggml itself, as for K types there is no other quantiser."""
        values, kind = self._load(name), self._kinds[name.split(".", 2)[2]]
        return kind, values.shape, quantised(self._ggml, kind, values)

    def kind(self, name: str) -> int:
        """The type that was asked for."""
        return self._kinds[name.split(".", 2)[2]]


def quantised(ggml: Ggml, kind: int, values: F32) -> NDArray[np.uint8]:
    """A tensor's bytes in a type of ggml's. Rows must be whole blocks of it."""
    values = np.ascontiguousarray(values, np.float32)
    if kind == GGMLQuantizationType.F32:
        return values.reshape(-1).view(np.uint8)
    out = np.empty(values.nbytes, np.uint8)
    used = ggml.calls.ggml_quantize_chunk(
        *(kind, values.ctypes.data, out.ctypes.data, 0),
        *(values.size // values.shape[-1], values.shape[-1], None),
    )
    return out[:used].copy()


class WideWeights:
    """float32 weights that a function gives by GGUF name."""

    def __init__(self, load: Callable[[str], F32], shape: Shape) -> None:
        self.shape, self._load = shape, load

    def raw(self, name: str) -> tuple[int, tuple[int, ...], NDArray[np.uint8]]:
        """The tensor as ``GgufFile.raw`` gives one of type F32."""
        values = np.ascontiguousarray(self._load(name), np.float32)
        return int(GGMLQuantizationType.F32), values.shape, values.reshape(-1).view(np.uint8)

    def kind(self, name: str) -> int:
        """F32, whatever the name."""
        return int(GGMLQuantizationType.F32)
