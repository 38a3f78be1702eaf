"""A client's sessions: each opened on a route of its own, with spares for what it may lose."""

from collections.abc import Sequence

from hearthring.client.classes import Classes
from hearthring.client.config import INT8, SHARING
from hearthring.client.opening import Opening
from hearthring.client.replacement import Avoided, Spares
from hearthring.client.ring import RingSession
from hearthring.client.route import Stage
from hearthring.client.swarm import Swarm
from hearthring.client.weights import Weights
from hearthring.protocol.limits import LIMITS
from hearthring.protocol.records import NodeRecord
from hearthring.protocol.tensors import Residual
from hearthring.shards.ends import Ends
from hearthring.verify.candidates import snapshot


class Sessions:
    """Opens sessions. They remember together which nodes failed."""

    def __init__(self, swarm: Swarm, weights: Weights) -> None:
        self._swarm, self._weights, self.avoided = swarm, weights, Avoided()

    async def open(
        self,
        rows: int,
        taps: Sequence[int] = (),
        extra: int = 0,
        cells: bool = False,
        like: Classes = (),
    ) -> tuple[RingSession, Ends]:
        """An open session with room for so many rows, and ``extra`` ones if there is room;
        with ``cells`` its stages commit to them.

        Its classes are ``like``, if that is given and others aren't allowed.
        Raises what ``Opening.open`` does. Nothing stays open on failure or cancellation.
        """
        swarm, config = self._swarm, self._swarm.config
        extra = extra if rows + extra <= LIMITS.session_rows else 0
        model = await self._weights.model()
        spares = Spares(
            swarm.look,
            model.shape.layers,
            rows + extra,
            self.avoided,
            swarm.view(model.shape.width),
            config.patience,
            config.allow_class_change,
            like,
        )

        async def make(route: tuple[Stage, ...], records: list[NodeRecord]) -> RingSession:
            ends = await self._weights.ends(Residual(route[0].residual))
            ring = RingSession(
                swarm.transport(),
                route,
                model.entry.model_id,
                ends.numerics.fingerprint,
                taps,
                opening.spares,
                SHARING[config.sharing],
                cells,
                config.wire == INT8,
            )
            nodes = [stage.node for stage in route]
            ring.candidates = snapshot(records, nodes, ring.session)
            return ring

        opening = Opening(swarm.known_records, make, spares, extra, swarm.progress)
        ring = await opening.open()
        try:
            return ring, await self._weights.ends(ring.row_type.residual)
        except BaseException:
            await ring.close()
            raise
