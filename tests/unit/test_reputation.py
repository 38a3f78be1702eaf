"""Standings: what audits are worth, what liars can't change, and what is kept on disk."""

import json
import threading
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from hearthring.protocol.errors import BadEvidence
from hearthring.protocol.identity import Identity
from hearthring.verify.evidence_store import _CONTEXT, FADED, Reputation, _canonical
from hearthring.verify.reputation import (
    HALF_LIFE,
    OWN,
    Evidence,
    Standing,
    lessons,
    live_lesson,
    standings,
)
from hearthring.verify.verdict import Guilty, Outcome, Strength, Verdict, inconclusive, rejected

A, B, C = (Identity.new().node_id for _ in range(3))
BITS, LOOSE = Strength.BITS, Strength.TOLERANCE
GUILTY = Guilty(B, 2, 4)


@dataclass
class FakeStage:
    node: str


@dataclass
class SomeProof:
    """What a lesson needs of a proof."""

    session: bytes = bytes(16)
    stages: list[FakeStage] = field(default_factory=lambda: [FakeStage(A), FakeStage(B)])


def learned(*verdicts: Verdict, own: bool = True) -> dict[str, Standing]:
    found = list[Evidence]()
    for n, verdict in enumerate(verdicts):
        proof = SomeProof(bytes([n]) * 16)
        found += lessons(proof, verdict, own, 0.0)  # type: ignore[arg-type]
    return standings(found, 0.0)


FINE = Verdict(Outcome.ACCEPTED, "fine", (), BITS)
CAUGHT = rejected("it lied", GUILTY, strength=BITS)


def accepted(strength: Strength) -> Verdict:
    return Verdict(Outcome.ACCEPTED, "fine", (), strength)


def test_a_newcomer_stands_low_and_rises() -> None:
    assert Standing().mean == 0.5
    assert 0.5 < Standing().weight < 0.6
    weights = [learned(*[FINE] * n).get(A, Standing()).weight for n in range(25)]
    assert weights == sorted(weights)
    assert weights[20] == 1.0
    assert Standing().check_rate(0.1) > 1.7 * Standing(20.0).check_rate(0.1)
    assert Standing(bad=50.0).check_rate(0.9) == 1.0


def test_one_lie_outweighs_any_past() -> None:
    for past in (0, 20, 1000):
        found = learned(*[FINE] * min(past, 200), CAUGHT)
        assert found[B].weight == 0.0
    assert learned(CAUGHT).get(A) is None
    # Beyond a tolerance it is doubtful: a good past survives it, a newcomer's doesn't.
    doubtful = rejected("too far", GUILTY, strength=LOOSE)
    assert learned(*[FINE] * 20, doubtful)[B].weight > 0.7
    assert learned(doubtful)[B].weight == 0.0


def test_time_forgives() -> None:
    caught = [Evidence(B, 0.0, 100.0, 0.0, "x")]
    mean = [standings(caught, months * HALF_LIFE)[B].mean for months in range(12)]
    assert mean == sorted(mean)
    assert standings(caught, 0.0)[B].weight == 0.0
    assert standings(caught, 8 * HALF_LIFE)[B].weight > 0.3
    assert standings(caught, -5.0)[B].bad == 100.0


def test_honest_nodes_keep_their_standing() -> None:
    """Nothing that names nobody, or isn't about one's own answers, moves them."""
    nothing = (
        rejected("the receipts of A have another session than the proof"),
        rejected("the fault lies at or before B", strength=LOOSE, suspects=[A, B]),
        inconclusive("2 verifiers are known", eligible=2, asked=3),
        inconclusive("it says so", withheld=[C]),
        Verdict(Outcome.INCONCLUSIVE, "split", (GUILTY,)),
        rejected("blames a stranger", Guilty(C, 0, 1), strength=BITS),
    )
    assert learned(*nothing) == {}
    assert learned(FINE, own=False) == {}
    assert learned(CAUGHT, own=False)[B].bad == 100.0


