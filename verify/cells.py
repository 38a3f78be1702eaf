"""What a stage commits to of its inside: one cell per layer and position.

A cell is what one layer made of one row: the residual that left the layer, and the K and V that it
stored. K and V of a row depend on that row's residual only, so a cell can be checked with the
weights of one layer: from the residual below it and the stored K and V of the positions before.
Nobody checks a cell without these, so the cells of a layer in a chunk of 32 positions share a leaf,
a *column* (decision 0022); the root of a chunk is the Merkle root (``verify/merkle.py``) over its
columns, lowest layer first.

Column, under SHA-256, integers big-endian::

    "hearthring/cells/1"   18 bytes
    model id               32
    class fingerprint      32
    layer                   4
    first position          4
    positions               4
    residuals              32   SHA-256 of their row hashes (``verify/rowhash.py``), boundary + 1
    K                      32   SHA-256 of the stored rows, in order of position
    V                      32

A residual counts by its row hash, so the columns of a stage's last layer hold just the hashes that
it signed and sent: true cells beside other bytes on the wire contradict each other.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256

from hearthring.verify.merkle import root

_TAG = b"hearthring/cells/1"
_PLACE = struct.Struct(">III")


@dataclass(frozen=True, slots=True)
class Column:
    """The cells of one layer in one chunk, by their hashes.

    ``rows``: row hash of each residual that left the layer; ``k`` and ``v``: hashes of the stored
    rows.
    """

    layer: int
    first: int
    rows: tuple[bytes, ...]
    k: bytes
    v: bytes

    @property
    def residuals(self) -> bytes:
        """The hash over its row hashes."""
        return sha256(b"".join(self.rows)).digest()

    def leaf(self, model_id: bytes, fingerprint: bytes) -> bytes:
        """The leaf that stands for it, 32 bytes."""
        place = (self.layer, self.first, len(self.rows))
        return leaf(model_id, fingerprint, place, self.residuals, self.k, self.v)


def leaf(
    model_id: bytes,
    fingerprint: bytes,
    place: tuple[int, int, int],
    residuals: bytes,
    k: bytes,
    v: bytes,
) -> bytes:
    """A column's leaf, of three hashes. ``place``: layer, first position, positions."""
    head = _TAG + model_id + fingerprint + _PLACE.pack(*place)
    return sha256(head + residuals + k + v).digest()


def chunk_root(columns: Sequence[Column], model_id: bytes, fingerprint: bytes) -> bytes:
    """The root over the columns of a chunk, one for each layer of the stage."""
    return root([column.leaf(model_id, fingerprint) for column in columns])
