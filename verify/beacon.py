"""The beacon: chance that nobody could foresee while they could still change what it decides.

At attach a client commits itself to a nonce and to the snapshot of candidates; every receipt
repeats that commitment under its stage's signature. The beacon hashes the nonce with a root over
all receipts, so the stages, who didn't know the nonce, have signed before they can know the beacon.
The client knows its nonce: the draw protects it from others, not others from it.
"""

from collections.abc import Sequence
from hashlib import sha256

from hearthring.verify.candidates import Candidate, snapshot_hash
from hearthring.verify.merkle import root
from hearthring.verify.proof import Proof

_NONCE, _BEACON = b"hearthring/nonce/1", b"hearthring/beacon/1"


def commitment(nonce: bytes, candidates: Sequence[Candidate]) -> bytes:
    """What a client tells every stage at attach, as ``nonce_hash``: 32 bytes.

    Without candidates it is the plain SHA-256 of the nonce.
    """
    if not candidates:
        return sha256(nonce).digest()
    return sha256(_NONCE + nonce + snapshot_hash(candidates)).digest()


def final_root(proof: Proof) -> bytes:
    """Merkle root over everything that was signed: each stage's receipt (empty if withheld), and
    the roots of the rows that the client received."""
    receipts = [sha256(s.receipt.body).digest() if s.receipt else b"" for s in proof.stages]
    return root([*receipts, *proof.out_roots])


def beacon(proof: Proof) -> bytes:
    """32 bytes that nobody could know before the last receipt was signed, but who has the nonce."""
    return sha256(_BEACON + final_root(proof) + proof.nonce).digest()
