"""Row hashes: what a stage signs, and what ties it to its neighbours.

A row hash covers everything that gives a row's bytes their meaning: the model, the numerics class,
the boundary it crossed (after how many layers), why the row exists, where it stands, and the exact
bytes on the wire. Session and epoch are left out, so equal computations have equal hashes.

Layout under SHA-256, integers big-endian::

    "hearthring/row/1"   16 bytes
    model id             32
    class fingerprint    32
    boundary              4
    kind                  1
    position              4
    wire bytes           the rest

Every field but the last has a fixed length, so no two rows share an input.
"""

import struct
from collections.abc import Sequence
from functools import lru_cache
from hashlib import sha256
from typing import TYPE_CHECKING

from hearthring.protocol.errors import BadReceipt, BadShape
from hearthring.verify.merkle import HASH_BYTES, root

if TYPE_CHECKING:
    from hashlib import _Hash as RowHashBegun

CHUNK = 32
"""Rows under one Merkle root: a chunk holds the positions with the same ``position // CHUNK``."""

_TAG = b"hearthring/row/1"
_JOINED = b"hearthring/rows/1"
_place = struct.Struct(">BI").pack
_U32 = 1 << 32


def row_hashes(
    model_id: bytes,
    fingerprint: bytes,
    boundary: int,
    kinds: Sequence[int],
    positions: Sequence[int],
    wire: bytes | memoryview,
    rows: int,
) -> list[bytes]:
    """Hashes, 32 bytes each, of ``rows`` rows that lie one after the other in ``wire``.

    ``model_id`` and ``fingerprint`` are the raw 32 bytes, ``kinds`` and ``positions`` have one
    entry per row. Raises ``BadShape`` when lengths disagree or a number doesn't fit its field.
    """
    if len(kinds) != rows or len(positions) != rows:
        raise BadShape(
            f"{len(kinds)} kinds and {len(positions)} positions for {rows} rows", field="row hash"
        )
    size = wire.nbytes if isinstance(wire, memoryview) else len(wire)
    width, rest = divmod(size, rows) if rows else (0, size)
    if rest or (rows and not width):
        raise BadShape(f"{size} bytes for {rows} rows", field="row hash")
    begun, view = row_hash_begun(model_id, fingerprint, boundary), memoryview(wire).cast("B")
    return [
        row_hash(begun, kind, position, view[at * width : (at + 1) * width])
        for at, (kind, position) in enumerate(zip(kinds, positions, strict=True))
    ]


def row_hash(begun: "RowHashBegun", kind: int, position: int, wire: bytes | memoryview) -> bytes:
    """The hash of one row: ``begun`` goes on with it.

    Raises ``BadShape`` when a number doesn't fit its field.
    """
    state = begun.copy()
    try:
        state.update(_place(kind, position))
    except struct.error:
        raise BadShape(f"kind {kind} at position {position}", field="row hash") from None
    state.update(wire)
    return state.digest()


@lru_cache(256)
def row_hash_begun(model_id: bytes, fingerprint: bytes, boundary: int) -> "RowHashBegun":
    """SHA-256 over what all rows at a boundary begin with. To be copied, never updated.

    Raises ``BadShape`` for a hash of another length, or a boundary that doesn't fit its field.
    """
    if len(model_id) != HASH_BYTES or len(fingerprint) != HASH_BYTES:
        raise BadShape("a model id or fingerprint that isn't 32 bytes", field="row hash")
    if not 0 <= boundary < _U32:
        raise BadShape(f"{boundary} isn't a boundary", field="row hash")
    return sha256(_TAG + model_id + fingerprint + boundary.to_bytes(4, "big"))


def joined(hashes: Sequence[bytes]) -> bytes:
    """One hash for rows in order, by which two sides see whether they mean the same; empty for
    none."""
    return sha256(_JOINED + b"".join(hashes)).digest() if hashes else b""


def chunk_roots(positions: Sequence[int], hashes: Sequence[bytes]) -> list[bytes]:
    """Merkle root per chunk of ``CHUNK`` committed rows; the last chunk may be short.

    ``positions`` must be 0, 1, 2 … with one hash each: committed rows have no gap, and a receipt
    that skips or repeats one is refused with ``BadReceipt``.
    """
    if len(positions) != len(hashes):
        raise BadReceipt(f"{len(hashes)} hashes for {len(positions)} rows", field="positions")
    for expected, position in enumerate(positions):
        if position != expected:
            raise BadReceipt(f"{position} where {expected} should be", field="positions")
    if any(len(value) != HASH_BYTES for value in hashes):
        raise BadReceipt(f"a row hash that isn't {HASH_BYTES} bytes", field="hashes")
    return [root(hashes[start : start + CHUNK]) for start in range(0, len(hashes), CHUNK)]
