"""Norms and matrix products of rows in fp32, for the torch engine.

Every operation here keeps rows apart. Exactly rounded ones (add, multiply, divide, square root,
casts) give the same bits in any grouping and are batched freely. The others round by their shape:
products, sums and exponentials. Those run in shapes that depend on the row alone:

- a generated row is multiplied, summed and exponentiated by itself; a path of n rows gives its
  attention the shape n;
- a prompt row lies at index ``position % 64`` of a block of 64, whatever else is in the block.

They run in one thread each (``torch_threads.py``), since a kernel's own threads change its sums.
"""

from collections.abc import Callable
from math import sqrt

import torch

from hearthring.protocol.tensors import F32, Residual
from hearthring.shards.torch_kv import ALIGNED
from hearthring.shards.torch_threads import MOST, Team

Load = Callable[[str], F32]
"""A tensor by its GGUF name, dequantised: ``[out, in]`` or ``[n]``. May raise ``BadModelFile``."""

BLOCK = 64
"""Prompt rows that are computed together: the positions of one aligned block."""

PIECE = 1 << 17
"""Weights of a piece, at least: so many stay near the core from row to row."""
ROWS_WORTH, BLOCK_WORTH = 1 << 22, 1 << 20
"""Weights whose product with a row, or a block, is long enough to be shared: about a millisecond
(measured)."""

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


def soft_cap(values: torch.Tensor, cap: float) -> None:
    """``cap * tanh(values / cap)`` in place, for a vector."""
    values.div_(cap).tanh_().mul_(cap)


class Linear:
    """One or several weight matrices side by side, in pieces of some columns, each ``[in, some]``.

    ``[in, out]`` makes the one-row product 1.4 times faster than GGUF's ``[out, in]`` and, unlike
    it, indifferent to alignment (measured, MKL, AVX-512). A piece is a product of its own, so that
    a team can share them out; they follow from the shape alone. ``parts`` are ``[out, in]``;
    ``bias`` is of all their outputs.
    """

    def __init__(
        self, parts: list[torch.Tensor], team: Team, bias: torch.Tensor | None = None
    ) -> None:
        whole = parts[0] if len(parts) == 1 else torch.cat(parts)
        self.outer, self.inner = whole.shape
        self._team, self._bias = team, bias
        count = max(1, min(MOST, self.outer * self.inner // PIECE))
        width = -(-self.outer // (count * ALIGNED)) * ALIGNED
        # Copies, as contiguous() may leave what it is given where it lies, aligned or not.
        self._columns = [slice(low, low + width) for low in range(0, self.outer, width)]
        self._pieces = [
            whole[columns].t().clone(memory_format=torch.contiguous_format)
            for columns in self._columns
        ]

    def rows(self, states: torch.Tensor) -> torch.Tensor:
        """``[n, in]`` to ``[n, out]``, each row by itself; the weight stays in cache between."""
        rows, out = states.unbind(), padded_rows(len(states), self.outer)

        def multiply(index: int) -> None:
            turned, targets = self._pieces[index].t(), out[:, self._columns[index]].unbind()
            for row, target in zip(rows, targets, strict=True):
                torch.mv(turned, row, out=target)

        worth = self.outer * self.inner >= ROWS_WORTH
        self._team.share(multiply, len(self._pieces), worth)
        return out if self._bias is None else out.add_(self._bias)

    def block(self, states: torch.Tensor) -> torch.Tensor:
        """A whole prompt block, ``[64, in]`` to ``[64, out]``."""
        out = torch.empty(BLOCK, self.outer)

        def multiply(index: int) -> None:
            torch.mm(states, self._pieces[index], out=out[:, self._columns[index]])

        worth = self.outer * self.inner >= BLOCK_WORTH
        self._team.share(multiply, len(self._pieces), worth)
        return out if self._bias is None else out.add_(self._bias)
