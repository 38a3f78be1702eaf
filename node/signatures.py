"""What the stage before a session's stage has signed, kept to settle disputes about its rows."""

from bisect import bisect_right
from collections.abc import Container
from itertools import accumulate

from hearthring.protocol.errors import QuotaExceeded
from hearthring.protocol.limits import LIMITS
from hearthring.protocol.messages import Evidence, SignedRows

_ROW, _STEP = 48, 96
"""Bytes that a row, and a signature, take in a message, at most."""
_SLACK = 4096
"""Rows after which it is worth while to look which of them are still held."""


class Signatures:
    """Signed steps of one session, in the order they came.

    A step is kept for as long as one of its rows is, whole, as its signature covers all of it:
    altogether ``most`` rows, and some more until it is looked which ones are held.
    """

    def __init__(self, most: int) -> None:
        self._most, self._rows = most, 0
        self._steps: list[SignedRows] = []

    def keep(self, signed: SignedRows, rows: Container[int]) -> None:
        """One more step; ``rows`` are those that the session holds.

        Raises ``QuotaExceeded`` when steps with rows that stay are too large altogether.
        """
        if not signed.ids:  # it says nothing of any row
            return
        self._steps.append(signed)
        self._rows += len(signed.ids)
        if self._rows > self._most + _SLACK:
            self._forget(rows)
            if self._rows > self._most:
                raise QuotaExceeded(f"{self._rows} signed rows are too many", field="steps")

    def evidence(self, rows: Container[int]) -> Evidence:
        """All there is, or if that is more than a message holds, what is about ``rows``, the oldest
        first, as far as it fits."""
        if self._fitting() < len(self._steps):
            self._forget(rows)
        return Evidence(tuple(self._steps[: self._fitting()]))

    def _fitting(self) -> int:
        """How many steps fit a message."""
        sizes = accumulate(_STEP + _ROW * len(signed.ids) for signed in self._steps)
        fitting = bisect_right(list(sizes), LIMITS.message_bytes - _STEP)
        return min(fitting, LIMITS.session_rows)

    def _forget(self, rows: Container[int]) -> None:
        self._steps = [signed for signed in self._steps if any(row in rows for row in signed.ids)]
        self._rows = sum(len(signed.ids) for signed in self._steps)
