"""A node's front desk: it answers for itself and for the directory, and passes clients on.

It listens from the first moment, so that a taken port is said at once; until the node serves,
callers are told to come again.
"""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from hearthring.node.announcer import Announcer
from hearthring.node.directory import Directory
from hearthring.node.provider import Provider, Sent
from hearthring.node.stage import StageServer
from hearthring.node.uploads import UPLOAD_RATE, Uploads
from hearthring.node.verifier import Verifier
from hearthring.protocol.asking import questions
from hearthring.protocol.errors import HearthringError, StageFailed
from hearthring.protocol.invitation import Invitation, split_address
from hearthring.protocol.messages import DirectoryReply, StatusReply, StepTime
from hearthring.protocol.records import PROTOCOL_VERSION, read_all
from hearthring.protocol.transport import Handler, Method, Stream, Transport
from hearthring.protocol.wire import decode_query, encode_records, encode_status
from hearthring.shards.store import ModelEntry
from hearthring.verify.judge import Judge

T = TypeVar("T")
FRESH = 1.0
"""Seconds for which one look into the directory answers everybody."""
SEEDS = 8
"""Nodes asked for layers that a verdict needs."""


@dataclass(slots=True)
class _Look:
    """The last look into the directory, and whose turn it is to take another."""

    model_id: str = ""
    at: float = 0.0
    found: tuple[bytes, ...] = ()
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)


class Desk:
    """Handlers of all of a node's methods."""

    def __init__(
        self,
        transport: Transport,
        entry: ModelEntry,
        upload_rate: float = UPLOAD_RATE,
        sent: Sent = lambda data: data,
    ) -> None:
        self._transport, self._entry, self._begun = transport, entry, time.monotonic()
        self._uploads = Uploads(upload_rate, self._busy)
        self._provider = Provider(entry, self._uploads, sent)
        self._stage: StageServer | None = None
        self._directory: Directory | None = None
        self._announcer: Announcer | None = None
        self._verifier: Verifier | None = None
        self._timings: tuple[StepTime, ...] = ()
        self._own, self._others = _Look(), _Look()

    def open(
        self,
        stage: StageServer,
        directory: Directory,
        announcer: Announcer,
        timings: tuple[StepTime, ...] = (),
        judge: Judge | None = None,
    ) -> None:
        """From now on the node serves; with a judge it also judges proofs."""
        self._verifier = Verifier(
            self._transport, self._entry, stage.archive, judge, self._busy, self._seeds
        )
        self._stage, self._directory, self._announcer = stage, directory, announcer
        self._timings = timings

    def handlers(self) -> Mapping[Method, Handler]:
        """What to serve."""
        return {
            Method.ATTACH: self._attach,
            Method.PASS: self._take_rows,
            Method.DIRECTORY: self._answer(self._records),
            Method.STATUS: self._answer(self._status),
            Method.VERIFY: self._verify,
            Method.CELLS: self._cells,
            Method.LAYERS: self._provider.serve,  # from the first moment: it needs no engine
        }

    async def close(self) -> None:
        """Give nothing away any more, and judge nobody."""
        await self._uploads.close()
        if self._verifier is not None:
            await self._verifier.close()

    def _busy(self) -> bool:
        return self._stage is not None and self._stage.sessions > 0

    async def _attach(self, stream: Stream) -> None:
        await self._ready(self._stage).attach(stream)

    async def _take_rows(self, stream: Stream) -> None:
        await self._ready(self._stage).take_rows(stream)

    async def _verify(self, stream: Stream) -> None:
        await self._ready(self._verifier).serve(stream)

    async def _cells(self, stream: Stream) -> None:
        await self._ready(self._stage).cells.serve(stream)

    async def _seeds(self) -> list[Invitation]:
        """Nodes of the model, for layers that aren't here."""
        layers = self._entry.manifest.shape.layers
        signed = await self._ready(self._directory).fetch(self._entry.model_id, layers)
        found = list[Invitation]()
        for record in read_all(signed, self._entry.model_id):
            with contextlib.suppress(HearthringError, IndexError):
                host, port = split_address(record.addresses[0], "address")
                found.append(Invitation(host, port, record.node))
        return [seed for seed in found if seed.node_id != self._transport.identity.node_id][:SEEDS]

    def _answer(self, reply: Callable[[bytes], Awaitable[bytes]]) -> Handler:
        """A handler for streams of questions and answers."""

        async def serve(stream: Stream) -> None:
            async for data in questions(stream):
                await stream.send(await reply(data))

        return serve

    async def _records(self, data: bytes) -> bytes:
        model_id = decode_query(data) or self._entry.model_id
        directory = self._ready(self._directory)
        # Who asks for models that nobody serves is waited for by his like alone.
        look = self._own if model_id == self._entry.model_id else self._others
        async with look.turn:
            if look.model_id != model_id or time.monotonic() - look.at > FRESH:
                layers = self._entry.manifest.shape.layers
                look.found = tuple(await directory.fetch(model_id, layers))
                look.model_id, look.at = model_id, time.monotonic()
            found = look.found
        return encode_records(DirectoryReply(model_id, found))

    async def _status(self, _: bytes) -> bytes:
        announcer = self._ready(self._announcer)
        return encode_status(
            StatusReply(
                self._transport.identity.node_id,
                announcer.signed,
                self._ready(self._directory).addresses,
                self._ready(self._stage).sessions,
                time.monotonic() - self._begun,
                PROTOCOL_VERSION,
                self._timings,
            )
        )

    def _ready(self, part: T | None) -> T:
        if part is None:
            raise StageFailed("the node is still starting", field="node", mend="try again soon")
        return part
