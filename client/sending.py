"""Rows as a client sends them: in steps, hashed and signed. Pure."""

from collections.abc import Sequence

from hearthring.client.flight import Sent
from hearthring.protocol.identity import Identity
from hearthring.protocol.messages import Step
from hearthring.verify.sealing import Seal


class Sender:
    """A client in one epoch of a session; ``ends`` is the numerics class of its embeddings."""

    def __init__(self, who: Identity, session: bytes, epoch: int, ends: str, model_id: str) -> None:
        self.session, self.epoch = session, epoch
        about = bytes.fromhex(model_id), bytes.fromhex(ends)
        self._seal = Seal(who, session, epoch, 0, *about)

    def step(
        self, step_id: int, sent: Sequence[Sent], commit: Sequence[int], drop: Sequence[int]
    ) -> tuple[Step, dict[int, bytes]]:
        """A step for the first stage, and the hash of each of its rows by id."""
        rows, wire = tuple(one.row for one in sent), b"".join(one.wire for one in sent)
        hashes, signature = self._seal.put(step_id, rows, wire)
        step = Step(
            session=self.session,
            epoch=self.epoch,
            step_id=step_id,
            rows=rows,
            states=wire,
            commit=tuple(commit),
            drop=tuple(drop),
            signature=signature,
        )
        return step, {row.id: digest for row, digest in zip(rows, hashes, strict=True)}
