"""Row hashes: the exact input, what changes them, and chunk roots."""

from hashlib import sha256

import pytest

from hearthring.protocol.errors import BadReceipt, BadShape
from hearthring.verify.merkle import root
from hearthring.verify.rowhash import CHUNK, chunk_roots, row_hashes

MODEL, CLASS = bytes(range(32)), bytes(range(32, 64))


def test_the_exact_input() -> None:
    wire = b"abcdefgh"
    expected = [
        sha256(
            b"hearthring/row/1"
            + MODEL
            + CLASS
            + b"\x00\x00\x01\x02"
            + kind
            + position
            + wire[part : part + 4]
        ).digest()
        for kind, position, part in (
            (b"\x01", b"\x00\x00\x00\x05", 0),
            (b"\x02", b"\xff\xff\xff\xff", 4),
        )
    ]
    assert row_hashes(MODEL, CLASS, 0x102, [1, 2], [5, 2**32 - 1], wire, 2) == expected
    assert row_hashes(MODEL, CLASS, 0x102, [1, 2], [5, 2**32 - 1], memoryview(wire), 2) == expected


def test_a_fixed_vector() -> None:
    [value] = row_hashes(bytes(32), bytes(32), 0, [1], [0], bytes(1152), 1)
    assert value == sha256(b"hearthring/row/1" + bytes(68) + b"\x01" + bytes(4 + 1152)).digest()


def test_every_field_counts() -> None:
    base = (MODEL, CLASS, 3, [1], [7], b"wire", 1)
    other = (CLASS, MODEL, 4, [2], [8], b"wirf", 1)
    hashes = {row_hashes(*base)[0]}
    for field in range(6):
        changed = [*base[:field], other[field], *base[field + 1 :]]
        hashes |= set(row_hashes(*changed))  # type: ignore[arg-type]
    assert len(hashes) == 7


def test_rows_do_not_depend_on_their_batch() -> None:
    together = row_hashes(MODEL, CLASS, 1, [1, 1, 2], [0, 1, 2], b"aabbcc", 3)
    alone = [
        row_hashes(MODEL, CLASS, 1, [kind], [position], wire, 1)[0]
        for kind, position, wire in ((1, 0, b"aa"), (1, 1, b"bb"), (2, 2, b"cc"))
    ]
    assert together == alone


def test_no_rows() -> None:
    assert row_hashes(MODEL, CLASS, 1, [], [], b"", 0) == []


@pytest.mark.parametrize(
    "arguments",
    [
        (MODEL[:31], CLASS, 0, [1], [0], b"ab", 1),
        (MODEL, CLASS + b"\0", 0, [1], [0], b"ab", 1),
        (MODEL, CLASS, -1, [1], [0], b"ab", 1),
        (MODEL, CLASS, 2**32, [1], [0], b"ab", 1),
        (MODEL, CLASS, 0, [256], [0], b"ab", 1),
        (MODEL, CLASS, 0, [-1], [0], b"ab", 1),
        (MODEL, CLASS, 0, [1], [2**32], b"ab", 1),
        (MODEL, CLASS, 0, [1], [-1], b"ab", 1),
        (MODEL, CLASS, 0, [1, 1], [0], b"ab", 1),
        (MODEL, CLASS, 0, [1], [0, 1], b"ab", 1),
        (MODEL, CLASS, 0, [1, 1], [0, 1], b"abc", 2),
        (MODEL, CLASS, 0, [1], [0], b"", 1),
        (MODEL, CLASS, 0, [], [], b"a", 0),
        (MODEL, CLASS, 0, [], [], b"a", -1),
    ],
)
def test_lengths_and_numbers_that_do_not_fit(arguments: tuple) -> None:
    with pytest.raises(BadShape):
        row_hashes(*arguments)


def test_chunk_roots() -> None:
    hashes = [sha256(bytes([i])).digest() for i in range(2 * CHUNK + 5)]
    assert chunk_roots(range(len(hashes)), hashes) == [
        root(hashes[:CHUNK]),
        root(hashes[CHUNK : 2 * CHUNK]),
        root(hashes[2 * CHUNK :]),
    ]
    assert chunk_roots(range(CHUNK), hashes[:CHUNK]) == [root(hashes[:CHUNK])]
    assert chunk_roots([], []) == []


@pytest.mark.parametrize("positions", [[1, 2], [0, 0], [0, 2], [1, 0], [0], [0, 1, 2], [-1, 0]])
def test_committed_rows_have_no_gap(positions: list[int]) -> None:
    with pytest.raises(BadReceipt):
        chunk_roots(positions, [bytes(32)] * 2)


def test_a_hash_of_another_length() -> None:
    with pytest.raises(BadReceipt):
        chunk_roots([0], [bytes(31)])
