"""What a client knows of its swarm: who serves, what it may cost, and where its model is."""

import asyncio
import secrets
from collections.abc import Callable, Iterable

from hearthring.client.config import INT8, ClientConfig
from hearthring.client.measuring import MeasuringTransport
from hearthring.client.peers import PeerTable
from hearthring.client.request import Progress
from hearthring.client.route import View
from hearthring.client.seeds import SOON, find_records, known_nodes
from hearthring.protocol.errors import NoRoute, SeedUnreachable
from hearthring.protocol.grpc_transport import GrpcTransport
from hearthring.protocol.invitation import key_of
from hearthring.protocol.record_book import RecordBook
from hearthring.protocol.records import NodeRecord
from hearthring.protocol.row_type import RowType
from hearthring.protocol.tensors import Residual
from hearthring.protocol.transport import Transport
from hearthring.shards.gguf_file import GgufFile
from hearthring.shards.joining import find_model, obtain
from hearthring.shards.store import ModelEntry, ModelStore

SPREAD = 0.05
"""Routes this close to the cheapest are as good: each client has favourites of its own."""
LOOK = 2.0
"""Seconds for a look into the directory while a session waits."""


class Swarm:
    """One client's swarm. Nothing is dialled before it is needed.

    ``reputation`` tells what a node counts for in routes, if anything does.
    """

    def __init__(
        self,
        config: ClientConfig,
        transport: Transport | None,
        progress: Progress,
        reputation: Callable[[str], float] | None,
    ) -> None:
        self.config, self.progress, self.reputation = config, progress, reputation
        self.peers, self.book = PeerTable(), RecordBook()
        self._key = key_of(config.join)
        self._transport = MeasuringTransport(transport, self.peers) if transport else None
        self._favourites = secrets.randbits(64)
        self._finding = asyncio.Lock()
        self._entry: ModelEntry | None = None
        self._records: list[NodeRecord] = []

    async def close(self) -> None:
        """Leave the swarm. Idempotent."""
        if self._transport is not None:
            await self._transport.close()

    def transport(self) -> Transport:
        """The way into the swarm."""
        if self._transport is None:
            inner = GrpcTransport(self.config.identity(), self._key)
            self._transport = MeasuringTransport(inner, self.peers)
        return self._transport

    def view(self, width: int) -> View:
        """What routes go by beside the records, for residual rows of this width."""
        return View(
            self.peers,
            self.reputation,
            row_bytes=RowType(Residual.FP16, self.config.wire == INT8).row_bytes(width),
            spread=SPREAD,
            seed=self._favourites,
            once=False,
        )

    # -- the model -------------------------------------------------------------------------------

    async def model_entry(self) -> ModelEntry:
        """The client's model in the cache; its manifest is fetched first, if need be."""
        async with self._finding:
            if self._entry is None:
                transport, config = self.transport(), self.config
                self._entry = await find_model(
                    transport, config.join, config.model, ModelStore(), self.progress
                )
            return self._entry

    async def obtain(self, parts: Iterable[str]) -> GgufFile:
        """The model with these parts here, fetched where they aren't.

        Raises what ``joining.obtain`` does.
        """
        entry = await self.model_entry()
        return await obtain(self.transport(), self.config.join, entry, parts, self.progress)

    # -- records ---------------------------------------------------------------------------------

    async def records(self) -> list[NodeRecord]:
        """The live, signed records of the client's model. Raises ``SeedUnreachable``."""
        entry, transport = await self.model_entry(), self.transport()
        model_id = entry.model_id
        try:
            _, found = await find_records(transport, self.config.join, self.book, model_id)
        except SeedUnreachable:
            others = known_nodes(self._records)
            if not others:
                raise
            _, found = await find_records(transport, others, self.book, model_id)
        if found:
            self._records = found
        return found

    async def known_records(self) -> list[NodeRecord]:
        """The records as they are now, or as they were when anybody last answered."""
        try:
            return await self.records()
        except SeedUnreachable:
            if not self._records:  # nobody ever did, so waiting won't mend it
                raise
            return self._records

    async def look(self, again: bool) -> list[NodeRecord]:
        """Records for a fail-over: first those at hand, which cost no time.

        If nobody answers in time they are still the best there is. Raises ``NoRoute`` without any.
        """
        if not again and self._records:
            return self._records
        transport, model_id = self.transport(), (await self.model_entry()).model_id
        seeds = {seed.node_id: seed for seed in (*known_nodes(self._records), *self.config.join)}
        try:
            async with asyncio.timeout(LOOK):
                nodes = list(seeds.values())
                _, found = await find_records(transport, nodes, self.book, model_id, SOON)
        except (TimeoutError, SeedUnreachable):
            if not self._records:
                raise NoRoute("nobody answers who knows the swarm", field="route") from None
            return self._records
        self._records = found or self._records
        return self._records
