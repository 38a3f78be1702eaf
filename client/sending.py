"""Rows as a client sends them: in steps, hashed and signed. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

from hearthring.client.flight import Sent
from hearthring.protocol.identity import Identity
from hearthring.protocol.messages import Step
from hearthring.verify.claims import claim
from hearthring.verify.rowhash import row_hashes


@dataclass(frozen=True, slots=True)
class Sender:
    """A client in one epoch of a session; ``ends`` is the numerics class of its embeddings."""

    who: Identity
    session: bytes
    epoch: int
    ends: str
    model_id: str

    def step(
        self, step_id: int, sent: Sequence[Sent], commit: Sequence[int], drop: Sequence[int]
    ) -> tuple[Step, dict[int, bytes]]:
        """A step for the first stage, and the hash of each of its rows by id."""
        rows, wire = [one.row for one in sent], b"".join(one.wire for one in sent)
        hashes = row_hashes(
            bytes.fromhex(self.model_id),
            bytes.fromhex(self.ends),
            0,
            [row.kind for row in rows],
            [row.position for row in rows],
            wire,
            len(rows),
        )
        ids = [row.id for row in rows]
        signed = claim(self.session, self.epoch, step_id, 0, ids, hashes)
        step = Step(
            session=self.session,
            epoch=self.epoch,
            step_id=step_id,
            rows=tuple(rows),
            states=wire,
            commit=tuple(commit),
            drop=tuple(drop),
            signature=self.who.sign(signed),
        )
        return step, dict(zip(ids, hashes, strict=True))
