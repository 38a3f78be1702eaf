"""The judge of a node: what a client replays proofs with, imported when the first one comes."""

from functools import cached_property
from typing import TYPE_CHECKING, Any

from hearthring.verify.judge import Breathe
from hearthring.verify.proof import Proof
from hearthring.verify.stage_audit import Opened
from hearthring.verify.verdict import Verdict

if TYPE_CHECKING:
    from hearthring.client.auditing import OfflineJudge


class LateJudge:
    """``OfflineJudge``, at the price of its imports only for nodes that are ever asked."""

    def __init__(self, threads: int) -> None:
        self._threads = threads

    def whole(self, proof: Proof, model: Any, breathe: Breathe) -> tuple[Verdict, str]:
        return self._judge.whole(proof, model, breathe)

    def stage(
        self,
        proof: Proof,
        place: int,
        model: Any,
        taken: Opened | None,
        sent: Opened | None,
        breathe: Breathe,
    ) -> tuple[Verdict, str]:
        return self._judge.stage(proof, place, model, taken, sent, breathe)

    @cached_property
    def _judge(self) -> "OfflineJudge":
        from hearthring.client.auditing import OfflineJudge

        return OfflineJudge(self._threads)
