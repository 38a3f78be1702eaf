"""A reader's memory of records: whoever relays them can't bring an older one back."""

import time
from collections.abc import Callable, Iterable

from hearthring.protocol.records import NodeRecord, newest

NODES = 65_536
"""Nodes remembered; those whose newest record has expired are forgotten first."""


class RecordBook:
    """Records of models, each node's newest; what was once superseded or withdrawn stays so.

    Signatures make records unforgeable, not fresh: a relaying node could still offer one from
    before a node moved, changed its version or left. Its sequence gives it away until it expires.
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._seen: dict[tuple[str, str], tuple[int, float]] = {}

    def read(self, datas: Iterable[bytes], model_id: str) -> list[NodeRecord]:
        """The valid, live records of a model that aren't older than one read before."""
        now, found = self._clock(), list[NodeRecord]()
        for record in newest(datas, model_id):
            key = record.node, model_id
            sequence, expires = self._seen.get(key, (-1, 0.0))
            if record.sequence < sequence:
                continue
            self._seen[key] = record.sequence, max(expires, record.expires)
            if not record.leaving and record.expires > now:
                found.append(record)
        if len(self._seen) > NODES:
            live = {key: seen for key, seen in self._seen.items() if seen[1] > now}
            self._seen = dict(list(live.items())[-NODES:])
        return found
