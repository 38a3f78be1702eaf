"""A verdict that its verifier signs: about one proof, as a whole or one stage of it.

What is signed are fixed fields, so that two verifiers' words can be counted (``vote.py``) and kept
(``reputation.py``) by somebody who wasn't there.
"""

import math
import time
from dataclasses import dataclass
from typing import Any

from google.protobuf.message import DecodeError

from hearthring.proto import proof_pb2
from hearthring.protocol import identity
from hearthring.protocol.checks import count, exactly
from hearthring.protocol.errors import Malformed, one_line
from hearthring.protocol.limits import LIMITS
from hearthring.protocol.messages import SignedVerdict
from hearthring.verify.verdict import Guilty, Outcome, Strength, Verdict
from hearthring.verify.vote import Ballot

VERSION = 1
WHOLE = -1
_CONTEXT = b"hearthring/verdict/1"
_FIGURES = ("chunks_equal", "exp_mismatches_mean", "mantissa_mean")


@dataclass(frozen=True, slots=True)
class StageFigures:
    """What a replay of one stage gave: chunks equal in every bit, and how far the digests are."""

    node: str
    start: int
    end: int
    chunks_equal: int = 0
    exp_mismatches_mean: float = 0.0
    mantissa_mean: float = 0.0


@dataclass(frozen=True, slots=True)
class VerdictBody:
    """``proof_hash``: as ``Proof.file_hash``. ``place``: the stage judged, or ``WHOLE``.

    ``withheld`` are nodes that didn't open what they had to. ``fingerprint`` is the verifier's own
    numerics class. ``created_ms`` is its wall clock.
    """

    verifier: str
    proof_hash: bytes
    model_id: str
    place: int
    outcome: Outcome
    strength: Strength
    reason: str = ""
    guilty: tuple[Guilty, ...] = ()
    withheld: tuple[str, ...] = ()
    fingerprint: str = ""
    created_ms: int = 0
    rows: int = 0
    tokens_checked: int = 0
    tokens_different: int = 0
    stages: tuple[StageFigures, ...] = ()

    def ballot(self, owner: str) -> Ballot:
        """The vote of a verifier that this owner has."""
        return Ballot(self.verifier, owner, self.outcome, self.strength, frozenset(self.guilty))

    def as_json(self) -> dict[str, Any]:
        """A view for people and other programs."""
        return {
            "verifier": self.verifier,
            "verdict": self.outcome.value,
            "strength": self.strength.value,
            "guilty": [{"node": g.node, "start": g.start, "end": g.end} for g in self.guilty],
            "withheld": list(self.withheld),
            "reason": self.reason,
            "fingerprint": self.fingerprint,
        }


def body_of(
    verdict: Verdict, verifier: str, proof_hash: bytes, model_id: str, place: int, fingerprint: str
) -> VerdictBody:
    """A verdict in the fixed form that is signed; what has no place in it is left out."""
    figures = verdict.figures
    stages = tuple(
        StageFigures(s["node"], s["start"], s["end"], *(s.get(name, 0) for name in _FIGURES))
        for s in figures.get("stages", ())
    )
    return VerdictBody(
        verifier=verifier,
        proof_hash=proof_hash,
        model_id=model_id,
        place=place,
        outcome=verdict.outcome,
        strength=verdict.strength,
        reason=verdict.reason[: LIMITS.reason_chars],
        guilty=verdict.guilty[: LIMITS.hops],
        withheld=tuple(figures.get("withheld", ()))[: LIMITS.hops],
        fingerprint=fingerprint,
        created_ms=time.time_ns() // 1_000_000,
        rows=figures.get("rows", 0),
        tokens_checked=figures.get("tokens_checked", 0),
        tokens_different=figures.get("tokens_different", 0),
        stages=stages[: LIMITS.hops],
    )


def sign(body: VerdictBody, who: identity.Identity) -> SignedVerdict:
    """The verdict as its verifier hands it out."""
    assert body.verifier == who.node_id
    data = proof_pb2.VerdictBody(
        version=VERSION,
        place=body.place + 1,
        outcome=body.outcome.value,
        strength=body.strength.value,
        guilty=[proof_pb2.StageName(node=g.node, start=g.start, end=g.end) for g in body.guilty],
        stages=[
            proof_pb2.StageFigures(**{n: getattr(s, n) for n in StageFigures.__slots__})
            for s in body.stages
        ],
        **{name: getattr(body, name) for name in _SAME},
    ).SerializeToString(deterministic=True)
    return SignedVerdict(data, who.sign(_CONTEXT + data))


def read(signed: SignedVerdict) -> VerdictBody:
    """Check a verdict's signature and fields. Raises ``BadSignature``, ``Malformed``, ``TooLarge``.

    A valid signature says who speaks, not that it is true.
    """
    try:
        message = proof_pb2.VerdictBody.FromString(signed.body)
    except DecodeError:
        raise Malformed("doesn't decode", field="verdict") from None
    identity.verify(message.verifier, _CONTEXT + signed.body, signed.signature)
    if message.version != VERSION:
        raise Malformed(f"version {message.version} isn't known here", field="verdict.version")
    exactly("verdict.proof_hash", message.proof_hash, 32)
    count("verdict.reason", message.reason, LIMITS.reason_chars)
    for name in ("guilty", "withheld", "stages"):
        count(f"verdict.{name}", getattr(message, name), LIMITS.hops)
    for text in (message.model_id, message.fingerprint, *message.withheld):
        count("verdict.names", text, LIMITS.name_chars)
    try:
        outcome, strength = Outcome(message.outcome), Strength(message.strength)
    except ValueError:
        raise Malformed("no known outcome or strength", field="verdict.outcome") from None
    fields = {name: getattr(message, name) for name in _SAME}
    fields |= {"withheld": tuple(message.withheld), "reason": one_line(message.reason)}
    return VerdictBody(
        **fields,
        place=message.place - 1,
        outcome=outcome,
        strength=strength,
        guilty=tuple(_guilty(g) for g in message.guilty),
        stages=tuple(_read_figures(s) for s in message.stages),
    )


def about(body: VerdictBody, proof_hash: bytes, model_id: str, place: int, verifier: str) -> bool:
    """Whether a verdict is this verifier's, about this proof and stage, and not one of another."""
    asked = (proof_hash, model_id, place, verifier)
    return (body.proof_hash, body.model_id, body.place, body.verifier) == asked


def _guilty(stage: proof_pb2.StageName) -> Guilty:
    _check_window(stage.node, stage.start, stage.end)
    return Guilty(stage.node, stage.start, stage.end)


def _check_window(node: str, start: int, end: int) -> None:
    count("verdict.node", node, LIMITS.name_chars)
    if not start < end:
        raise Malformed("not a window of layers", field="verdict.guilty")


def _read_figures(stage: proof_pb2.StageFigures) -> StageFigures:
    _check_window(stage.node, stage.start, stage.end)
    if not all(0 <= f < math.inf for f in (stage.exp_mismatches_mean, stage.mantissa_mean)):
        raise Malformed("not a figure", field="verdict.stages")
    return StageFigures(**{name: getattr(stage, name) for name in StageFigures.__slots__})


_SAME = (
    "verifier",
    "proof_hash",
    "model_id",
    "reason",
    "withheld",
    "fingerprint",
    "created_ms",
    "rows",
    "tokens_checked",
    "tokens_different",
)
