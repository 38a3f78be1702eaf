"""One layer of any family in plain numpy and float32: slow, short, and what engines are held to."""

from typing import TYPE_CHECKING

import numpy as np
from gguf import GGMLQuantizationType
from gguf.quants import dequantize
from numpy.typing import NDArray

from hearthring.protocol.tensors import F32
from hearthring.shards.families import Activation, Family, family
from hearthring.shards.shape import Rope

if TYPE_CHECKING:
    from hearthring.shards.ggml_weights import Weights

Path = tuple[int, ...]
"""Slots of a row's ancestors and of itself."""

_SLAB = 1 << 20  # weights widened at a time


def reference_layer(weights: "Weights", layer: int, paths: tuple[Path, ...], states: F32) -> F32:
    """What layer ``layer`` makes of ``states``, one row per path, in order of ``paths``.

    Every slot in a path ends the path of some row.
    """
    return _Reference(weights, layer, paths).run(states)


class _Reference:
    def __init__(self, weights: "Weights", layer: int, paths: tuple[Path, ...]) -> None:
        self._weights, self._at, self._paths = weights, f"blk.{layer}.", paths
        self._shape = weights.shape
        self._kind: Family = family(self._shape.architecture)
        self._window, self._rope = self._shape.window(layer), self._shape.rope(layer)

    def run(self, states: F32) -> F32:
        kind = self._kind
        mixed = self._times(self._attended(self._norm(states, "attn_norm")), "attn_output")
        states = states + (self._norm(mixed, "post_attention_norm") if kind.post_norms else mixed)
        normed = self._norm(states, "ffn_norm")
        added = self._experts(normed) if self._shape.experts else self._gated(normed)
        return states + (self._norm(added, "post_ffw_norm") if kind.post_norms else added)

    def _attended(self, normed: F32) -> F32:
        shape = self._shape
        q, k, v = self._qkv(normed)
        if self._kind.head_norms:
            q, k = self._norm(q, "attn_q_norm"), self._norm(k, "attn_k_norm")
        positions = np.array([len(path) - 1 for path in self._paths])
        q, k = (rotated(part, positions, self._rope) for part in (q, k))
        row_of = {path[-1]: row for row, path in enumerate(self._paths)}
        mixed = np.empty_like(q)
        for row, path in enumerate(self._paths):
            seen = [row_of[slot] for slot in path[-self._window :]]
            for head in range(shape.heads):
                of = head * shape.kv_heads // shape.heads
                score = k[seen, of] @ q[row, head] * np.float32(shape.scale)
                if cap := np.float32(shape.attention_cap):
                    score = cap * np.tanh(score / cap)
                mixed[row, head] = _softmax(score) @ v[seen, of]
        return mixed.reshape(len(normed), -1)

    def _qkv(self, normed: F32) -> list[F32]:
        shape, width = self._shape, self._shape.head_width
        if self._kind.fused:
            cuts = [shape.heads * width, (shape.heads + shape.kv_heads) * width]
            parts = np.split(self._times(normed, "attn_qkv"), cuts, 1)
        else:
            names = ("attn_q", "attn_k", "attn_v")
            parts = [self._times(normed, name) for name in names]
            if self._kind.query_bias:
                pairs = zip(parts, names, strict=True)
                parts = [part + self._vector(f"{name}.bias") for part, name in pairs]
        return [part.reshape(len(normed), -1, width) for part in parts]

    def _gated(self, normed: F32) -> F32:
        if self._kind.fused:
            gate, up = np.split(self._times(normed, "ffn_up"), 2, 1)
        else:
            gate, up = self._times(normed, "ffn_gate"), self._times(normed, "ffn_up")
        return self._times(self._activated(gate) * up, "ffn_down")

    def _experts(self, normed: F32) -> F32:
        out = np.zeros_like(normed)
        for row, shares in enumerate(_softmax(self._times(normed, "ffn_gate_inp"))):
            chosen = np.argsort(-shares)[: self._shape.experts_used]
            whole = shares[chosen].sum() if self._shape.experts_normed else np.float32(1)
            one = normed[row : row + 1]
            for expert in chosen:
                gate = self._activated(self._times(one, "ffn_gate_exps", expert))
                inner = gate * self._times(one, "ffn_up_exps", expert)
                share = shares[expert] / whole
                out[row] += share * self._times(inner, "ffn_down_exps", expert)[0]
        return out

    def _activated(self, gate: F32) -> F32:
        if self._kind.activation is Activation.GELU:
            inner = np.float32((2 / np.pi) ** 0.5) * (gate + np.float32(0.044715) * gate**3)
            out: F32 = np.float32(0.5) * gate * (1 + np.tanh(inner))
        else:
            out = gate / (1 + np.exp(-gate))
        return out

    def _norm(self, values: F32, part: str) -> F32:
        scale = np.sqrt(np.mean(values * values, -1, keepdims=True) + self._shape.norm_epsilon)
        out: F32 = values / scale.astype(np.float32) * self._vector(f"{part}.weight")
        return out

    def _vector(self, part: str) -> F32:
        out: F32 = self._weights.raw(self._at + part)[2].reshape(-1).view(np.float32)
        return out

    def _times(self, values: F32, part: str, expert: int = 0) -> F32:
        """Rows times a matrix of the file, of which only a slab is ever widened."""
        kind, shape, data = self._weights.raw(f"{self._at}{part}.weight")
        rows, inner = shape[-2:]
        packed = data.reshape(-1, rows, data.size // (shape[0] if len(shape) == 3 else 1) // rows)
        step = max(1, _SLAB // inner)
        slabs = [
            values @ _wide(packed[expert, low : low + step], kind).T for low in range(0, rows, step)
        ]
        return np.concatenate(slabs, 1).astype(np.float32, copy=False)


def rotated(heads: F32, positions: NDArray[np.int64], rope: Rope) -> F32:
    """Heads ``[n, heads, head_width]`` turned by their positions."""
    half = rope.width // 2
    frequency = rope.base ** -(np.arange(half) / half)
    if rope.factors:
        frequency = frequency / np.array(rope.factors)
    angle = positions[:, None, None] * frequency
    pairs = (slice(0, rope.width, 2), slice(1, rope.width, 2))
    if not rope.interleaved:
        pairs = (slice(0, half), slice(half, rope.width))
    one, other = (heads[..., pair] for pair in pairs)
    out = heads.copy()
    out[..., pairs[0]] = (one * np.cos(angle) - other * np.sin(angle)) * rope.magnitude
    out[..., pairs[1]] = (one * np.sin(angle) + other * np.cos(angle)) * rope.magnitude
    return out


def _softmax(scores: F32) -> F32:
    share = np.exp(scores - scores.max(-1, keepdims=True))
    out: F32 = share / share.sum(-1, keepdims=True)
    return out


def _wide(packed: NDArray[np.uint8], kind: int) -> F32:
    out: F32 = dequantize(packed, GGMLQuantizationType(kind))
    return out
