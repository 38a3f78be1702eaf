"""Rows in int8 blocks: half the bytes, a bounded error, and nothing that isn't a number."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from hearthring.protocol.errors import BadShape, NonFinite, ResidualOverflow, WrongClass
from hearthring.protocol.int8_rows import BLOCK, dequantise, quantise, row_bytes
from hearthring.protocol.row_type import RowType
from hearthring.protocol.tensors import Residual, rounded

FINITE = st.floats(-(2.0**127), 2.0**127, width=32)
ROWS = array_shapes(min_dims=2, max_dims=2, max_side=70).flatmap(
    lambda shape: arrays(np.float32, shape, elements=FINITE)
)


def largest(states: np.ndarray) -> np.ndarray:
    """Of each value's block."""
    width = states.shape[1]
    padded = np.pad(np.abs(states), ((0, 0), (0, -width % BLOCK)))
    most = padded.reshape(len(states), -1, BLOCK).max(axis=2)
    return np.repeat(most, BLOCK, axis=1)[:, :width]


@settings(deadline=None, max_examples=200)
@given(ROWS)
def test_no_value_is_farther_off_than_half_a_scale(states: np.ndarray) -> None:
    wire = quantise(states)
    rows, width = states.shape
    assert len(wire) == rows * row_bytes(width)
    back = dequantise(wire, rows, width)
    assert back.dtype == np.float32
    # A scale is at most 1/128 larger than it had to be, and then is rounded to 2^-133 at least.
    scale = largest(states).astype(np.float64) / 127 * (1 + 2**-7) + 2.0**-133
    assert (np.abs(back.astype(np.float64) - states) <= scale / 2 * (1 + 1e-6)).all()
    assert (back[states == 0] == 0).all()


@settings(deadline=None, max_examples=100)
@given(ROWS)
def test_a_row_is_what_it_is_whatever_travels_with_it(states: np.ndarray) -> None:
    alone = [quantise(states[n : n + 1]) for n in range(len(states))]
    assert quantise(states) == b"".join(alone)


@settings(deadline=None, max_examples=300)
@given(st.binary(max_size=200), st.integers(0, 4), st.integers(1, 70))
def test_whatever_arrives_is_numbers_or_refused(data: bytes, rows: int, width: int) -> None:
    for kind in Residual:
        try:
            states = RowType(kind, int8=True).unpack(data, rows, width)
        except (BadShape, NonFinite):
            continue
        assert states.shape == (rows, width)
        assert np.isfinite(states).all()
        assert states.tobytes() == rounded(states, kind).tobytes()


def test_the_size_is_checked_before_anything_is_made_of_it() -> None:
    for rows, width in ((1 << 40, 1 << 20), (1, 33), (2, 32), (0, 32)):
        with pytest.raises(BadShape):
            dequantise(bytes(34), rows, width)
    assert dequantise(bytes(34), 1, 32).shape == (1, 32)
    assert dequantise(quantise(np.empty((0, 33), np.float32)), 0, 33).shape == (0, 33)
    assert (row_bytes(576), row_bytes(33)) == (612, 37)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_sender_never_sends_what_is_no_number(value: float) -> None:
    states = np.ones((2, 40), np.float32)
    states[1, 39] = value
    with pytest.raises(ResidualOverflow):
        quantise(states)


@pytest.mark.parametrize("scale", [b"\x80\x7f", b"\xc0\x7f", b"\x80\xbf", b"\x00\x80", b"\x7f\x7f"])
def test_scales_are_finite_and_not_negative(scale: bytes) -> None:
    with pytest.raises(NonFinite):
        dequantise(scale + b"\x7f" * 32, 1, 32)


def test_the_byte_that_no_sender_writes_is_refused() -> None:
    dequantise(b"\x80\x3f" + b"\x81" * 32, 1, 32)
    with pytest.raises(NonFinite):
        dequantise(b"\x80\x3f" + b"\x81" * 31 + b"\x80", 1, 32)


def test_what_leaves_the_residual_type_is_the_senders_own_error() -> None:
    rows = RowType(Residual.FP16, int8=True)
    most = np.full((1, 32), np.finfo(np.float32).max)
    wide = RowType(Residual.FP32, int8=True)
    assert np.isfinite(wide.unpack(wide.pack(most), 1, 32)).all()
    fits = np.full((1, 32), 60_000, np.float32)
    assert np.isfinite(rows.unpack(rows.pack(fits), 1, 32)).all()
    with pytest.raises(ResidualOverflow):
        rows.pack(np.full((1, 32), 65_600, np.float32))
    wide = RowType(Residual.BF16, int8=True).pack(np.full((1, 32), 1e6, np.float32))
    with pytest.raises(NonFinite):
        rows.unpack(wide, 1, 32)


def test_names_say_how_rows_travel() -> None:
    for kind in Residual:
        for rows in (RowType(kind), RowType(kind, int8=True)):
            assert RowType.parse(str(rows)) == rows
    assert str(RowType(Residual.FP16, int8=True)) == "fp16+int8"
    for name in ("", "int8", "fp16+int8+int8", "+int8", "fp64"):
        with pytest.raises(WrongClass):
            RowType.parse(name)