def test_what_else_counts_against_a_node() -> None:
    found = learned(inconclusive("no receipt", withheld=[B]))
    assert (found[B].bad, A in found) == (2.0, False)
    said = Verdict(Outcome.ACCEPTED, "fine", (), BITS, {"dissenters": [C]})
    assert learned(said)[C].bad == 4.0


def test_what_a_spot_check_says_of_a_node() -> None:
    def said(verdict: Verdict | None) -> tuple[float, float]:
        lesson = live_lesson(b"s" * 16, B, verdict, "why", 0.0)
        return lesson.good, lesson.bad

    assert said(Verdict(Outcome.ACCEPTED, "fine", (), BITS)) == (1.0, 0.0)
    assert said(CAUGHT) == (0.0, 100.0)
    assert said(rejected("it didn't open its cells", GUILTY)) == (0.0, 2.0)
    assert said(None) == (0.0, 2.0)
    assert said(inconclusive("it can't be reached")) == (0.0, 0.0)


def test_an_event_counts_once(tmp_path: Path) -> None:
    kept = Reputation(tmp_path / "r.db", lambda: 0.0)
    proof: Any = SomeProof()
    for _ in range(5):
        kept.learn(proof, FINE, own=True)
    assert kept.standing(A).good == 1.0
    kept.learn(proof, CAUGHT, own=True)  # a replay that went deeper
    assert (kept.standing(B).good, kept(B)) == (0.0, 0.0)
    kept.close()
    again = Reputation(tmp_path / "r.db", lambda: 0.0)
    assert again(B) == 0.0
    assert again(C) == Standing().weight
    again.close()


def test_who_has_been_judged_by_an_answer_withholds_nothing_of_it() -> None:
    """Records are opened once: a second audit washes no liar, and blackens nobody."""
    kept, proof, again = Reputation(clock=lambda: 0.0), SomeProof(), inconclusive("", withheld=[A])
    for verdict, good, bad in ((again, 0.0, 2.0), (FINE, 1.0, 0.0), (again, 1.0, 0.0)):
        kept.learn(proof, verdict, own=True)  # type: ignore[arg-type]
        assert (kept.standing(A).good, kept.standing(A).bad) == (good, bad)
    for verdict in (CAUGHT, inconclusive("", withheld=[B])):
        kept.learn(proof, verdict, own=True)  # type: ignore[arg-type]
        assert kept.standing(B).bad == 100.0
    other = SomeProof(bytes([7]) * 16)
    kept.learn(other, again, own=True)  # type: ignore[arg-type]
    assert kept.standing(A).bad == 2.0


@pytest.mark.parametrize(
    ("first", "then", "bad"),
    [
        (CAUGHT, accepted(LOOSE), 100.0),
        (CAUGHT, FINE, 100.0),  # of a few cells, after a replay of all rows
        (CAUGHT, rejected("", GUILTY, strength=LOOSE), 100.0),
        (rejected("", GUILTY, strength=LOOSE), accepted(LOOSE), 8.0),
        (rejected("", GUILTY, strength=LOOSE), FINE, 0.0),
        (rejected("", GUILTY, strength=LOOSE), CAUGHT, 100.0),
        (FINE, rejected("", GUILTY, strength=LOOSE), 8.0),
        (inconclusive("", withheld=[B]), accepted(LOOSE), 0.0),
    ],
)
def test_a_weaker_audit_of_the_same_answer_washes_nobody(
    first: Verdict, then: Verdict, bad: float
) -> None:
    kept, proof = Reputation(clock=lambda: 0.0), SomeProof()
    for verdict in (first, then):
        kept.learn(proof, verdict, own=True)  # type: ignore[arg-type]
    assert kept.standing(B).bad == bad


