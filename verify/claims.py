"""What a sender signs with every step: which rows, as which bytes, in which session.

The signature covers hashes of the rows, so it stays small and can be shown later without the rows:
that is what settles a dispute between neighbours.
"""

import struct
import threading
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


class Check:
    """A signature that may be checked beside other work: by whoever comes first, once.

    ``confirm`` tells; ``begin`` is for the thread that has time for it.
    """

    __slots__ = ("_error", "_lock", "_message", "_open", "_sender", "_signature")

    def __init__(self, sender: str, message: bytes, signature: bytes) -> None:
        self._sender, self._message, self._signature = sender, message, signature
        self._lock, self._open = threading.Lock(), True
        self._error: HearthringError | None = None

    def begin(self) -> None:
        """Check it now, unless somebody has. Raises nothing."""
        with self._lock:
            if not self._open:
                return
            try:
                identity.verify(self._sender, self._message, self._signature)
            except HearthringError as error:
                self._error = error
            self._open = False

    def confirm(self) -> None:
        """Return once the signature is known to hold. Raises ``BadSignature`` or ``Malformed``."""
        self.begin()
        if self._error is not None:
            raise self._error


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
