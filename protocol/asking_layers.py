"""One peer's side of the ``Layers`` method, for who asks."""

import asyncio
import hashlib

from hearthring.protocol.errors import (
    DeadlineExceeded,
    HearthringError,
    Malformed,
    PeerUnreachable,
)
from hearthring.protocol.layers import (
    Holdings,
    HoldingsQuery,
    LayersAnswer,
    LayersAsk,
    ManifestQuery,
    ManifestReply,
    Outline,
    OutlineQuery,
    Piece,
    PieceQuery,
    decode_layers_reply,
    encode_layers_query,
)
from hearthring.protocol.limits import LIMITS
from hearthring.protocol.transport import Method, Stream, Transport


class LayersPeer:
    """Questions to one node about one model, a few at a time, each with a deadline.

    Every method raises what the node refused with, ``PeerUnreachable``, ``DeadlineExceeded`` or
    ``Malformed``; the stream it happened on is closed, and the next question opens another.
    """

    def __init__(
        self, transport: Transport, address: str, node: str, model_id: str, lanes: int = 4
    ) -> None:
        self.node, self.address = node, address
        self._transport, self._model_id = transport, model_id
        self._lanes = asyncio.Semaphore(lanes)
        self._idle: list[Stream] = []

    async def manifest(self) -> bytes:
        """The model's manifest. Raises ``Malformed`` when its hash isn't the model id."""
        answer = await self._ask(ManifestQuery())
        if not isinstance(answer, ManifestReply):
            raise Malformed("not what was asked for", field="layers")
        if hashlib.sha256(answer.data).hexdigest() != self._model_id:
            raise Malformed("the manifest isn't that of the model id", field="layers.manifest")
        return answer.data

    async def holdings(self) -> tuple[str, ...]:
        """The parts the node says it can send."""
        answer = await self._ask(HoldingsQuery())
        if not isinstance(answer, Holdings):
            raise Malformed("not what was asked for", field="layers")
        return answer.parts

    async def outline(self, part: str) -> Outline:
        """A part's size and the hashes of its pieces, as the node has it."""
        answer = await self._ask(OutlineQuery(part))
        if not isinstance(answer, Outline):
            raise Malformed("not what was asked for", field="layers")
        return answer

    async def piece(self, part: str, index: int) -> bytes:
        """The bytes of a piece, unchecked."""
        answer = await self._ask(PieceQuery(part, index))
        if not isinstance(answer, Piece):
            raise Malformed("not what was asked for", field="layers")
        return answer.data

    async def close(self) -> None:
        """Close every stream. Idempotent."""
        idle, self._idle = self._idle, []
        for stream in idle:
            await stream.close()

    async def _ask(self, question: LayersAsk) -> LayersAnswer:
        async with self._lanes:
            try:
                async with asyncio.timeout(LIMITS.piece):
                    return await self._exchange(encode_layers_query(self._model_id, question))
            except TimeoutError:
                raise DeadlineExceeded("no answer in time", field=self.node) from None

    async def _exchange(self, question: bytes) -> LayersAnswer:
        if self._idle:
            try:
                return await self._over(self._idle.pop(), question)
            except (PeerUnreachable, DeadlineExceeded):  # it was idle for too long
                pass
        stream = await self._transport.dial(self.address, self.node, Method.LAYERS)
        return await self._over(stream, question)

    async def _over(self, stream: Stream, question: bytes) -> LayersAnswer:
        try:
            await stream.send(question)
            data = await stream.receive()
            if data is None:
                raise PeerUnreachable("it ended the stream", field=self.node)
            answer = decode_layers_reply(data)
        except (HearthringError, asyncio.CancelledError):
            await stream.close()
            raise
        self._idle.append(stream)
        return answer
