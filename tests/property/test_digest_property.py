"""Digests of random chunks: own digests fit exactly, any bytes give a result or a named error."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from hearthring.protocol.errors import BadProof
from hearthring.verify.digest import (
    NO_MATCH,
    PRIME,
    Deviation,
    compare,
    compare_all,
    digest,
    digests,
    from_points,
    top_points,
)


def finite(data: bytes, mask: int) -> np.ndarray:
    """Bit patterns of bf16 from bytes; with a narrow mask few are unlike, so that many tie."""
    bits = np.frombuffer(data, np.uint16) & np.uint16(mask)
    return np.where(bits & 0x7F80 == 0x7F80, bits ^ 0x80, bits).astype(np.uint16)


MASKS = st.sampled_from([0xFFFF, 0xBFFF, 0x807F, 0x8003, 0x8000])
CHUNKS = st.integers(1, 600).flatmap(
    lambda size: st.builds(finite, st.binary(min_size=2 * size, max_size=2 * size), MASKS)
)


@settings(deadline=None, max_examples=40)
@given(st.lists(CHUNKS, min_size=1, max_size=6), st.integers(1, 128))
def test_own_digests_fit_exactly(chunks: list[np.ndarray], k: int) -> None:
    proofs = digests(chunks, k)
    assert proofs == [digest(chunk, k) for chunk in chunks]
    found = compare_all(proofs, chunks, k)
    assert set(found.chunks) == {Deviation(0, 0, 0)}
    assert found.mean == Deviation(0, 0, 0)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 2**32 - 1), st.sampled_from([100, 18_432, 70_000, 400_000]))
def test_own_digests_fit_exactly_in_large_chunks(seed: int, size: int) -> None:
    bits = np.random.default_rng(seed).integers(0, 0x7F80, size).astype(np.uint16)
    assert compare(digest(bits), bits) == Deviation(0, 0, 0)


@settings(deadline=None)
@given(CHUNKS, st.integers(1, 128))
def test_top_points_are_the_largest(chunk: np.ndarray, k: int) -> None:
    order = sorted(range(chunk.size), key=lambda i: (-int(chunk[i] & 0x7FFF), i))[:k]
    assert top_points(chunk, k)[0].tolist() == sorted(order)


@settings(deadline=None)
@given(
    st.dictionaries(st.integers(0, 2**40), st.integers(0, PRIME - 1), min_size=1, max_size=40),
    st.randoms(use_true_random=False),
)
def test_round_trip_through_the_polynomial(points: dict[int, int], random: object) -> None:
    pairs = list(points.items())
    random.shuffle(pairs)  # type: ignore[attr-defined]
    indices = np.array([i for i, _ in pairs], np.int64)
    proof = from_points([(indices, np.array([y for _, y in pairs], np.uint16))])[0]
    modulus, *coefficients = np.frombuffer(proof, ">u2").tolist()
    assert len(pairs) <= modulus <= PRIME
    for index, pattern in pairs:
        value = 0
        for coefficient in reversed(coefficients):
            value = (value * (index % modulus) + coefficient) % PRIME
        assert value == pattern


@settings(deadline=None)
@given(st.binary(max_size=140), CHUNKS)
def test_any_bytes_give_a_deviation_or_bad_proof(proof: bytes, chunk: np.ndarray) -> None:
    try:
        found = compare(proof, chunk, 64)
    except BadProof:
        return
    assert 0 <= found.exp_mismatches <= min(64, chunk.size)
    assert found.mantissa_mean <= 127 or found.mantissa_mean == NO_MATCH


@settings(deadline=None)
@given(CHUNKS, st.data())
def test_a_changed_modulus_or_coefficient_is_never_an_error_of_numpy(
    chunk: np.ndarray, data: st.DataObject
) -> None:
    proof = bytearray(digest(chunk))
    place = data.draw(st.integers(0, len(proof) - 1))
    proof[place] = data.draw(st.integers(0, 255))
    try:
        compare(bytes(proof), chunk)
    except BadProof:
        return
