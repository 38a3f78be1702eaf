"""TOPLOC digests: the published vectors, and everything that must be refused or counted."""

from base64 import b64decode

import numpy as np
import pytest

from hearthring.protocol.errors import BadProof, BadShape, NonFinite
from hearthring.protocol.tensors import bf16_bits
from hearthring.verify import digest as module
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
from tests.digest_vectors import V3, VECTORS

ZERO = Deviation(0, 0, 0)


def chunk(seed: int, *shape: int) -> np.ndarray:
    return bf16_bits(np.random.default_rng(seed).standard_normal(shape or (32, 576), np.float32))


def spread(indices: list[int], bits: list[int], size: int) -> np.ndarray:
    """A chunk whose largest values are exactly the given points."""
    values = np.zeros(size, np.uint16)
    values[indices] = bits
    return values


@pytest.mark.parametrize("name", VECTORS)
@pytest.mark.parametrize("seed", range(4))
def test_published_vectors_in_any_order_of_points(name: str, seed: int) -> None:
    indices, bits, text = VECTORS[name]
    order = np.random.default_rng(seed).permutation(len(indices))
    points = np.array(indices, np.int64)[order], np.array(bits, np.uint16)[order]
    assert from_points([points]) == [b64decode(text)]


@pytest.mark.parametrize("name", VECTORS)
def test_published_vectors_from_a_whole_chunk(name: str) -> None:
    indices, bits, text = VECTORS[name]
    values = spread(indices, bits, 150_000)
    assert digest(values, len(indices)) == b64decode(text)
    assert compare(b64decode(text), values, len(indices)) == ZERO


def test_first_coefficients_of_v3() -> None:
    words = np.frombuffer(b64decode(V3), ">u2")
    assert words[:7].tolist() == [PRIME, 46221, 56280, 63631, 9229, 14359, 42949]


def test_modulus_is_applied_to_the_index() -> None:
    indices, bits, text = VECTORS["V2"]
    proof = b64decode(text)
    words = np.frombuffer(proof, ">u2").astype(np.uint32)
    assert words[0] == 65496
    right = module._evaluate(words[1:, None], (np.array([indices]).T % 65496).astype(np.uint32))
    raw = module._evaluate(words[1:, None], (np.array([indices]).T % PRIME).astype(np.uint32))
    assert right[:, 0].tolist() == bits
    assert raw[:, 0].tolist() == [0x3F80, 0x3F80, 0xC000, 0x400F]


def test_inverse_table_is_complete() -> None:
    table = module._inverses().astype(np.int64)
    assert table.shape == (PRIME,)
    assert (np.arange(1, PRIME) * table[1:] % PRIME == 1).all()


def test_batched_digests_are_those_of_single_chunks() -> None:
    chunks = [chunk(i) for i in range(40)] + [chunk(99, 1, 20), chunk(98, 3, 576)]
    assert digests(chunks) == [digest(c) for c in chunks]


def test_length_says_k() -> None:
    assert len(digest(chunk(0))) == 258
    assert len(digest(chunk(0, 2, 20))) == 2 + 2 * 40
    assert len(digest(chunk(0), 16)) == 34


def test_shape_does_not_matter_and_memory_order_neither() -> None:
    values = chunk(3)
    assert digest(values) == digest(values.reshape(-1))
    assert digest(np.asfortranarray(values)) == digest(values)


def test_top_points_agree_with_a_stable_sort() -> None:
    rng = np.random.default_rng(5)
    for size in (1, 127, 128, 129, 2047, 2048, 2049, 18432, 100_003):
        values = bf16_bits(rng.standard_normal(size, np.float32).round(1))  # many ties
        order = np.argsort(-(values & 0x7FFF).astype(np.int64), kind="stable")[:128]
        indices, bits = top_points(values)
        assert indices.tolist() == sorted(order.tolist())
        assert bits.tolist() == values[indices].tolist()


def test_ties_go_to_the_lowest_index() -> None:
    values = np.full(5000, 0x3F80, np.uint16)
    values[4000] = 0xC000
    assert top_points(values, 4)[0].tolist() == [0, 1, 2, 4000]


def test_flipped_signs_count() -> None:
    values = chunk(1)
    assert compare(digest(values), values ^ 0x8000) == Deviation(128, NO_MATCH, NO_MATCH)


def test_mantissas_are_compared_where_exponents_agree() -> None:
    values = np.zeros(64, np.uint16)
    values[:4] = [0x4000, 0x4010, 0x4020, 0xC100]
    ours = values.copy()
    ours[:4] = [0x4001, 0x4014, 0x4020, 0xC180]
    assert compare(digest(values, 4), ours, 4) == Deviation(1, 5 / 3, 1)
    ours[3] = 0xC102
    assert compare(digest(values, 4), ours, 4) == Deviation(0, 7 / 4, 1.5)


