"""Rotary positions for the torch engine."""

import numpy as np
import torch

from hearthring.shards.rope_scaling import plain_frequencies
from hearthring.shards.shape import Rope

Angles = tuple[torch.Tensor, torch.Tensor]
"""Cosines and signed sines, each ``[n, 1, rope width]``."""


class Rotation:
    """Cosines and signed sines by position, in blocks made once, so that no entry depends on
    which positions were asked for before."""

    SPAN = 256

    def __init__(self, rope: Rope) -> None:
        self._half = rope.width // 2
        self._frequency = plain_frequencies(rope.width, rope.base)
        if rope.factors:
            self._frequency /= np.array(rope.factors)
        self._interleaved, self._magnitude = rope.interleaved, rope.magnitude
        self._tables: dict[int, Angles] = {}

    def angles(self, positions: list[int]) -> Angles:
        """Cosines and signed sines, each ``[n, 1, rope width]``."""
        tables = [(self._table(p // self.SPAN), p % self.SPAN) for p in positions]
        cosine = torch.stack([table[0][index] for table, index in tables])
        return cosine[:, None], torch.stack([table[1][index] for table, index in tables])[:, None]

    def rotate(self, heads: torch.Tensor, angles: Angles) -> None:
        """Rotate the first channels of ``[n, heads, head_width]`` in place."""
        heads = heads[:, :, : 2 * self._half]
        rows, count, width = heads.shape
        if self._interleaved:
            swapped = heads.view(rows, count, self._half, 2).flip(3).view(rows, count, width)
        else:
            swapped = heads.view(rows, count, 2, self._half).flip(2).view(rows, count, width)
        heads.mul_(angles[0]).add_(swapped.mul_(angles[1]))

    def _table(self, block: int) -> Angles:
        if block not in self._tables:
            positions = np.arange(block * self.SPAN, (block + 1) * self.SPAN, dtype=np.float64)
            angle = positions[:, None] * self._frequency
            cosine, sine = self._magnitude * np.cos(angle), self._magnitude * np.sin(angle)
            axis = 2 if self._interleaved else 1
            pair = (np.stack((cosine, cosine), axis), np.stack((-sine, sine), axis))
            width = 2 * self._half
            cos, sin = (x.reshape(self.SPAN, width).astype(np.float32) for x in pair)
            self._tables[block] = torch.from_numpy(cos), torch.from_numpy(sin)
        return self._tables[block]
