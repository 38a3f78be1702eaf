"""Residual rows on the wire are exact, and what doesn't fit is named."""

import numpy as np
import pytest
import torch

from hearthring.protocol.errors import BadShape, NonFinite, ResidualOverflow
from hearthring.protocol.tensors import Residual, bf16_bits, pack, unpack

TORCH = {
    Residual.FP32: torch.float32,
    Residual.FP16: torch.float16,
    Residual.BF16: torch.bfloat16,
}
LARGEST = {kind: torch.finfo(dtype).max for kind, dtype in TORCH.items()}
BEYOND = {
    Residual.FP32: np.inf,
    Residual.FP16: 65_520.0,  # halfway to the next power of two: rounds up
    Residual.BF16: np.finfo(np.float32).max,
}
NARROW = [Residual.FP16, Residual.BF16]


def torch_bytes(values: np.ndarray, kind: Residual) -> bytes:
    """What torch makes of float32 values: the oracle."""
    narrow = torch.from_numpy(values).to(TORCH[kind]).contiguous()
    return narrow.view(torch.uint8).numpy().tobytes()


def every_magnitude(kind: Residual) -> np.ndarray:
    """Float32 of every exponent the type holds, ties and their neighbours among them."""
    words = np.random.default_rng(1).integers(0, 1 << 32, 60_000, np.uint64).astype(np.uint32)
    ties = (words & np.uint32(0xFFFF0000)) | np.uint32(0x8000)
    fp16_ties = (words & np.uint32(0xFFFFE000)) | np.uint32(0x1000)
    near = np.concatenate([words, ties, ties + 1, ties - 1, fp16_ties, fp16_ties + 1])
    values = near.view(np.float32)
    values = values[np.isfinite(values)]
    rounded = torch.from_numpy(values).to(TORCH[kind]).float().numpy()
    values = values[np.isfinite(rounded)]
    return values[: len(values) // 8 * 8].reshape(-1, 8)


@pytest.mark.parametrize("kind", list(Residual))
def test_packing_rounds_as_torch_does(kind: Residual) -> None:
    values = every_magnitude(kind)
    assert len(values) > 10_000
    assert pack(values, kind) == torch_bytes(values, kind)


@pytest.mark.parametrize("kind", list(Residual))
def test_what_is_rounded_already_passes_without_a_changed_bit(kind: Residual) -> None:
    values = torch.from_numpy(every_magnitude(kind)).to(TORCH[kind]).float().numpy()
    wire = pack(values, kind)
    assert len(wire) == values.size * kind.bytes
    back = unpack(wire, *values.shape, kind)
    assert back.dtype == np.float32
    assert back.tobytes() == values.tobytes()  # the sign of zero too
    assert pack(back, kind) == wire


@pytest.mark.parametrize("kind", NARROW)
def test_every_pattern_of_sixteen_bits_is_read_as_torch_reads_it(kind: Residual) -> None:
    words = np.arange(1 << 16, dtype=np.uint16)
    floats = torch.from_numpy(words.view(np.int16).copy()).view(TORCH[kind]).float().numpy()
    finite = np.isfinite(floats)
    assert unpack(words[finite].tobytes(), 1, int(finite.sum()), kind).tobytes() == (
        floats[finite].tobytes()
    )
    for word in words[~finite]:
        with pytest.raises(NonFinite, match="states"):
            unpack(word.tobytes(), 1, 1, kind)


def test_bf16_bits_are_torchs_for_numbers_and_stay_no_number_for_the_rest() -> None:
    values = every_magnitude(Residual.BF16)
    assert bf16_bits(values).tobytes() == torch_bytes(values, Residual.BF16)
    nans = np.array([0x7F800001, 0x7FC00000, 0x7FFFFFFF, 0xFF800001, 0xFFFFFFFF], np.uint32)
    bits = bf16_bits(nans.view(np.float32)).astype(np.uint32) << 16
    assert np.isnan(bits.view(np.float32)).all()


@pytest.mark.parametrize("kind", list(Residual))
def test_the_largest_number_fits_and_the_next_does_not(kind: Residual) -> None:
    largest = np.float32(LARGEST[kind])
    for sign in (1, -1):
        assert unpack(pack(np.full((1, 1), sign * largest), kind), 1, 1, kind) == sign * largest
    for value in (BEYOND[kind], -BEYOND[kind], np.inf):
        with pytest.raises(ResidualOverflow, match=kind.value):
            pack(np.array([[0, value]], np.float32), kind)


@pytest.mark.parametrize("kind", list(Residual))
@pytest.mark.parametrize("word", [0x7F800001, 0x7FC00000, 0x7FFFFFFF, 0xFFFFFFFF])
def test_a_nan_is_never_sent(kind: Residual, word: int) -> None:
    states = np.array([[0, word]], np.uint32).view(np.float32)
    with pytest.raises(ResidualOverflow):
        pack(states, kind)


@pytest.mark.parametrize("kind", list(Residual))
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_nan_or_an_infinity_is_never_taken(kind: Residual, value: float) -> None:
    wire = torch_bytes(np.array([[1, value], [1, 1]], np.float32), kind)
    with pytest.raises(NonFinite, match="states"):
        unpack(wire, 2, 2, kind)


@pytest.mark.parametrize("kind", list(Residual))
def test_a_wrong_length_is_refused_before_anything_is_made_of_it(kind: Residual) -> None:
    wire = pack(np.ones((2, 3), np.float32), kind)
    for rows, width in ((2, 2), (3, 3), (0, 3), (1, 3), (1 << 30, 1 << 30)):
        with pytest.raises(BadShape, match=rf"states: {len(wire)} bytes for {rows} rows"):
            unpack(wire, rows, width, kind)
    for wrong in (wire[:-1], wire + b"\0", b""):
        with pytest.raises(BadShape):
            unpack(wrong, 2, 3, kind)
    assert unpack(b"", 0, 3, kind).shape == (0, 3)


def test_rows_that_do_not_lie_in_a_row_are_packed_in_order() -> None:
    states = np.arange(12, dtype=np.float32).reshape(3, 4)
    for kind in Residual:
        assert pack(states.T, kind) == pack(states.T.copy(), kind)
        assert pack(states[::2], kind) == pack(states[::2].copy(), kind)
