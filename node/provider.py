"""Giving the parts of a model to peers: whatever of it is on this disk."""

import asyncio
import hashlib
import threading
from collections.abc import Callable

from hearthring.node.uploads import Uploads
from hearthring.protocol.asking import questions
from hearthring.protocol.errors import ModelNotHere, UnknownModel
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
    decode_layers_query,
    encode_layers_reply,
)
from hearthring.protocol.limits import LIMITS
from hearthring.protocol.transport import Stream
from hearthring.shards.layer_store import FileParts, LayerStore
from hearthring.shards.parts import piece_bounds, sha256_of
from hearthring.shards.store import ModelEntry

Sent = Callable[[bytes], bytes]


class Provider:
    """Serves the parts of one model. Only bytes whose hash was checked leave it.

    A part is hashed once, before it is vouched for, and each piece again as it is sent: a disk
    that changed under the node is found here, and not by a peer that would blame it. ``sent``
    stands between a checked piece and the wire.
    """

    def __init__(self, entry: ModelEntry, uploads: Uploads, sent: Sent = lambda data: data) -> None:
        self._sent = sent
        self._entry, self._manifest, self._uploads = entry, entry.manifest, uploads
        self._parts: LayerStore | FileParts | None = None
        self._opening = threading.Lock()
        self._outlines: dict[str, Outline] = {}
        self._hashing = asyncio.Lock()

    async def serve(self, stream: Stream) -> None:
        """Answer one peer's questions until it ends the stream.

        Raises ``ModelNotHere`` for another model and for parts that aren't here, which ends the
        stream by name.
        """
        async for data in questions(stream):
            model_id, question = decode_layers_query(data)
            if model_id != self._manifest.model_id:
                raise ModelNotHere("this node serves another model", field="model_id")
            answer = await self._answer(stream.peer, question)
            await stream.send(encode_layers_reply(answer))

    async def _answer(self, peer: str, question: LayersAsk) -> LayersAnswer:
        match question:
            case ManifestQuery():
                return ManifestReply(self._manifest.to_json().encode())
            case HoldingsQuery():
                return Holdings(await asyncio.to_thread(self._here))
            case OutlineQuery(part):
                return await self._outline(part)
            case PieceQuery(part, index):
                outline = await self._outline(part)
                at, size = piece_bounds(outline.size, index)
                await self._uploads.turn(peer, size)
                data = await asyncio.to_thread(self._piece, part, index, outline, at, size)
                return Piece(self._sent(data))

    async def _outline(self, part: str) -> Outline:
        if part not in self._outlines:
            async with self._hashing:  # one at a time: others need the processor too
                if part not in self._outlines:
                    self._outlines[part] = await asyncio.to_thread(self._hash, part)
        return self._outlines[part]

    # -- on a thread -----------------------------------------------------------------------------

    def _here(self) -> tuple[str, ...]:
        return self._source().here()

    def _source(self) -> LayerStore | FileParts:
        with self._opening:
            if self._parts is None:
                self._parts = self._whole() if self._entry.whole else self._entry.parts
            return self._parts

    def _whole(self) -> FileParts:
        try:
            return FileParts(self._entry.open(), self._manifest)
        except (UnknownModel, ModelNotHere) as error:  # whose field is a path, no peer's business
            raise ModelNotHere(
                f"this node's file of the model: {error.message}", field="part"
            ) from None

    def _hash(self, part: str) -> Outline:
        with self._source().open(part) as opened:
            whole, hashes, size = hashlib.sha256(), list[bytes](), opened.bytes.size
            for piece in opened.bytes.chunks(LIMITS.piece_bytes):
                whole.update(piece)
                hashes.append(hashlib.sha256(piece).digest())
        if whole.hexdigest() != sha256_of(self._manifest, part):
            raise _changed(part)
        return Outline(size, tuple(hashes))

    def _piece(self, part: str, index: int, outline: Outline, at: int, size: int) -> bytes:
        with self._source().open(part) as opened:
            data = opened.bytes.read(at, size)
        if hashlib.sha256(data).digest() != outline.hashes[index]:
            self._outlines.pop(part, None)
            raise _changed(part)
        return data


def _changed(part: str) -> ModelNotHere:
    return ModelNotHere(f"{part} changed on this node's disk", field="part")
