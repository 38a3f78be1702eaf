"""What a sender signs with every step: which rows, as which bytes, in which session.

The signature covers hashes of the rows, so it stays small and can be shown later without the rows:
that is what settles a dispute between neighbours.
"""

import struct
import threading
import time
from collections.abc import Iterable, Sequence
from hashlib import sha256

from hearthring.protocol import identity
from hearthring.protocol.errors import HearthringError
from hearthring.protocol.messages import Evidence, Row, SignedRows, Step
from hearthring.verify.rowhash import row_hashes

_TAG = b"hearthring/step/1"
_head, _id = struct.Struct(">17s16sIIII").pack, struct.Struct(">I").pack
_HEAD_START = 0.0004
"""Seconds that whoever works beside a check is given to come to its kernels."""


def claim(
    session: bytes,
    epoch: int,
    step_id: int,
    boundary: int,
    ids: Sequence[int],
    hashes: Sequence[bytes],
) -> bytes:
    """The bytes a sender signs for one step: 32 of them, whatever the number of rows."""
    head = _head(_TAG, session, epoch, step_id, boundary, len(ids))
    return sha256(b"".join((head, *map(_id, ids), *hashes))).digest()


class Check:
    """The rows of a step as they came, and the signature over them: hashed and checked beside other
    work, by whoever comes first, once.

    ``sender`` must have signed the ``live`` rows of ``step``, as of a class's ``fingerprint``, at
    ``boundary``. ``confirm`` tells; ``begin`` is for the thread that has time for it.
    """

    __slots__ = (
        "_about",
        "_boundary",
        "_error",
        "_hashes",
        "_live",
        "_lock",
        "_open",
        "_signed",
        "_step",
    )

    def __init__(
        self,
        sender: str,
        step: Step,
        live: Sequence[Row],
        boundary: int,
        model_id: bytes,
        fingerprint: bytes,
    ) -> None:
        self._step, self._live, self._boundary = step, live, boundary
        self._about = sender, model_id, fingerprint
        self._lock, self._open = threading.Lock(), True
        self._hashes: tuple[bytes, ...] | None = None
        self._error: HearthringError | None = None
        self._signed: SignedRows | None = None

    def hashes(self) -> tuple[bytes, ...]:
        """Of the live rows, whoever signed them or not."""
        with self._lock:
            return self._hashed()

    def begin(self) -> None:
        """Check it now, unless somebody has. Raises nothing."""
        with self._lock:
            if self._open:
                try:
                    self._signed = self._verify()
                except HearthringError as error:
                    self._error = error
                self._open = False

    def confirm(self) -> SignedRows:
        """What was signed, once the signature is known to hold.

        Raises ``BadSignature`` or ``Malformed``.
        """
        self.begin()
        if self._error is not None:
            raise self._error
        assert self._signed is not None
        return self._signed

    def _hashed(self) -> tuple[bytes, ...]:
        if self._hashes is None:
            live, (_, model_id, fingerprint) = self._live, self._about
            self._hashes = tuple(
                row_hashes(
                    model_id,
                    fingerprint,
                    self._boundary,
                    [row.kind for row in live],
                    [row.position for row in live],
                    self._step.states,
                    len(live),
                )
            )
        return self._hashes

    def _verify(self) -> SignedRows:
        step, ids, hashes = self._step, tuple(row.id for row in self._live), self._hashed()
        about = step.session, step.epoch, step.step_id, self._boundary
        identity.verify(self._about[0], claim(*about, ids, hashes), step.signature)
        return SignedRows(step.epoch, step.step_id, ids, hashes, step.signature)


def begin(checks: Iterable[Check]) -> None:
    """Make checks on a thread of their own, beside other work, which gets a head start: a check
    holds the interpreter's lock, and each call that leads to a kernel would wait for it."""
    time.sleep(_HEAD_START)
    for check in checks:
        check.begin()


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
