"""Norms and matrix products of rows in fp32, for the torch engine.

Every operation here keeps rows apart. Exactly rounded ones (add, multiply, divide, square root,
casts) give the same bits in any grouping and are batched freely. The others round by their shape:
products, sums and exponentials. Those run in shapes that depend on the row alone:

- a generated row is multiplied, summed and exponentiated by itself; a path of n rows gives its
  attention the shape n;
- a prompt row lies at index ``position % 64`` of a block of 64, whatever else is in the block.
"""

from collections.abc import Callable, Iterator
from math import sqrt

import torch

from hearthring.protocol.tensors import F32, Residual
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


def head_norm_rows(heads: torch.Tensor, weight: torch.Tensor, epsilon: float) -> None:
    """RMSNorm of each head by itself, in place: ``[n, heads, head_width]``, ``weight`` without n.
    Each row has its own sums."""
    for row in heads.unbind():
        head_norm_block(row[None], weight, epsilon)


def head_norm_block(heads: torch.Tensor, weight: torch.Tensor, epsilon: float) -> None:
    """``head_norm_rows`` of a whole prompt block, always ``[64, heads, head_width]``."""
    mean = torch.sum(heads * heads, 2, keepdim=True).div_(heads.shape[2])
    heads.mul_(mean.add_(epsilon).sqrt_().reciprocal_()).mul_(weight)


def pieces(values: torch.Tensor) -> Iterator[torch.Tensor]:
    """Views of a vector that torch doesn't cut by thread count: the ends of a cut would go through
    another exponential."""
    for low in range(0, values.shape[0], SERIAL):
        yield values[low : low + SERIAL]


def soft_cap(values: torch.Tensor, cap: float) -> None:
    """``cap * tanh(values / cap)`` in place, for a vector."""
    for piece in pieces(values):
        piece.div_(cap).tanh_().mul_(cap)


class Linear:
    """One or several weight matrices side by side, stored ``[in, out]``.

    ``[in, out]`` makes the one-row product 1.4 times faster than GGUF's ``[out, in]`` and, unlike
    it, indifferent to alignment (measured, MKL, AVX-512). ``parts`` are ``[out, in]``; ``bias`` is
    of all their outputs.
    """

    def __init__(
        self, parts: list[torch.Tensor], threads: int, bias: torch.Tensor | None = None
    ) -> None:
        self.weight = torch.cat([part.t() for part in parts], 1).contiguous()
        self._bias = bias
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
        return out if self._bias is None else out.add_(self._bias)

    def block(self, states: torch.Tensor) -> torch.Tensor:
        """A whole prompt block, ``[64, in]`` to ``[64, out]``."""
        out = torch.mm(states, self.weight)
        return out if self._bias is None else out.add_(self._bias)
