"""Layers of all families for the fast torch engine: batched, in the device's own types.

Unlike in ``torch_linear.py`` nothing here keeps a row's bits apart from what it is batched with.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from hearthring.shards import torch_int4
from hearthring.shards.families import Activation, family
from hearthring.shards.shape import Rope, Shape
from hearthring.shards.torch_linear import Load

Raw = Callable[[str], tuple[int, tuple[int, ...], NDArray[np.uint8]]]
"""A tensor as it is in the file, as ``GgufFile.raw``."""

Angles = tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True, slots=True)
class Source:
    """Where weights come from and where they go. ``raw`` None: only dense weights are used."""

    load: Load
    raw: Raw | None
    device: torch.device
    dtype: torch.dtype

    def tensor(self, name: str) -> torch.Tensor:
        """A norm or bias, in float32."""
        return torch.from_numpy(self.load(name).copy()).to(self.device)

    def matrix(self, name: str) -> torch.Tensor:
        """A matrix in the type that is computed with."""
        return torch.from_numpy(np.ascontiguousarray(self.load(name))).to(self.device, self.dtype)


class Product:
    """One or several matrices ``[out, in]`` on top of each other.

    Where torch's int4 kernel is faster for few rows, it takes those, and if it wins for many too
    the dense weights are given up.
    """

    def __init__(self, source: Source, *names: str) -> None:
        self._dense: torch.Tensor | None = torch.cat([source.matrix(name) for name in names])
        self._packed, self._most = _packed(source, names), 0
        if self._packed is not None:
            self._most = torch_int4.wins_up_to(self._packed, self._dense)
        if self._most == 0:
            self._packed = None
        elif self._most == torch_int4.TIMED[-1]:
            self._dense = None

    @property
    def packed(self) -> bool:
        """Whether any rows go through the int4 kernel."""
        return self._packed is not None

    def __call__(self, states: torch.Tensor) -> torch.Tensor:
        """``[n, in]`` to ``[n, out]``."""
        if self._packed is not None and (self._dense is None or len(states) <= self._most):
            return self._packed(states.contiguous())
        assert self._dense is not None
        return functional.linear(states, self._dense)


def _packed(source: Source, names: tuple[str, ...]) -> torch_int4.Int4 | None:
    if source.raw is None or source.device.type != "cpu":
        return None
    kinds, shapes, datas = zip(*(source.raw(name) for name in names), strict=True)
    if len(set(kinds)) > 1:
        return None
    rows = sum(shape[0] for shape in shapes)
    data = np.concatenate([data.reshape(-1) for data in datas])
    return torch_int4.pack(kinds[0], (rows, shapes[0][1]), data, source.dtype)


class Gated:
    """A feed-forward block: ``down(activation(gate) * up)``."""

    def __init__(self, source: Source, shape: Shape, at: str) -> None:
        kind = family(shape.architecture)
        # A fused tensor holds the gate's rows first.
        names = ("ffn_up",) if kind.fused else ("ffn_gate", "ffn_up")
        self.gate_up = Product(source, *(f"{at}{name}.weight" for name in names))
        self.down = Product(source, f"{at}ffn_down.weight")
        self._activation = kind.activation

    def __call__(self, states: torch.Tensor) -> torch.Tensor:
        gate, up = self.gate_up(states).chunk(2, 1)
        return self.down(activated(self._activation, gate) * up)


class Mixture:
    """Experts, each of which takes the rows that the router sends it."""

    def __init__(self, source: Source, shape: Shape, at: str) -> None:
        self._router = source.tensor(f"{at}ffn_gate_inp.weight")
        self._gate, self._up, self._down = (
            source.matrix(f"{at}ffn_{part}_exps.weight") for part in ("gate", "up", "down")
        )
        self._used, self._normed = shape.experts_used, shape.experts_normed
        self._activation = family(shape.architecture).activation

    def __call__(self, states: torch.Tensor) -> torch.Tensor:
        shares = torch.softmax(functional.linear(states.float(), self._router), 1)
        chosen, experts = shares.topk(self._used, 1)
        if self._normed:
            chosen = chosen / chosen.sum(1, keepdim=True)
        out = torch.zeros(states.shape, dtype=torch.float32, device=states.device)
        for expert in sorted(set(experts.flatten().tolist())):
            rows, place = torch.where(experts == expert)
            few = states[rows]
            gate = activated(self._activation, functional.linear(few, self._gate[expert]))
            up = functional.linear(few, self._up[expert])
            down = functional.linear(gate * up, self._down[expert])
            out.index_add_(0, rows, down.float() * chosen[rows, place, None])
        return out


def activated(kind: Activation, gate: torch.Tensor) -> torch.Tensor:
    """The gate's values after their activation."""
    if kind is Activation.GELU:
        return functional.gelu(gate, approximate="tanh")
    return functional.silu(gate)


