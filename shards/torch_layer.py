"""One decoder layer of the Llama family in fp32, for the torch engine.

Every operation here keeps rows apart. Exactly rounded ones (add, multiply, divide, square root,
casts) give the same bits in any grouping and are batched freely. The others round by their shape:
products, sums and exponentials. Those run in shapes that depend on the row alone:

- a generated row is multiplied, summed and exponentiated by itself; a path of n rows gives its
  attention the shape n;
- a prompt row lies at index ``position % 64`` of a block of 64, whatever else is in the block.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import sqrt

import numpy as np
import torch

from hearthring.protocol.tensors import F32, Residual
from hearthring.shards.shape import Shape
from hearthring.shards.torch_kv import ALIGNED

Load = Callable[[str], F32]
"""A tensor by its GGUF name, dequantised: ``[out, in]`` or ``[n]``. May raise ``BadModelFile``."""

BLOCK = 64
"""Prompt rows that are computed together: the positions of one aligned block."""

SERIAL = 32768  # torch never splits an elementwise operation of at most so many values


_NARROW = {Residual.FP16: torch.float16, Residual.BF16: torch.bfloat16}


def round_residual(states: torch.Tensor, residual: Residual) -> torch.Tensor:
    """States rounded to the residual type, still float32; beyond fp16's range they become inf."""
    return states if residual is Residual.FP32 else states.to(_NARROW[residual]).to(torch.float32)


