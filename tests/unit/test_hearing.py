"""What stages say unasked is held against what was asked."""

from types import SimpleNamespace
from typing import Any

import pytest

from hearthring.client.hearing import Hearing
from hearthring.client.taps import Taps
from hearthring.protocol.errors import BadShape, HearthringError, Malformed
from hearthring.protocol.messages import Tap
from hearthring.protocol.row_type import RowType
from hearthring.protocol.tensors import Residual

WIDTH = 4
ROW = WIDTH * Residual.FP16.bytes


def ring(*taps: int) -> Any:
    return SimpleNamespace(
        taps=Taps(taps),
        width=WIDTH,
        row_type=RowType(Residual.FP16),
        flight=SimpleNamespace(live={1: None, 2: None}),
    )


STAGE: Any = SimpleNamespace(stage=SimpleNamespace(start=2, end=5))


def test_taps_are_kept_by_boundary_and_row() -> None:
    asked = ring(1, 3, 5)
    Hearing(asked).on_tap(STAGE, Tap(1, 3, (1, 2), b"a" * ROW + b"b" * ROW))
    Hearing(asked).on_tap(STAGE, Tap(1, 5, (2,), b"c" * ROW))
    assert asked.taps.here == {(3, 1): b"a" * ROW, (3, 2): b"b" * ROW, (5, 2): b"c" * ROW}


def test_taps_of_rows_that_are_gone_take_no_memory() -> None:
    asked = ring(3)
    Hearing(asked).on_tap(STAGE, Tap(1, 3, (7, 2), bytes(2 * ROW)))
    assert asked.taps.here == {(3, 2): bytes(ROW)}


@pytest.mark.parametrize(
    ("tap", "error"),
    [
        (Tap(1, 4, (1,), bytes(ROW)), Malformed),  # not wanted
        (Tap(1, 1, (1,), bytes(ROW)), Malformed),  # another stage's
        (Tap(1, 3, (1,), bytes(ROW + 1)), BadShape),
        (Tap(1, 3, (1, 2), bytes(ROW)), BadShape),
        (Tap(1, 3, (), bytes(ROW)), BadShape),
    ],
)
def test_taps_that_nobody_asked_for_are_refused(tap: Tap, error: type[HearthringError]) -> None:
    asked = ring(1, 3, 5)
    with pytest.raises(error):
        Hearing(asked).on_tap(STAGE, tap)
    assert asked.taps.here == {}
