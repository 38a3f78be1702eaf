"""What tells a broken kernel: one layer in plain numpy, and layers of fixed weights."""

from collections.abc import Callable

import numpy as np
from gguf import GGMLQuantizationType
from gguf.quants import dequantize
from numpy.typing import NDArray

from hearthring.protocol.errors import EngineUnavailable, ResidualOverflow
from hearthring.protocol.tensors import F32, Residual, pack, unpack
from hearthring.shards.engine import Engine, EngineRow, Kind, Segment
from hearthring.shards.fingerprint import uniform
from hearthring.shards.ggml_library import Ggml
from hearthring.shards.ggml_weights import Weights
from hearthring.shards.shape import Shape

TOLERANCE = 0.05
"""Relative error of what a layer adds to the residual. Activations of 8 bits and keys of fp16 give
about 0.01; kernels that were wrong gave 0.4 and more."""

_SLAB = 1 << 20  # weights widened at a time
_PATHS = ((0,), (0, 1), (0, 1, 2), (0, 1, 2, 3), (0, 1, 2, 5), (0, 1, 2, 5, 6))


def check_layer(
    weights: Weights, layer: int, residual: Residual, make: Callable[[Residual], Engine]
) -> None:
    """Run a small tree through a layer and compare; ``make`` gives an engine of that layer alone.

    Raises ``EngineUnavailable``.
    """
    shape = weights.shape
    states = uniform(7, (len(_PATHS), shape.width))
    rows = tuple(
        EngineRow(
            Kind.PROMPT if len(path) < 4 else Kind.GENERATED,
            len(path) - 1,
            path[-1],
            np.array(path, np.int64),
        )
        for path in _PATHS
    )

    def run(kind: Residual) -> F32:
        engine = make(kind)
        return engine.forward((Segment(engine.new_cache(8), rows),), states)[0]

    wanted, error, rounds = reference_layer(weights, layer, states), float("inf"), True
    try:
        wide = run(Residual.FP32)
        error = float(np.linalg.norm(wide - wanted) / np.linalg.norm(wanted - states))
        if np.abs(wide).max() < 60_000:  # what fp16 can't hold says nothing about kernels
            rounded = unpack(pack(wide, residual), len(states), shape.width, residual)
            rounds = np.array_equal(run(residual), rounded)
    except ResidualOverflow:
        rounds = False
    if not (error <= TOLERANCE and rounds):
        raise EngineUnavailable(
            f"ggml gets layer {layer} wrong on this machine (relative error {error:.2g})",
            field="engine",
            mend="use the torch engine",
        )


def reference_layer(weights: Weights, layer: int, states: F32) -> F32:
    """One layer on the rows of ``_PATHS`` in float32, weights widened."""
    shape, blk = weights.shape, f"blk.{layer}."
    positions = np.array([len(path) - 1 for path in _PATHS])
    row_of = {path[-1]: row for row, path in enumerate(_PATHS)}

    def norm(values: F32, part: str) -> F32:
        scale = np.sqrt(np.mean(values * values, 1, keepdims=True) + shape.norm_epsilon)
        out: F32 = values / scale * weights.raw(blk + part + ".weight")[2].view(np.float32)
        return out

    def times(values: F32, part: str) -> F32:
        return _product(weights, blk + part + ".weight", values)

    normed = norm(states, "attn_norm")
    q, k, v = (
        times(normed, part).reshape(len(states), -1, shape.head_width)
        for part in ("attn_q", "attn_k", "attn_v")
    )
    q, k = (_rotated(part, positions, shape) for part in (q, k))
    mixed = np.empty_like(q)
    for row, path in enumerate(_PATHS):
        seen = [row_of[slot] for slot in path]
        for head in range(shape.heads):
            of = head * shape.kv_heads // shape.heads
            score = k[seen, of] @ q[row, head] * np.float32(shape.head_width**-0.5)
            share = np.exp(score - score.max())
            mixed[row, head] = (share / share.sum()) @ v[seen, of]
    states = states + times(mixed.reshape(len(states), -1), "attn_output")
    normed = norm(states, "ffn_norm")
    gate = times(normed, "ffn_gate")
    out: F32 = states + times(gate / (1 + np.exp(-gate)) * times(normed, "ffn_up"), "ffn_down")
    return out


def _product(weights: Weights, name: str, values: F32) -> F32:
    """Rows times a matrix of the file, of which only a slab is ever widened."""
    kind, shape, data = weights.raw(name)
    packed = data.reshape(shape[0], -1)
    step = max(1, _SLAB // shape[1])
    slabs = [
        values @ dequantize(packed[low : low + step], GGMLQuantizationType(kind)).T
        for low in range(0, shape[0], step)
    ]
    return np.concatenate(slabs, 1).astype(np.float32, copy=False)


def _rotated(heads: F32, positions: NDArray[np.int64], shape: Shape) -> F32:
    half = shape.head_width // 2
    angle = positions[:, None, None] * shape.rope_base ** -(np.arange(half) / half)
    pairs = (slice(0, None, 2), slice(1, None, 2))
    if not shape.interleaved_rope:
        pairs = (slice(0, half), slice(half, None))
    one, other = (heads[..., pair] for pair in pairs)
    out = np.empty_like(heads)
    out[..., pairs[0]] = one * np.cos(angle) - other * np.sin(angle)
    out[..., pairs[1]] = one * np.sin(angle) + other * np.cos(angle)
    return out


class FixedWeights:
    """The fingerprint's weights in a model's own types (``kinds`` by part of a layer)."""

    def __init__(
        self, ggml: Ggml, load: Callable[[str], F32], shape: Shape, kinds: dict[str, int]
    ) -> None:
        self.shape = shape
        self._ggml, self._load, self._kinds = ggml, load, kinds

    def raw(self, name: str) -> tuple[int, tuple[int, ...], NDArray[np.uint8]]:
        """Quantised by ggml itself, as for K types there is no other quantiser."""
        values = np.ascontiguousarray(self._load(name), np.float32)
        kind = self._kinds[name.split(".")[2]]
        if kind == GGMLQuantizationType.F32:
            return kind, values.shape, values.reshape(-1).view(np.uint8)
        out = np.empty(values.nbytes, np.uint8)
        used = self._ggml.calls.ggml_quantize_chunk(
            kind, values.ctypes.data, out.ctypes.data, 0, *values.shape, None
        )
        return kind, values.shape, out[:used].copy()

    def kind(self, name: str) -> int:
        """The type that was asked for."""
        return self._kinds[name.split(".")[2]]


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
