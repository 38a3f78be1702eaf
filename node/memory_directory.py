"""The directory's twin for tests, within one process."""

import time
from collections.abc import Callable

from hearthring.protocol import records
from hearthring.protocol.errors import DirectoryDown
from hearthring.protocol.limits import LIMITS


class MemoryDirectory:
    """The twin for tests: nodes of one process share a dictionary ``(model id, node) -> record``.

    It keeps the DHT's rules: later expiry wins, and nothing that is expired is seen.
    """

    def __init__(
        self,
        shared: dict[tuple[str, str], bytes],
        clock: Callable[[], float] = time.time,
    ) -> None:
        """``clock`` is wall-clock seconds."""
        self._shared, self._clock, self._closed = shared, clock, False

    @property
    def addresses(self) -> tuple[str, ...]:
        """Nothing to dial."""
        return ()

    async def announce(self, signed: bytes) -> None:
        """See ``Directory``."""
        self._check()
        record = records.read(signed)
        key = record.model_id, record.node
        life = record.expires - self._clock()
        if 0 < life <= LIMITS.record_life_cap and (
            key not in self._shared or records.read(self._shared[key]).expires < record.expires
        ):
            self._shared[key] = signed

    async def withdraw(self, signed: bytes) -> None:
        """See ``Directory``."""
        await self.announce(signed)

    async def fetch(self, model_id: str, layers: int) -> list[bytes]:
        """See ``Directory``."""
        self._check()
        found = []
        for (model, _), signed in list(self._shared.items()):
            record = records.read(signed)
            live = record.expires > self._clock()
            if model == model_id and live and min(record.layers) < layers:
                found.append(signed)
        return found

    async def close(self) -> None:
        """See ``Directory``. Its records stay until they expire."""
        self._closed = True

    def _check(self) -> None:
        if self._closed:
            raise DirectoryDown("closed", field="directory")
