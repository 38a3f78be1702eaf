"""Verdicts as their verifiers sign them: read back, bound to one proof and stage, never altered."""

from dataclasses import replace

import pytest

from hearthring.protocol.errors import HearthringError
from hearthring.protocol.identity import Identity
from hearthring.protocol.messages import SignedVerdict
from hearthring.verify.signed_verdict import (
    WHOLE,
    StageFigures,
    VerdictBody,
    about,
    body_of,
    read,
    sign,
)
from hearthring.verify.verdict import Guilty, Outcome, Strength, inconclusive, rejected

WHO = Identity.new()
HASH = bytes(range(32))
BODY = VerdictBody(
    verifier=WHO.node_id,
    proof_hash=HASH,
    model_id="ab" * 32,
    place=2,
    outcome=Outcome.REJECTED,
    strength=Strength.BITS,
    reason="другие биты",
    guilty=(Guilty("a node", 3, 5),),
    withheld=("another",),
    fingerprint="cd" * 32,
    created_ms=17,
    rows=69,
    tokens_checked=20,
    tokens_different=1,
    stages=(StageFigures("a node", 3, 5, 2, 0.25, 1.5),),
)


@pytest.mark.parametrize("place", [WHOLE, 0, 7])
def test_a_verdict_is_read_as_it_was_signed(place: int) -> None:
    body = replace(BODY, place=place)
    assert read(sign(body, WHO)) == body
    assert body.ballot("me").guilty == frozenset(body.guilty)
    assert body.as_json()["guilty"] == [{"node": "a node", "start": 3, "end": 5}]


def test_a_reason_is_one_line_for_a_terminal() -> None:
    body = replace(BODY, reason="fine\x1b[2J\r\nhearthring: accepted\u202e")
    assert read(sign(body, WHO)).reason == "fine [2J  hearthring: accepted "


def test_no_bit_of_a_verdict_can_be_changed() -> None:
    signed = sign(BODY, WHO)
    for part in ("body", "signature"):
        data = bytearray(getattr(signed, part))
        for at in range(len(data)):
            data[at] ^= 1 << at % 8
            with pytest.raises(HearthringError):
                read(replace(signed, **{part: bytes(data)}))
            data[at] ^= 1 << at % 8


def test_a_forger_signs_for_himself_only() -> None:
    forger = Identity.new()
    own = sign(replace(BODY, verifier=forger.node_id), forger)
    with pytest.raises(HearthringError):
        read(SignedVerdict(sign(BODY, WHO).body, own.signature))
    assert not about(read(own), HASH, BODY.model_id, 2, WHO.node_id)


def test_a_verdict_is_about_one_proof_and_one_stage() -> None:
    assert about(BODY, HASH, BODY.model_id, 2, WHO.node_id)
    assert not about(BODY, bytes(32), BODY.model_id, 2, WHO.node_id)
    assert not about(BODY, HASH, "0" * 64, 2, WHO.node_id)
    assert not about(BODY, HASH, BODY.model_id, WHOLE, WHO.node_id)


@pytest.mark.parametrize(
    "changes",
    [
        {"proof_hash": b"short"},
        {"reason": "x" * 501},
        {"guilty": (Guilty("a", 2, 2),)},
        {"guilty": (Guilty("a" * 201, 2, 3),)},
        {"withheld": ("a",) * 257},
        {"stages": (StageFigures("a", 0, 1, 0, float("nan")),)},
        {"stages": (StageFigures("a", 0, 1, 0, -1.0),)},
        {"model_id": "m" * 201},
    ],
)
def test_fields_beyond_their_limits_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(HearthringError, match="verdict"):
        read(sign(replace(BODY, **changes), WHO))  # type: ignore[arg-type]


def test_a_local_verdict_takes_the_signed_form() -> None:
    stage = {"node": "n", "start": 0, "end": 2, "chunks_equal": 1, "numerics": "x"}
    verdict = rejected(
        "y" * 900, Guilty("n", 0, 2), strength=Strength.BITS, rows=8, stages=[stage], other=[1]
    )
    body = body_of(verdict, WHO.node_id, HASH, "m", WHOLE, "f")
    assert read(sign(body, WHO)) == body
    assert (body.rows, len(body.reason), body.stages[0].chunks_equal) == (8, 500, 1)
    body = body_of(inconclusive("no", withheld=["n"]), WHO.node_id, HASH, "m", 0, "f")
    assert (body.withheld, body.outcome) == (("n",), Outcome.INCONCLUSIVE)
