"""Rows as they came, and the signature over them: checked once, by whoever comes first."""

import threading
from dataclasses import replace

import pytest

from hearthring.protocol.errors import BadSignature
from hearthring.protocol.identity import Identity
from hearthring.protocol.messages import GENERATED, Row, SignedRows, Step
from hearthring.verify.claims import Check, claim
from hearthring.verify.rowhash import row_hashes

WHO, SESSION, MODEL, CLASS, BOUNDARY = Identity.new(), bytes(16), b"m" * 32, b"c" * 32, 3
ROWS = (Row(4, 3, 3, GENERATED), Row(6, 3, 3, GENERATED))
HASHES = tuple(row_hashes(MODEL, CLASS, BOUNDARY, [2, 2], [3, 3], b"aabb", 2))
SIGNATURE = WHO.sign(claim(SESSION, 1, 7, BOUNDARY, [4, 6], HASHES))
STEP = Step(SESSION, 1, 7, ROWS, b"aabb", signature=SIGNATURE)


def check_of(step: Step = STEP, sender: str = WHO.node_id, boundary: int = BOUNDARY) -> Check:
    return Check(sender, step, step.live, boundary, MODEL, CLASS)


def test_what_was_signed_is_told_once_it_holds() -> None:
    check = check_of()
    assert check.hashes() == HASHES
    assert check.confirm() == SignedRows(1, 7, (4, 6), HASHES, SIGNATURE)


@pytest.mark.parametrize(
    "check",
    [
        check_of(replace(STEP, states=b"aabc")),
        check_of(replace(STEP, rows=(ROWS[0], replace(ROWS[1], position=4)))),
        check_of(replace(STEP, rows=(ROWS[0], replace(ROWS[1], id=7)))),
        check_of(replace(STEP, rows=ROWS[:1], states=b"aa")),
        check_of(replace(STEP, step_id=8)),
        check_of(replace(STEP, epoch=2)),
        check_of(replace(STEP, session=bytes(15) + b"1")),
        check_of(replace(STEP, signature=b"")),
        check_of(sender=Identity.new().node_id),
        check_of(boundary=4),
    ],
)
def test_anything_else_than_was_signed_is_refused_whoever_checks(check: Check) -> None:
    check.begin()  # never raises
    for _ in range(2):
        with pytest.raises(BadSignature):
            check.confirm()


def test_a_signature_is_checked_once_by_whoever_comes_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    checked, hashed = list[int](), list[int]()
    monkeypatch.setattr("hearthring.protocol.identity.verify", lambda *_: checked.append(1))
    monkeypatch.setattr(
        "hearthring.verify.claims.row_hashes", lambda *_: hashed.append(1) or list(HASHES)
    )
    fresh = check_of()
    threads = [threading.Thread(target=fresh.begin) for _ in range(4)]
    for thread in threads:
        thread.start()
    fresh.confirm()
    for thread in threads:
        thread.join()
    assert (checked, hashed) == ([1], [1])
