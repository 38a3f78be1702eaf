"""Cancellations that overtake rows, children of cancelled rows, commits beside cancellations."""

from tests.interleavings import interleavings

SHORT = 700
"""``bench/schedules.py`` runs 100 000."""


def test_no_interleaving_breaks_a_session() -> None:
    sent, dead = interleavings(SHORT)
    assert sent > 5 * SHORT
    assert dead > SHORT, "cancellations never came in time"
