"""Residual rows in 8 bits: blocks of 32 values with one scale each. Lossy, and asked for.

A row of ``width`` values is a bfloat16 scale per block (the last block may be short),
little-endian, then ``width`` signed bytes: value = byte x scale. The scale is the block's largest
magnitude over 127, rounded up, so that no byte exceeds 127 and none of the error is clipping: it is
half a scale at most. A block of 32 takes 34 bytes, 0.53 of fp16.

Blocks keep a few huge channels, which residuals have, from taking all others' precision.
"""

import numpy as np
from numpy.typing import NDArray

from hearthring.protocol.errors import BadShape, NonFinite, ResidualOverflow

F32 = NDArray[np.float32]
BLOCK = 32
"""Values under one scale."""
_SCALE = 2
"""Bytes of one."""
_MOST = 127


def row_bytes(width: int) -> int:
    """Bytes of a row of so many values."""
    return width + _SCALE * _blocks(width)


def quantise(states: F32) -> bytes:
    """Rows ``[rows, width]`` as wire bytes.

    Raises ``ResidualOverflow`` for an infinity or a NaN: the sender's own error.
    """
    rows, width = states.shape
    blocks = _blocks(width)
    padded = np.zeros((rows, blocks * BLOCK), np.float32)
    padded[:, :width] = states
    grouped = padded.reshape(rows, blocks, BLOCK)
    largest = np.abs(grouped).max(axis=2)
    if not np.isfinite(largest).all():
        raise ResidualOverflow("an infinity or a NaN", field="residual")
    words = (largest / np.float32(_MOST)).view(np.uint32)
    halves = ((words + np.uint32(0xFFFF)) >> np.uint32(16)).astype("<u2")
    scales = _wide(halves)[:, :, None]
    # Where the scale is 0, so is, or nearly, every value.
    shares = np.divide(grouped, scales, out=np.zeros_like(grouped), where=scales > 0)
    values = np.clip(np.rint(shares), -_MOST, _MOST).astype(np.int8)
    wire = np.empty((rows, row_bytes(width)), np.uint8)
    wire[:, : blocks * _SCALE] = halves.view(np.uint8).reshape(rows, blocks * _SCALE)
    wire[:, blocks * _SCALE :] = values.reshape(padded.shape)[:, :width].view(np.uint8)
    return wire.tobytes()


def dequantise(data: bytes | memoryview, rows: int, width: int) -> F32:
    """Wire bytes as float32 ``[rows, width]``.

    Raises ``BadShape`` before anything is allocated, ``NonFinite`` for a scale that is no finite
    number, negative or too large, and for the byte -128, which no sender writes.
    """
    if len(data) != rows * row_bytes(width):
        raise BadShape(f"{len(data)} bytes for {rows} rows of {width} in int8", field="states")
    blocks = _blocks(width)
    wire = np.frombuffer(data, np.uint8).reshape(rows, row_bytes(width))
    halves = np.ascontiguousarray(wire[:, : blocks * _SCALE]).view("<u2")
    scales = _wide(halves)
    values = wire[:, blocks * _SCALE :].view(np.int8)
    if (halves > 0x7F7F).any() or (values < -_MOST).any():
        raise NonFinite("a scale or a value that no number has", field="states")
    with np.errstate(over="ignore"):
        states: F32 = values * np.repeat(scales, BLOCK, axis=1)[:, :width]
    if not np.isfinite(states).all():
        raise NonFinite("a scale too large for its values", field="states")
    return states


def _blocks(width: int) -> int:
    return -(-width // BLOCK)


def _wide(halves: NDArray[np.uint16]) -> F32:
    wide: F32 = np.left_shift(halves, 16, dtype=np.uint32).view(np.float32)
    return wide
