"""What a sender signs with every step: which rows, as which bytes, in which session.

The signature covers hashes of the rows, so it stays small and can be shown later without the rows:
that is what settles a dispute between neighbours.
"""

import struct
from collections.abc import Iterable, Sequence
from hashlib import sha256

from hearthring.protocol import identity
from hearthring.protocol.errors import HearthringError
from hearthring.protocol.messages import Evidence


def claim(
    session: bytes,
    epoch: int,
    step_id: int,
    boundary: int,
    ids: Sequence[int],
    hashes: Sequence[bytes],
) -> bytes:
    """The bytes a sender signs for one step: 32 of them, whatever the number of rows."""
    head = struct.pack(">16sIIII", session, epoch, step_id, boundary, len(ids))
    return sha256(
        b"hearthring/step/1" + head + struct.pack(f">{len(ids)}I", *ids) + b"".join(hashes)
    ).digest()


def proven_rows(
    evidence: Evidence, session: bytes, sender: str, boundary: int
) -> dict[int, tuple[bytes, ...]]:
    """Row id to the hashes that ``sender`` verifiably signed for it; usually one each.

    Steps whose signature doesn't hold prove nothing and are left out.
    """
    proven: dict[int, tuple[bytes, ...]] = {}
    for step in evidence.received:
        signed = claim(session, step.epoch, step.step_id, boundary, step.ids, step.hashes)
        try:
            identity.verify(sender, signed, step.signature)
        except HearthringError:
            continue
        for row, digest in zip(step.ids, step.hashes, strict=True):
            if digest not in proven.get(row, ()):
                proven[row] = (*proven.get(row, ()), digest)
    return proven


def sent_all(proven: dict[int, tuple[bytes, ...]], rows: Iterable[tuple[int, bytes]]) -> bool:
    """Whether the sender signed every one of these ``(row id, hash)``."""
    return all(digest in proven.get(row, ()) for row, digest in rows)
