"""Steps as they are sealed: what every check of them expects, for any number of rows."""

import pytest

from hearthring.protocol.errors import BadShape
from hearthring.protocol.identity import Identity
from hearthring.protocol.messages import GENERATED, PROMPT, Row, SignedRows, Step
from hearthring.verify.claims import Check
from hearthring.verify.rowhash import row_hashes
from hearthring.verify.sealing import Seal

WHO, SESSION, MODEL, CLASS, BOUNDARY = Identity.new(), b"s" * 16, b"m" * 32, b"c" * 32, 3
ROWS = (Row(4, 3, 3, PROMPT), Row(6, 4, 4, GENERATED), Row(7, 4, 4, GENERATED))
SEAL = Seal(WHO, SESSION, 2, BOUNDARY, MODEL, CLASS)


@pytest.mark.parametrize("count", range(4))
def test_a_check_takes_what_was_sealed(count: int) -> None:
    rows, wire = ROWS[:count], b"aabbcc"[: 2 * count]
    for states in (wire, memoryview(wire)):
        hashes, signature = SEAL.put(9, rows, states)
        kinds, positions = [row.kind for row in rows], [row.position for row in rows]
        assert hashes == row_hashes(MODEL, CLASS, BOUNDARY, kinds, positions, wire, count)
        step = Step(SESSION, 2, 9, rows, wire, signature=signature)
        ids = tuple(row.id for row in rows)
        signed = Check(WHO.node_id, step, rows, BOUNDARY, MODEL, CLASS).confirm()
        assert signed == SignedRows(2, 9, ids, tuple(hashes), signature)


def test_every_step_has_a_signature_of_its_own() -> None:
    signatures = {SEAL.put(step, ROWS[:1], b"aa")[1] for step in range(3)}
    assert len(signatures) == 3  # none is overwritten by the next


def test_numbers_that_do_not_fit() -> None:
    with pytest.raises(BadShape, match="position"):
        SEAL.put(9, [Row(4, 3, 1 << 32, PROMPT)], b"aa")
