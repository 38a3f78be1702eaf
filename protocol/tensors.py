"""Residual rows on the wire: little-endian, row-major, in one of three types.

A residual type is exact on the wire because every engine already rounds to it at each layer
boundary: ``pack`` of what an engine returned loses nothing, and ``unpack`` widens without change.
"""

from enum import StrEnum
from math import isfinite

import numpy as np
from numpy.typing import NDArray

from hearthring.protocol.errors import BadShape, NonFinite, ResidualOverflow

F32 = NDArray[np.float32]
_FEW = 8192
"""Values whose squares one core adds up: a BLAS may share out longer sums."""


class Residual(StrEnum):
    """The type that the residual stream is rounded to at every layer boundary."""

    FP32 = "fp32"
    FP16 = "fp16"
    BF16 = "bf16"

    @property
    def bytes(self) -> int:
        """Bytes of one value."""
        return 4 if self is Residual.FP32 else 2


def bf16_bits(values: F32) -> NDArray[np.uint16]:
    """bf16 bit patterns of float32 values, rounded to nearest even; a NaN stays one."""
    word = np.ascontiguousarray(values, np.float32).view(np.uint32)
    rounded = ((word + 0x7FFF + ((word >> 16) & 1)) >> 16).astype(np.uint16)
    rounded[np.isnan(values)] = 0x7FC0  # the carry would make zeros of some
    return rounded


def pack(states: F32, kind: Residual) -> bytes:
    """States ``[rows, width]`` as wire bytes.

    Raises ``ResidualOverflow`` when a value doesn't fit the type: the sender's own error.
    """
    narrow = _rounded_halves(states) if kind is Residual.BF16 else None
    back = states
    if narrow is None:
        narrow = _narrowed(states, kind)
        back = _widen(narrow, kind)
    if not is_finite(back):
        raise ResidualOverflow(
            f"a residual exceeds {kind.value}", field="residual", mend="use --residual bf16 or fp32"
        )
    return narrow.tobytes()


def unpack(data: bytes | memoryview, rows: int, width: int, kind: Residual) -> F32:
    """Wire bytes as float32 ``[rows, width]``, checked for length and finite values.

    Raises ``BadShape`` or ``NonFinite``; nothing is allocated before the length is right.
    """
    if len(data) != rows * width * kind.bytes:
        raise BadShape(
            f"{len(data)} bytes for {rows} rows of {width} in {kind.value}", field="states"
        )
    wire = {Residual.FP32: "<f4", Residual.FP16: "<f2", Residual.BF16: "<u2"}[kind]
    states = _widen(np.frombuffer(data, wire).reshape(rows, width), kind)
    if not is_finite(states):
        raise NonFinite("an infinity or a NaN", field="states")
    return states


def rounded(values: F32, kind: Residual) -> F32:
    """Values as a type has them, rounded to nearest even; infinities where they don't fit."""
    return values if kind is Residual.FP32 else _widen(_narrowed(values, kind), kind)


def _widen(narrow: NDArray[np.generic], kind: Residual) -> F32:
    if kind is Residual.BF16:
        wide: F32 = np.left_shift(narrow, 16, dtype=np.uint32).view(np.float32)
        return wide
    return narrow.astype(np.float32)


def _narrowed(states: F32, kind: Residual) -> NDArray[np.generic]:
    """Values in a type, rounded to nearest even; infinities where they don't fit."""
    if kind is Residual.FP16:
        with np.errstate(over="ignore"):
            return states.astype("<f2")
    if kind is Residual.BF16:
        return bf16_bits(states).astype("<u2")
    return states.astype("<f4")


def _rounded_halves(states: F32) -> NDArray[np.generic] | None:
    """bf16 bit patterns of values that are rounded already, as an engine's are; else ``None``."""
    halves = np.ascontiguousarray(states, "<f4").view("<u2")
    return None if halves[..., ::2].any() else halves[..., 1::2]


def is_finite(values: F32) -> bool:
    """Whether there is neither an infinity nor a NaN."""
    # Every value takes part in a sum of squares, which only another infinity can hide. It is one
    # call where the plain way takes two, and for one row it is calls that cost.
    if values.size <= _FEW and isfinite(np.vdot(values, values)):
        return True
    return bool(np.isfinite(values).all())
