"""What a client has measured of nodes in passing: round trips, speeds, and the pace of stages."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

PEERS = 1024
"""Nodes remembered; the one unheard for longest is forgotten first."""
HALF_LIFE = 300.0
"""Seconds after which a measured pace counts half: a node's load changes, its record follows."""
BULK_BYTES = 64 << 10
"""Transfers below this say more about latency than about speed."""
_RISE, _SMOOTH = 1.05, 0.25


@dataclass(slots=True)
class Peer:
    """One node. Zero stands for what isn't known.

    ``round_trip`` is in seconds, ``speed`` in bytes a second to it, ``pace`` in seconds a layer for
    one generated row, waiting included, as of ``paced`` on the table's clock.
    """

    round_trip: float = 0.0
    speed: float = 0.0
    pace: float = 0.0
    paced: float = 0.0


class PeerTable:
    """A small table by node id, fed by whoever has just waited for a node. Belongs to one loop."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._peers: dict[str, Peer] = {}

    def __iter__(self) -> Iterator[tuple[str, Peer]]:
        """Nodes and what is known of them, the one heard last at the end."""
        return iter(tuple(self._peers.items()))

    def __len__(self) -> int:
        """Nodes known."""
        return len(self._peers)

    def round_trip(self, node: str, seconds: float) -> None:
        """A question and its answer took so long. Waiting only adds, so the least of late counts:
        it may rise by 5 % with every answer."""
        peer = self._heard(node)
        known = peer.round_trip * _RISE
        peer.round_trip = min(seconds, known) if known else seconds

    def moved(self, node: str, size: int, seconds: float) -> None:
        """So many bytes were taken by the node in so many seconds."""
        if size < BULK_BYTES or seconds <= 0:
            return
        peer, speed = self._heard(node), size / seconds
        peer.speed += (speed - peer.speed) * (_SMOOTH if peer.speed else 1.0)

    def ran(self, node: str, layers: int, seconds: float) -> None:
        """One generated row took so long at a stage of so many layers, waiting included."""
        peer, pace = self._heard(node), seconds / layers
        peer.pace += (pace - peer.pace) * (_SMOOTH if peer.pace else 1.0)
        peer.paced = self._clock()

    def nearest(self) -> float:
        """The least round trip of all.

        Every round trip holds the client's own link, so this bounds it from above, and what a node
        takes more is the node's.
        """
        return min((p.round_trip for p in self._peers.values() if p.round_trip), default=0.0)

    def trust(self, peer: Peer) -> float:
        """How much of a measured pace still counts, 0 to 1."""
        return float(0.5 ** ((self._clock() - peer.paced) / HALF_LIFE)) if peer.pace else 0.0

    def _heard(self, node: str) -> Peer:
        peer = self._peers.pop(node, None) or Peer()
        if len(self._peers) >= PEERS:
            del self._peers[next(iter(self._peers))]
        self._peers[node] = peer
        return peer
