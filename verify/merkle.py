"""Merkle trees over SHA-256, as in RFC 6962 (certificate transparency), section 2.1.

A tree of n leaves splits at the largest power of two below n, so no leaf is ever repeated to fill
a level, and two lists of leaves have one root only if they are equal. A prefix keeps leaves (0x00)
and inner nodes (0x01) apart, so an inner node can't be passed off as a leaf.
"""

from collections.abc import Sequence
from hashlib import sha256

HASH_BYTES = 32


def root(leaves: Sequence[bytes]) -> bytes:
    """Root over leaves of any length, 32 bytes. No leaves: SHA-256 of the empty string."""
    if not leaves:
        return sha256().digest()
    level = [_leaf(leaf) for leaf in leaves]
    while len(level) > 1:
        level = _parents(level)
    return level[0]


def path(leaves: Sequence[bytes], index: int) -> list[bytes]:
    """Siblings of leaf ``index`` from the bottom up: what ``verify_path`` needs.

    Raises ``IndexError`` when there is no such leaf; negative indices don't count from the end.
    """
    if not 0 <= index < len(leaves):
        raise IndexError(f"leaf {index} of {len(leaves)}")
    level, siblings = [_leaf(leaf) for leaf in leaves], []
    while len(level) > 1:
        if index ^ 1 < len(level):
            siblings.append(level[index ^ 1])
        level, index = _parents(level), index // 2
    return siblings


def verify_path(leaf: bytes, index: int, count: int, path: Sequence[bytes], root: bytes) -> bool:
    """Whether ``leaf`` is number ``index`` of ``count`` leaves under ``root``.

    Never raises: an index, a count or a path that can't be is simply not proven. ``count`` decides
    the shape of the path, but isn't itself proven; it has to come from what was signed.
    """
    if not 0 <= index < count or any(len(sibling) != HASH_BYTES for sibling in path):
        return False
    node, last, siblings = _leaf(leaf), count - 1, iter(path)
    while last:
        # A node without a sibling, at the ragged right edge, rises as it is.
        if index ^ 1 <= last:
            sibling = next(siblings, None)
            if sibling is None:
                return False
            node = _node(sibling, node) if index & 1 else _node(node, sibling)
        index, last = index // 2, last // 2
    return next(siblings, None) is None and node == root


def _leaf(leaf: bytes) -> bytes:
    return sha256(b"\x00" + leaf).digest()


def _node(left: bytes, right: bytes) -> bytes:
    return sha256(b"\x01" + left + right).digest()


def _parents(level: list[bytes]) -> list[bytes]:
    paired = [_node(left, right) for left, right in zip(level[::2], level[1::2], strict=False)]
    return paired + level[len(paired) * 2 :]
