"""Merkle trees: RFC 6962's published roots and audit paths, and refusals."""

from hashlib import sha256

import pytest

from hearthring.verify.merkle import path, root, verify_path

# The inputs and roots that certificate-transparency implementations test against.
LEAVES = [
    bytes.fromhex(text)
    for text in (
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    )
]
ROOTS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]


@pytest.mark.parametrize("count", range(9))
def test_published_roots(count: int) -> None:
    assert root(LEAVES[:count]).hex() == ROOTS[count]


def test_three_leaves_by_hand() -> None:
    a, b, c = (sha256(b"\0" + leaf).digest() for leaf in (b"a", b"b", b"c"))
    ab = sha256(b"\1" + a + b).digest()
    assert root([b"a", b"b", b"c"]) == sha256(b"\1" + ab + c).digest()
    assert path([b"a", b"b", b"c"], 0) == [b, c]
    assert path([b"a", b"b", b"c"], 2) == [ab]


def test_a_repeated_last_leaf_changes_the_root() -> None:
    assert root([b"a", b"b", b"c"]) != root([b"a", b"b", b"c", b"c"])


def test_an_inner_node_is_no_leaf() -> None:
    leaves = [b"a", b"b", b"c", b"d"]
    inner = [sha256(b"\0" + leaf).digest() for leaf in leaves]
    assert root([inner[0] + inner[1], inner[2] + inner[3]]) != root(leaves)


@pytest.mark.parametrize("index", [-1, 4, 100])
def test_path_of_no_leaf(index: int) -> None:
    with pytest.raises(IndexError):
        path([b"a"] * 4, index)


def test_what_cannot_be_is_not_proven() -> None:
    leaves = [bytes([i]) for i in range(7)]
    top, good = root(leaves), path(leaves, 4)
    assert verify_path(leaves[4], 4, 7, good, top)
    assert not verify_path(leaves[4], 4, 7, good[:-1], top)
    assert not verify_path(leaves[4], 4, 7, [*good, good[0]], top)
    assert not verify_path(leaves[4], 4, 7, [good[0][:-1], *good[1:]], top)
    assert not verify_path(leaves[4], -3, 7, good, top)
    assert not verify_path(leaves[4], 7, 7, good, top)
    assert not verify_path(leaves[4], 0, 0, [], root([]))
    assert not verify_path(leaves[4], 4, 7, good, top[:-1])
    assert not verify_path(leaves[4], 4, 7, good, b"")
    assert not verify_path(leaves[4], 0, 1 << 60, good, top)