def test_good_evidence_that_counts_nothing_any_more_goes() -> None:
    now = [0.0]
    kept = Reputation(clock=lambda: now[0])
    kept.add([Evidence(A, 1.0, 0.0, 0.0, "long ago"), Evidence(B, 0.0, 1.0, 0.0, "caught")])
    now[0] = FADED * HALF_LIFE
    kept.add([Evidence(C, 1.0, 0.0, now[0] - 1, "lately")])
    assert {item.about for item in kept.evidence()} == {"long ago", "caught", "lately"}
    now[0] += 1
    kept.add([])
    assert {item.about for item in kept.evidence()} == {"caught", "lately"}


def test_threads_and_processes_share_a_file(tmp_path: Path) -> None:
    one, two = (Reputation(tmp_path / "r.db", lambda: 0.0) for _ in range(2))

    def write(kept: Reputation, name: str) -> None:
        for n in range(20):
            kept.add([Evidence(A, 1.0, 0.0, 0.0, f"{name} {n}")])

    threads = [
        threading.Thread(target=write, args=(kept, f"{n}"))
        for n, kept in enumerate((one, two, one, two))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(one.evidence()) == 80
    one.close()
    two.close()


def test_exports_are_signed_weighed_and_never_passed_on() -> None:
    who, mine, theirs = Identity.new(), Reputation(clock=lambda: 9.0), Reputation(clock=lambda: 9.0)
    mine.add([Evidence(B, 0.0, 100.0, 5.0, "x", "it lied"), Evidence(A, 1.0, 0.0, 5.0, "x")])
    data = mine.export(who)
    assert theirs.take(data) == theirs.take(data) == 2
    assert (theirs.standing(B).bad, theirs.standing(A).good) == pytest.approx((50.0, 0.5), 1e-3)
    assert {item.source for item in theirs.evidence()} == {who.node_id}
    assert json.loads(theirs.export(Identity.new()))["evidence"] == []


def test_a_forged_or_altered_export_changes_nothing() -> None:
    who, kept = Identity.new(), Reputation(clock=lambda: 9.0)
    source = Reputation(clock=lambda: 9.0)
    source.add([Evidence(B, 0.0, 100.0, 5.0, "x", source=OWN)])
    data = json.loads(source.export(who))
    forged = (
        data | {"exporter": Identity.new().node_id},
        data | {"evidence": []},
        data | {"signature": "00" * 64},
        {k: v for k, v in data.items() if k != "signature"},
    )
    for bad in (*[json.dumps(body).encode() for body in forged], b"", b"[]", b"{}", b"\xff", b"1"):
        with pytest.raises(BadEvidence):
            kept.take(bad)
    for values in ({"bad": 1e9}, {"good": 50.0}, {"bad": float("inf")}, {"node": "me"}):
        wrong = Reputation(clock=lambda: 9.0)
        wrong.add([replace(source.evidence()[0], **values)])
        with pytest.raises(BadEvidence):
            kept.take(wrong.export(who))
    assert kept.evidence() == []


@pytest.mark.parametrize("said", [{"at": 10**400}, {"why": "\ud800"}, {"about": "\udfff"}])
def test_what_no_release_exports_has_a_name(said: dict[str, Any]) -> None:
    who, kept = Identity.new(), Reputation(clock=lambda: 9.0)
    item = {"node": B, "good": 0.0, "bad": 1.0, "at": 5.0, "about": "x", "why": ""} | said
    body = {"version": 1, "exporter": who.node_id, "created": 1.0, "evidence": [item]}
    signature = who.sign(_CONTEXT + _canonical(body)).hex()
    with pytest.raises(BadEvidence):
        kept.take(json.dumps(body | {"signature": signature}).encode())
    assert kept.evidence() == []


def test_a_file_that_is_none_is_said(tmp_path: Path) -> None:
    (tmp_path / "r.db").write_bytes(b"not a database, whatever its name" * 40)
    with pytest.raises(BadEvidence):
        Reputation(tmp_path / "r.db")
