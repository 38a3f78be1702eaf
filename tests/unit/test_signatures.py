"""What a stage keeps of its neighbour's signatures: as much as its rows need, and no more."""

from dataclasses import replace

import pytest

from hearthring.node.signatures import _SLACK, Signatures
from hearthring.protocol.errors import QuotaExceeded
from hearthring.protocol.limits import LIMITS
from hearthring.protocol.messages import AttachDown, SignedRows
from hearthring.protocol.wire import decode_down, encode_down


def signed(step: int, *ids: int) -> SignedRows:
    return SignedRows(0, step, ids, (bytes(32),) * len(ids), bytes(64))


def test_steps_stay_while_one_of_their_rows_does(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = Signatures(100)
    steps = [signed(1, 1, 2), signed(2, 3, 4), signed(3), signed(4, 5)]
    for step in steps:
        kept.keep(step, range(10))
    assert kept.evidence(()).received == (steps[0], steps[1], steps[3])
    smaller = replace(LIMITS, message_bytes=96 + 2 * (96 + 2 * 48))
    monkeypatch.setattr("hearthring.node.signatures.LIMITS", smaller)
    assert kept.evidence({2, 4, 5}).received == (steps[0], steps[1])
    assert kept.evidence({2, 5}).received == (steps[0], steps[3])
    assert kept.evidence(()).received == (steps[0], steps[3])


def test_empty_steps_and_dropped_rows_take_no_room() -> None:
    """A session that only drops, or only flushes, goes on for ever."""
    kept = Signatures(10)
    for step in range(4 * _SLACK):
        kept.keep(signed(step), ())
        kept.keep(signed(step, step + 1), {step + 1})
        assert len(kept._steps) <= 11 + _SLACK


def test_steps_of_which_one_row_stays_are_refused_in_the_end() -> None:
    kept, rows = Signatures(8000), set[int]()

    def keep(step: int) -> None:
        rows.add(1000 * step)
        kept.keep(signed(step, *range(1000 * step, 1000 * step + 100)), rows)

    for step in range((8000 + _SLACK) // 100):
        keep(step)
    with pytest.raises(QuotaExceeded, match="signed rows"):
        keep(1000)


def test_evidence_fits_a_message_the_oldest_first() -> None:
    kept, held = Signatures(1 << 30), range(1 << 30)
    high = (1 << 32) - 1  # as long as numbers on the wire may be
    steps = [SignedRows(high, high, (high - n,), (bytes(32),), bytes(64)) for n in range(40_000)]
    for step in steps:
        kept.keep(step, held)
    shown = kept.evidence(range(high + 1))
    frame: AttachDown = shown
    data = encode_down(frame)
    assert len(data) <= LIMITS.message_bytes
    assert decode_down(data) == shown
    assert shown.received == tuple(steps[: len(shown.received)])
    assert len(shown.received) > 25_000
