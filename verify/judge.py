"""What a node needs of whoever judges proofs: the seam between serving and replaying."""

from collections.abc import Callable
from typing import Any, Protocol

from hearthring.verify.proof import Proof
from hearthring.verify.stage_audit import Opened
from hearthring.verify.verdict import Verdict

Breathe = Callable[[], None]
"""Called now and then by a long replay: it may wait, so that others get the processor, or raise."""


class Judge(Protocol):
    """Replays with own weights. Both return the verdict and the numerics class of the replay.

    ``model`` is the opened model with all parts that are needed.
    """

    def whole(self, proof: Proof, model: Any, breathe: Breathe) -> tuple[Verdict, str]:
        """Judge a whole proof from its token ids on."""

    def stage(
        self,
        proof: Proof,
        place: int,
        model: Any,
        taken: Opened | None,
        sent: Opened | None,
        breathe: Breathe,
    ) -> tuple[Verdict, str]:
        """Judge one stage; without ``taken`` its input are the embeddings of the proof's tokens."""
