"""What becomes of a sender's rows before they leave: each is hashed, the step is signed.

This lies between an engine's last kernel and the wire, and engines empty the processor's caches: a
row on its way costs what has to be fetched again. So all that steps have in common is made once,
and a token's single row touches no more code than it needs.
"""

from collections.abc import Sequence

from hearthring.protocol.identity import Identity
from hearthring.protocol.messages import Row
from hearthring.verify.claims import claim
from hearthring.verify.rowhash import row_hash, row_hash_begun, row_hashes


class Seal:
    """One sender at one boundary, in one epoch of a session; for one thread at a time.

    ``model_id`` and ``fingerprint``, of the class that made the rows, are the raw 32 bytes.
    """

    __slots__ = ("_about", "_begun", "_boundary", "_sign", "_until")

    def __init__(
        self,
        who: Identity,
        session: bytes,
        epoch: int,
        boundary: int,
        model_id: bytes,
        fingerprint: bytes,
    ) -> None:
        self._about = model_id, fingerprint, boundary
        self._begun = row_hash_begun(*self._about)
        self._until, self._boundary, self._sign = (session, epoch), boundary, who.signer()

    def put(
        self, step_id: int, rows: Sequence[Row], wire: bytes | memoryview
    ) -> tuple[list[bytes], bytes]:
        """The hashes of ``rows``, which lie one after the other in ``wire``, and the signature over
        their step. Raises ``BadShape`` as ``row_hashes``."""
        if len(rows) == 1:
            row = rows[0]
            hashes = [row_hash(self._begun, row.kind, row.position, wire)]
        else:
            kinds, positions = [row.kind for row in rows], [row.position for row in rows]
            hashes = row_hashes(*self._about, kinds, positions, wire, len(rows))
        ids = [row.id for row in rows]
        return hashes, self._sign(claim(*self._until, step_id, self._boundary, ids, hashes))