@dataclass(frozen=True, slots=True)
class FastLayer:
    """Weights of one layer, and the numbers that go with it. ``None``: there is no such thing."""

    attention_norm: torch.Tensor
    qkv: Product
    bias: torch.Tensor | None
    query_norm: torch.Tensor | None
    key_norm: torch.Tensor | None
    output: Product
    post_attention: torch.Tensor | None
    ffn_norm: torch.Tensor
    ffn: Gated | Mixture
    post_ffn: torch.Tensor | None
    window: int
    rope: Rope

    @classmethod
    def read(cls, source: Source, shape: Shape, index: int) -> "FastLayer":
        """Layer ``index`` of the model."""
        kind, at = family(shape.architecture), f"blk.{index}."

        def maybe(there: bool, part: str) -> torch.Tensor | None:
            return source.tensor(f"{at}{part}.weight") if there else None

        parts = ("attn_qkv",) if kind.fused else ("attn_q", "attn_k", "attn_v")
        biases = [source.tensor(f"{at}{part}.bias") for part in parts if kind.query_bias]
        return cls(
            source.tensor(f"{at}attn_norm.weight"),
            Product(source, *(f"{at}{part}.weight" for part in parts)),
            torch.cat(biases) if biases else None,
            maybe(kind.head_norms, "attn_q_norm"),
            maybe(kind.head_norms, "attn_k_norm"),
            Product(source, f"{at}attn_output.weight"),
            maybe(kind.post_norms, "post_attention_norm"),
            source.tensor(f"{at}ffn_norm.weight"),
            Mixture(source, shape, at) if shape.experts else Gated(source, shape, at),
            maybe(kind.post_norms, "post_ffw_norm"),
            shape.window(index),
            shape.rope(index),
        )


def normed(states: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
    """RMSNorm over the last axis, in float32."""
    wide = states.float()
    return wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + epsilon) * weight


def angles(rope: Rope, positions: NDArray[np.int64], device: torch.device) -> Angles:
    """Cosines and sines ``[n, 1, width / 2]``, computed in float64."""
    half = rope.width // 2
    frequency = rope.base ** -(np.arange(half) / half)
    if rope.factors:
        frequency = frequency / np.array(rope.factors)
    turn = positions[:, None, None] * frequency
    cosine, sine = (
        torch.from_numpy((part * rope.magnitude).astype(np.float32)).to(device)
        for part in (np.cos(turn), np.sin(turn))
    )
    return cosine, sine


def rotated(heads: torch.Tensor, rope: Rope, turn: Angles) -> torch.Tensor:
    """Heads ``[n, heads, head_width]`` turned by their positions, in float32."""
    wide = heads.float()
    turning, rest = wide[..., : rope.width], wide[..., rope.width :]
    if rope.interleaved:
        one, other = turning[..., 0::2], turning[..., 1::2]
    else:
        one, other = turning.chunk(2, -1)
    cosine, sine = turn
    pair = (one * cosine - other * sine, one * sine + other * cosine)
    mixed = torch.stack(pair, -1).flatten(-2) if rope.interleaved else torch.cat(pair, -1)
    return torch.cat((mixed, rest), -1)


def attended(
    query: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    mask: torch.Tensor,
    scale: float,
    cap: float,
) -> torch.Tensor:
    """Attention of one session's rows, ``[n, heads * head_width]``.

    ``query`` is ``[n, heads, head_width]``, ``k`` and ``v`` ``[kv_heads, used, head_width]``,
    ``mask`` ``[group * n, used]``.
    """
    rows, heads, width = query.shape
    kv_heads = k.shape[0]
    grouped = query.view(rows, kv_heads, -1, width).permute(1, 2, 0, 3).reshape(kv_heads, -1, width)
    if cap:
        scores = torch.bmm(grouped, k.transpose(1, 2)).float() * scale
        scores = (cap * torch.tanh(scores / cap)).masked_fill_(~mask, -torch.inf)
        mixed = torch.bmm(torch.softmax(scores, 2).to(v.dtype), v)
    else:
        mixed = functional.scaled_dot_product_attention(
            grouped[None], k[None], v[None], attn_mask=mask, scale=scale
        )[0]
    return mixed.view(kv_heads, -1, rows, width).permute(2, 0, 1, 3).reshape(rows, heads * width)
