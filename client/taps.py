"""Residuals at inner boundaries, as a session's stages tell of them."""

import asyncio
from collections.abc import Sequence

from hearthring.protocol.errors import DeadlineExceeded, HearthringError
from hearthring.protocol.limits import LIMITS
from hearthring.protocol.messages import Row


class Taps:
    """What was asked for at ``boundaries``, by row.

    Each stage tells of its own, on a stream of its own: perhaps after the last stage's result.
    """

    def __init__(self, boundaries: Sequence[int]) -> None:
        self.boundaries = tuple(boundaries)
        self.here: dict[tuple[int, int], bytes] = {}
        """By boundary and row id."""
        self._error: HearthringError | None = None
        self._told = asyncio.Event()

    def put(self, boundary: int, row: int, state: bytes) -> None:
        """One row's residual, which counts instead of any that was told before."""
        self.here[boundary, row] = state
        self._told.set()

    def end(self, error: HearthringError) -> None:
        """No more will come."""
        self._error = error
        self._told.set()

    async def of(self, boundary: int, rows: Sequence[Row]) -> bytes:
        """These rows' residuals, one behind the other, as soon as all are here.

        Raises ``DeadlineExceeded``, or what ended the session.
        """
        wanted = [(boundary, row.id) for row in rows]
        try:
            async with asyncio.timeout(LIMITS.step):
                while not all(tap in self.here for tap in wanted):
                    if self._error is not None:
                        raise self._error
                    self._told.clear()
                    await self._told.wait()
        except TimeoutError:
            raise DeadlineExceeded(
                f"no residuals in {LIMITS.step:.0f} s", field=f"layer {boundary}"
            ) from None
        return b"".join(self.here[tap] for tap in wanted)
