"""Merkle trees: the recursive definition, and paths that prove one leaf and nothing else."""

from hashlib import sha256

from hypothesis import given, settings
from hypothesis import strategies as st

from hearthring.verify.merkle import path, root, verify_path

LEAVES = st.lists(st.binary(max_size=40), max_size=70)
SOME = st.lists(st.binary(max_size=40), min_size=1, max_size=70)


def by_definition(leaves: list[bytes]) -> bytes:
    if not leaves:
        return sha256(b"").digest()
    if len(leaves) == 1:
        return sha256(b"\0" + leaves[0]).digest()
    split = 1
    while split * 2 < len(leaves):
        split *= 2
    return sha256(b"\1" + by_definition(leaves[:split]) + by_definition(leaves[split:])).digest()


@settings(deadline=None)
@given(LEAVES)
def test_root_is_that_of_the_definition(leaves: list[bytes]) -> None:
    assert root(leaves) == by_definition(leaves)


@settings(deadline=None)
@given(LEAVES, LEAVES)
def test_other_leaves_have_another_root(leaves: list[bytes], others: list[bytes]) -> None:
    assert (root(leaves) == root(others)) == (leaves == others)


@settings(deadline=None)
@given(SOME)
def test_every_path_proves_its_leaf_at_its_place_only(leaves: list[bytes]) -> None:
    top = root(leaves)
    for index, leaf in enumerate(leaves):
        siblings = path(leaves, index)
        for place in range(len(leaves)):
            proven = verify_path(leaf, place, len(leaves), siblings, top)
            assert not proven or leaves[place] == leaf
            assert proven or place != index
        assert not verify_path(leaf + b"!", index, len(leaves), siblings, top)


@settings(deadline=None)
@given(SOME, st.data())
def test_a_changed_path_proves_nothing(leaves: list[bytes], data: st.DataObject) -> None:
    index = data.draw(st.integers(0, len(leaves) - 1))
    siblings = path(leaves, index)
    changed = data.draw(st.lists(st.sampled_from([*siblings, bytes(32)]), max_size=8))
    proven = verify_path(leaves[index], index, len(leaves), changed, root(leaves))
    assert proven == (changed == siblings)


@settings(deadline=None)
@given(
    st.binary(max_size=40),
    st.integers(),
    st.integers(),
    st.lists(st.binary(max_size=33), max_size=5),
    st.binary(max_size=33),
)
def test_any_input_gives_an_answer(
    leaf: bytes, index: int, count: int, siblings: list[bytes], top: bytes
) -> None:
    assert verify_path(leaf, index, count, siblings, top) in (True, False)
