"""4-bit weights as they are in the file, multiplied by torch's own kernel on a CPU.

Q4_0 and Q4_1 blocks of 32 weights go into torch's int4 packing without loss: a weight is
``scale * (q - 8) + zero``, with ``zero = minimum + 8 * scale`` (Q4_0: 0). With float32 activations
the products agree with those of dequantised weights to float32's rounding; whether they are faster
depends on the processor and the type of activations, so it is measured.
"""

import time
from dataclasses import dataclass

import numpy as np
import torch
from gguf import GGMLQuantizationType
from numpy.typing import NDArray

BLOCK = 32
TIMED = (1, 4, 16, 64)
"""Rows that the two ways to multiply are timed with."""
_Q4_0, _Q4_1 = int(GGMLQuantizationType.Q4_0), int(GGMLQuantizationType.Q4_1)
_OUTPUTS = 16  # torch's kernel wants a multiple of them


@dataclass(frozen=True, slots=True)
class Int4:
    """A matrix ``[out, in]`` in torch's packing. ``scales``: ``[in / 32, out, 2]``."""

    packed: torch.Tensor
    scales: torch.Tensor

    def __call__(self, states: torch.Tensor) -> torch.Tensor:
        """``[n, in]`` to ``[n, out]``, in the type of ``scales``."""
        out: torch.Tensor = torch.ops.aten._weight_int4pack_mm_for_cpu(
            states, self.packed, BLOCK, self.scales
        )
        return out


def pack(
    kind: int, shape: tuple[int, ...], data: NDArray[np.uint8], dtype: torch.dtype
) -> Int4 | None:
    """A tensor as ``GgufFile.raw`` gives it, ``None`` where its type or size can't be packed."""
    if kind not in (_Q4_0, _Q4_1) or len(shape) != 2 or shape[0] % _OUTPUTS:
        return None
    head = 2 if kind == _Q4_0 else 4
    blocks = data.reshape(*shape[:1], shape[1] // BLOCK, head + BLOCK // 2)
    numbers = blocks[..., :head].copy().view(np.float16).astype(np.float32)
    scale = numbers[..., 0]
    zero = np.zeros_like(scale) if kind == _Q4_0 else numbers[..., 1] + 8 * scale
    nibbles = blocks[..., head:]
    levels = np.concatenate((nibbles & 15, nibbles >> 4), -1).reshape(shape).astype(np.int32)
    pairs = np.stack((scale, zero), -1).transpose(1, 0, 2)
    return Int4(
        torch.ops.aten._convert_weight_to_int4pack_for_cpu(torch.from_numpy(levels), 1),
        torch.from_numpy(np.ascontiguousarray(pairs)).to(dtype),
    )


def wins_up_to(packed: Int4, dense: torch.Tensor) -> int:
    """The largest number of rows in ``TIMED`` up to which ``packed`` is faster than ``dense``
    ``[out, in]``; 0 where it never is. Takes some milliseconds for each size."""
    most = 0
    for rows in TIMED:
        states = torch.zeros(rows, dense.shape[1], dtype=dense.dtype)
        times = [float("inf"), float("inf")]
        for _ in range(3):
            for which in (0, 1):
                begun = time.perf_counter()
                if which:
                    torch.nn.functional.linear(states, dense)
                else:
                    packed(states)
                times[which] = min(times[which], time.perf_counter() - begun)
        if times[0] >= times[1]:
            break
        most = rows
    return most