def test_noise_is_borne_and_other_states_are_not() -> None:
    values = np.random.default_rng(2).standard_normal((32, 576), np.float32)
    near = compare(digest(bf16_bits(values)), bf16_bits(values * np.float32(1.002)))
    assert near.exp_mismatches < 20
    assert near.mantissa_mean < 2
    assert compare(digest(bf16_bits(values)), chunk(77)).exp_mismatches > 100


def test_request_mean() -> None:
    values = [chunk(i) for i in range(3)]
    proofs = digests(values)
    found = compare_all(proofs, [values[0], values[1], values[2] ^ 0x8000])
    assert found.chunks == (ZERO, ZERO, Deviation(128, NO_MATCH, NO_MATCH))
    assert found.mean == Deviation(128 / 3, NO_MATCH / 3, NO_MATCH / 3)


@pytest.mark.parametrize(("proofs", "chunks"), [(0, 0), (1, 2), (2, 1), (0, 1)])
def test_counts_must_be_equal(proofs: int, chunks: int) -> None:
    with pytest.raises(BadProof):
        compare_all([digest(chunk(0))] * proofs, [chunk(0)] * chunks)


PROOF = digest(chunk(0))
MALFORMED = {
    "empty": b"",
    "one byte": b"\xff",
    "null": bytes(258),
    "short": PROOF[:-1],
    "long": PROOF + b"\0",
    "longer by one coefficient": PROOF + b"\0\0",
    "of another k": digest(chunk(0), 64),
    "modulus above the prime": b"\xff\xda" + PROOF[2:],
    "modulus zero": b"\0\0" + PROOF[2:],
    "modulus below k": (127).to_bytes(2, "big") + PROOF[2:],
    "modulus no index of the chunk calls for": (576).to_bytes(2, "big") + PROOF[2:],
    "first coefficient not below the prime": PROOF[:2] + b"\xff\xd9" + PROOF[4:],
    "last coefficient not below the prime": PROOF[:-2] + b"\xff\xff",
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_digests_are_refused(name: str) -> None:
    with pytest.raises(BadProof):
        compare(MALFORMED[name], chunk(0))


def test_modulus_range_in_a_large_chunk() -> None:
    values = chunk(4, 32, 4096)
    body = digest(values)[2:]
    for modulus in (128, 4096, PRIME):
        compare(modulus.to_bytes(2, "big") + body, values)
    for modulus in (127, PRIME + 1):
        with pytest.raises(BadProof):
            compare(modulus.to_bytes(2, "big") + body, values)


def test_values_that_the_modulus_merges_are_mismatches() -> None:
    """A prover who takes the width as modulus describes channels, not values."""
    width, rows = 4096, 32
    values = np.zeros((rows, width), np.uint16)
    values[:, :4] = 0x4000  # outlier channels, the same in every row
    forged = from_points([(np.arange(4096)[:128], np.full(128, 0x4000, np.uint16))])[0]
    forged = width.to_bytes(2, "big") + forged[2:]
    assert compare(digest(values), values) == ZERO
    assert compare(forged, values).exp_mismatches == 128


def test_indices_beyond_32_bits() -> None:
    indices = np.array([7, 5_000_000_000, 4_000_000_123], np.int64)
    bits = np.array([0x4000, 0x4100, 0xC200], np.uint16)
    [proof] = from_points([(indices, bits)])
    words = np.frombuffer(proof, ">u2").astype(np.uint32)
    places = (indices % int(words[0])).astype(np.uint32)[:, None]
    assert module._evaluate(words[1:, None], places)[:, 0].tolist() == bits.tolist()


def test_an_equal_index_twice_has_no_modulus() -> None:
    with pytest.raises(BadProof):
        from_points([(np.array([70_000, 70_000]), np.array([1, 2], np.uint16))])


@pytest.mark.parametrize("bits", [0x7F80, 0xFF80, 0x7FC0, 0xFFFF])
def test_infinities_and_nans_are_refused(bits: int) -> None:
    values = chunk(0)
    proof = digest(values)
    values[31, 575] = bits
    with pytest.raises(NonFinite):
        digest(values)
    with pytest.raises(NonFinite):
        compare(proof, values)


def test_what_is_no_chunk_is_refused() -> None:
    for values in (np.zeros(0, np.uint16), np.zeros((0, 576), np.uint16)):
        with pytest.raises(BadShape):
            digest(values)
        with pytest.raises((BadShape, BadProof)):
            compare(bytes(258), values)
    with pytest.raises(BadShape):
        digest(np.zeros(600, np.float32))  # type: ignore[arg-type]
    with pytest.raises(BadShape):
        digest(chunk(0), 0)


def test_inputs_are_left_alone() -> None:
    values = [chunk(0), chunk(1)]
    before = [v.copy() for v in values]
    compare_all(digests(values), values)
    assert all((a == b).all() for a, b in zip(values, before, strict=True))


def test_an_all_zero_chunk_has_a_digest() -> None:
    values = np.zeros((32, 576), np.uint16)
    assert compare(digest(values), values) == ZERO


def test_no_chunks_no_digests() -> None:
    assert digests([]) == []
