"""The tree of kept rows finds what was kept, never anything else, and never more than it may."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from hearthring.node.prefix import PrefixCursor, PrefixTree
from hearthring.protocol.messages import PROMPT, Row
from hearthring.shards.engine import KvCache, Slots, Window

WINDOW = (0, 2)
PATHS = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=12), min_size=1, max_size=12)


class Notes:
    """A cache whose keys and values are one note per slot."""

    def __init__(self, slots: int, window: Window) -> None:
        self.window, self.capacity, self.notes = window, slots, [""] * slots

    def move(self, source: Slots, target: Slots) -> None:
        raise AssertionError("nothing is compacted here")

    def copy(self, other: KvCache, source: Slots, target: Slots) -> None:
        assert isinstance(other, Notes)
        for old, new in zip(source, target, strict=True):
            self.notes[new] = other.notes[old]


def digests(path: list[int]) -> list[bytes]:
    return [bytes([value]) * 32 for value in path]


def keep(tree: PrefixTree, owner: str, path: list[int]) -> None:
    """A session that lay in every second slot leaves: its notes are what led to each row."""
    slots = np.arange(len(path), dtype=np.int64) * 2
    cache = Notes(2 * len(path), WINDOW)
    said = [f"{owner}{path[: n + 1]}" for n in range(len(path))]
    for slot, text in zip(slots, said, strict=True):
        cache.notes[slot] = text
    wires = [text.encode() for text in said]
    PrefixCursor(tree, WINDOW, owner).keep(digests(path), wires, cache, slots)


def found(tree: PrefixTree, owner: str, path: list[int]) -> int:
    """How many rows are found; each must be the very row that was kept."""
    cursor, count = PrefixCursor(tree, WINDOW, owner), 0
    for position, digest in enumerate(digests(path)):
        here = cursor.follow(Row(position + 1, position, position, PROMPT), digest)
        if here is None:
            break
        said = f"{owner}{path[: position + 1]}"
        assert isinstance(here.cache, Notes)
        assert (here.cache.notes[here.slot], bytes(here.wire)) == (said, said.encode())
        count += 1
    return count


def shared(one: list[int], other: list[int]) -> int:
    same = [a == b for a, b in zip(one, other, strict=False)]
    return same.index(False) if False in same else len(same)


@given(PATHS, st.lists(st.integers(0, 2), max_size=12))
def test_the_longest_kept_prefix_is_found(paths: list[list[int]], asked: list[int]) -> None:
    tree = PrefixTree(Notes, 10_000)
    for path in paths:
        keep(tree, "a", path)
    assert found(tree, "a", asked) == max(shared(path, asked) for path in paths)
    assert tree.rows == len({tuple(path[: n + 1]) for path in paths for n in range(len(path))})


@given(PATHS, st.integers(0, 20), st.integers(0, 20))
def test_the_limit_holds_and_what_is_left_is_true(
    paths: list[list[int]], limit: int, later: int
) -> None:
    tree = PrefixTree(Notes, limit)
    for path in paths:
        keep(tree, "a", path)
        assert tree.rows <= limit
        assert found(tree, "a", path) <= limit
    tree.limit = later
    tree.trim()
    assert tree.rows <= later
    total = {tuple(p[: n + 1]) for p in paths for n in range(found(tree, "a", p))}
    assert len(total) == tree.rows


@given(PATHS)
def test_owners_share_nothing(paths: list[list[int]]) -> None:
    tree = PrefixTree(Notes, 10_000)
    for path in paths:
        keep(tree, "a", path)
    assert all(found(tree, "b", path) == 0 for path in paths)


def test_the_least_recently_used_rows_go_first() -> None:
    tree = PrefixTree(Notes, 6)
    keep(tree, "a", [0, 0, 0])
    keep(tree, "a", [1, 1, 1])
    assert found(tree, "a", [0, 0, 0]) == 3
    keep(tree, "a", [2, 2, 2])
    assert [found(tree, "a", [n] * 3) for n in range(3)] == [3, 0, 3]


def test_a_branch_keeps_what_it_grew_from() -> None:
    tree = PrefixTree(Notes, 6)
    keep(tree, "a", [0, 0, 0, 0])
    keep(tree, "a", [0, 0, 1])
    keep(tree, "a", [2])
    keep(tree, "a", [2, 2])  # only the branch is nobody's ground
    assert [found(tree, "a", p) for p in ([0, 0, 0, 0], [0, 0, 1], [2, 2])] == [4, 2, 2]


def test_a_row_off_the_path_ends_the_search() -> None:
    tree = PrefixTree(Notes, 10)
    keep(tree, "a", [0, 1, 2])
    first, second, third = digests([0, 1, 2])
    cursor = PrefixCursor(tree, WINDOW, "a")
    assert cursor.follow(Row(1, 0, 0, PROMPT), first)
    assert cursor.follow(Row(3, 2, 1, PROMPT), second) is None  # a child of another row
    assert cursor.follow(Row(4, 1, 1, PROMPT), second) is None
    cursor = PrefixCursor(tree, WINDOW, "a")
    assert cursor.follow(Row(1, 0, 0, PROMPT), first)
    assert cursor.follow(Row(2, 1, 1, PROMPT), third) is None