def padded_rows(rows: int, width: int) -> torch.Tensor:
    """Uninitialised ``[rows, width]`` whose rows all start on 64 bytes, so no kernel sees a
    row's index as an alignment."""
    return torch.empty(rows, -(-width // ALIGNED) * ALIGNED)[:, :width]


def rms_norm(states: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
    """RMSNorm of rows ``[n, width]``. The sum depends on shape, so each row has its own."""
    width = states.shape[1]
    out = padded_rows(*states.shape)
    squares = torch.mul(states, states, out=padded_rows(*states.shape)).unbind()
    for row, square, target in zip(states.unbind(), squares, out.unbind(), strict=True):
        torch.mul(row, 1 / sqrt(square.sum().item() / width + epsilon), out=target)
    return out.mul_(weight)


def rms_norm_block(states: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
    """RMSNorm of a whole prompt block, always ``[64, width]``."""
    mean = torch.sum(states * states, 1, keepdim=True).div_(states.shape[1])
    return (states * mean.add_(epsilon).sqrt_().reciprocal_()).mul_(weight)


class Linear:
    """One or several weight matrices side by side, stored ``[in, out]``.

    ``[in, out]`` makes the one-row product 1.4 times faster than GGUF's ``[out, in]`` and, unlike
    it, indifferent to alignment (measured, MKL, AVX-512).
    """

    def __init__(self, load: Load, names: tuple[str, ...], threads: int) -> None:
        parts = [torch.from_numpy(load(name)) for name in names]
        self.weight = torch.cat([part.t() for part in parts], 1).contiguous()
        self._turned = self.weight.t()
        inner, outer = self.weight.shape
        # A single row gives MKL nothing to share between threads: cut the columns. Each column
        # is a sum of its own, so the cut changes no bit.
        cuts = [n for n in range(2, threads + 1) if outer % (n * ALIGNED) == 0]
        self._cut = max(cuts, default=1)
        self._pieces = self.weight.view(inner, self._cut, outer // self._cut).permute(1, 0, 2)
        self._threads = threads

    def rows(self, states: torch.Tensor) -> torch.Tensor:
        """``[n, in]`` to ``[n, out]``, each row by itself; the weight stays in cache between."""
        count, (inner, outer) = states.shape[0], self.weight.shape
        out = padded_rows(count, outer)
        if self._threads == 1 or (count == 1 and self._cut == 1):
            for row, target in zip(states.unbind(), out.unbind(), strict=True):
                torch.mv(self._turned, row, out=target)
        elif count == 1:
            single = states.expand(self._cut, 1, inner) if self._cut > 1 else states[None]
            torch.bmm(single, self._pieces, out=out.view(self._cut, 1, outer // self._cut))
        else:
            torch.bmm(states[:, None], self.weight.expand(count, inner, outer), out=out[:, None])
        return out

    def block(self, states: torch.Tensor) -> torch.Tensor:
        """A whole prompt block, ``[64, in]`` to ``[64, out]``."""
        return torch.mm(states, self.weight)


class Rope:
    """Cosines and signed sines by position, in blocks made once, so that no entry depends on
    which positions were asked for before."""

    SPAN = 256

    def __init__(self, shape: Shape) -> None:
        half = shape.head_width // 2
        self._frequency = shape.rope_base ** -(np.arange(half, dtype=np.float64) / half)
        self._interleaved = shape.interleaved_rope
        self._half = half
        self._tables: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def angles(self, positions: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Cosines and signed sines, each ``[n, 1, head_width]``."""
        tables = [(self._table(p // self.SPAN), p % self.SPAN) for p in positions]
        cosine = torch.stack([table[0][index] for table, index in tables])
        return cosine[:, None], torch.stack([table[1][index] for table, index in tables])[:, None]

    def rotate(self, heads: torch.Tensor, angles: tuple[torch.Tensor, torch.Tensor]) -> None:
        """Rotate ``[n, heads, head_width]`` in place."""
        rows, count, width = heads.shape
        if self._interleaved:
            swapped = heads.view(rows, count, self._half, 2).flip(3).view(rows, count, width)
        else:
            swapped = heads.view(rows, count, 2, self._half).flip(2).view(rows, count, width)
        heads.mul_(angles[0]).add_(swapped.mul_(angles[1]))

    def _table(self, block: int) -> tuple[torch.Tensor, torch.Tensor]:
        if block not in self._tables:
            positions = np.arange(block * self.SPAN, (block + 1) * self.SPAN, dtype=np.float64)
            angle = positions[:, None] * self._frequency
            cosine, sine = np.cos(angle), np.sin(angle)
            axis = 2 if self._interleaved else 1
            pair = (np.stack((cosine, cosine), axis), np.stack((-sine, sine), axis))
            width = 2 * self._half
            cos, sin = (x.reshape(self.SPAN, width).astype(np.float32) for x in pair)
            self._tables[block] = torch.from_numpy(cos), torch.from_numpy(sin)
        return self._tables[block]


@dataclass(frozen=True, slots=True)
class Layer:
    """Weights of one layer, with query, key and value fused, and gate and up."""

    attention_norm: torch.Tensor
    qkv: Linear
    output: Linear
    ffn_norm: torch.Tensor
    gate_up: Linear
    down: Linear

    @classmethod
    def load(cls, load: Load, index: int, threads: int) -> "Layer":
        """Read layer ``index`` of the model."""

        def linear(*parts: str) -> Linear:
            return Linear(load, tuple(f"blk.{index}.{part}.weight" for part in parts), threads)

        def norm(part: str) -> torch.Tensor:
            return torch.from_numpy(load(f"blk.{index}.{part}.weight").copy())

        return cls(
            norm("attn_norm"),
            linear("attn_q", "attn_k", "attn_v"),
            linear("attn_output"),
            norm("ffn_norm"),
            linear("ffn_gate", "ffn_up"),
            linear("ffn_down"),
        )


def gated_rows(gate_up: torch.Tensor, ffn: int) -> torch.Tensor:
    """``silu(gate) * up`` for ``[n, 2 * ffn]``, each row by itself."""
    out = padded_rows(gate_up.shape[0], ffn)
    for row, target in zip(gate_up[:, :ffn].unbind(), out.unbind(), strict=True):
        _silu(row, target)
    return out.mul_(gate_up[:, ffn:])


def gated_block(gate_up: torch.Tensor, ffn: int) -> torch.Tensor:
    """``silu(gate) * up`` for a prompt block ``[64, 2 * ffn]``."""
    gate = gate_up[:, :ffn].contiguous()
    _silu(gate.view(-1), gate.view(-1))
    return gate.mul_(gate_up[:, ffn:])


def _silu(values: torch.Tensor, out: torch.Tensor) -> None:
    """SiLU of a vector, in pieces that torch doesn't cut by thread count: the ends of a cut would
    go through another exponential."""
    for low in range(0, values.shape[0], SERIAL):
        torch.ops.aten.silu.out(values[low : low + SERIAL], out=out[low : low + SERIAL])


def attend_row(query: torch.Tensor, k: torch.Tensor, v: torch.Tensor, out: torch.Tensor) -> None:
    """Attention of one generated row: ``query`` and ``out`` ``[kv_heads, group, head_width]``,
    ``k`` and ``v`` ``[path, kv_heads * head_width]`` in path order. ``query`` is scaled already."""
    kv_heads, _, width = query.shape
    keys = k.view(-1, kv_heads, width).permute(1, 2, 0)
    weights = torch.softmax(torch.bmm(query, keys), 2)
    torch.bmm(weights, v.view(-1, kv_heads, width).transpose(0, 1), out=out)


def attend_block(
    query: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor
) -> torch.Tensor:
    """Attention of a prompt block: ``query`` ``[64, kv_heads, group, head_width]``, scaled;
    ``k`` and ``v`` ``[end of the block, kv_heads * head_width]``, zero where no row is;
    ``mask`` ``[64, 64]`` of 0 and -inf. Returns ``[64, heads * head_width]``.

    A masked key has weight exactly 0. Adding 0.0 turns the -0.0 that 0 times a negative value may
    leave into what 0 times nothing leaves.
    """
    _, kv_heads, group, width = query.shape
    out = torch.empty(BLOCK, kv_heads, group, width)
    for head in range(kv_heads):
        columns = slice(head * width, (head + 1) * width)
        rows = query[:, head].transpose(0, 1).reshape(group * BLOCK, width)
        scores = torch.mm(rows, k[:, columns].t())
        scores.view(group, BLOCK, -1)[:, :, -BLOCK:].add_(mask)
        mixed = torch.mm(torch.softmax(scores, 1), v[:, columns]).add_(0.0)
        out[:, head] = mixed.view(group, BLOCK, width).transpose(0, 1)
    return out.view(BLOCK, -1)
