"""The ``Cells`` method: what a stage has committed to so far, and its cells, opened."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from functools import partial

from hearthring.node.archive import Archive
from hearthring.node.opening import Inside, Rebuilt, check_cells, opened
from hearthring.node.places import Places, place_key
from hearthring.node.worker import Worker
from hearthring.protocol.asking import questions
from hearthring.protocol.cells import (
    CellsOpen,
    Commitment,
    CommitmentQuery,
    OpenedColumn,
    decode_cells_query,
    encode_cells_reply,
)
from hearthring.protocol.errors import DeadlineExceeded, StageFailed, UnknownSession
from hearthring.protocol.limits import LIMITS
from hearthring.protocol.transport import Stream
from hearthring.shards.engine import Engine
from hearthring.verify.draw import Cell
from hearthring.verify.grants import check_grant


class CellDesk:
    """Serves a stage's clients, and whoever they grant it.

    An open session shows its cells to its client as often as it has chunks, one opening at a time;
    one that has ended once to each asker, for which its rows are run again: one session at a time.
    """

    def __init__(
        self, engine: Engine, worker: Worker, places: Places, archive: Archive, node: str
    ) -> None:
        self._engine, self._worker, self._node = engine, worker, node
        self._places, self._archive = places, archive
        self._turn = asyncio.Lock()

    async def serve(self, stream: Stream) -> None:
        """Answer one peer's questions until it ends the stream. Refusals end it by name."""
        async for data in questions(stream):
            match decode_cells_query(data):
                case CommitmentQuery() as query:
                    await stream.send(encode_cells_reply(await self._commitment(query, stream)))
                case CellsOpen() as query:
                    await self._open(stream, query)

    async def _commitment(self, query: CommitmentQuery, stream: Stream) -> Commitment:
        place = self._places.find(query.session, query.start)
        if place is None or place.session.client != stream.peer:
            raise UnknownSession("no session of yours is open here", field="cells.session")
        receipt = await self._worker.run(partial(place.session.commitment, query.whole))
        if receipt is None:
            raise StageFailed("this session commits to no cells", field="cells")
        return Commitment(receipt.body, receipt.signature)

    async def _open(self, stream: Stream, query: CellsOpen) -> None:
        key = place_key(query.session, query.start)
        if self._archive.holds(key):
            await self._open_ended(stream, query, key)
            return
        place = self._places.find(query.session, query.start)
        if place is None or place.session.client != stream.peer:
            # As if there were none: whether there was a session is nobody's business.
            raise UnknownSession("no record of it here, or no longer", field="cells.session")
        async with place.opening:
            inside = await self._worker.run(place.session.inside)
            rows = sum(len(chunk.ids) for chunk in inside.sealed)
            cells = check_cells(query.cells, inside.window, rows, inside.row_bytes)
            inside.expect(cells)
            await self._send(stream, inside, cells)

    async def _open_ended(self, stream: Stream, query: CellsOpen, key: bytes) -> None:
        client = self._archive.client_of(key)
        if stream.peer != client:
            if query.grant is None:
                raise UnknownSession("no record of it here, or no longer", field="cells.session")
            check_grant(query.grant, client, query.session, self._node, stream.peer)
        record, taken = self._archive.open_cells(key, stream.peer)
        window = taken.wish.start, taken.wish.end
        cells = check_cells(query.cells, window, len(taken.kinds), record.row_bytes)
        async with self._turn:
            rebuilt = await self._worker.run(
                partial(Rebuilt, self._engine, taken, record.wire, cells)
            )
            while await self._worker.run(rebuilt.advance):
                pass
            # Others wait for their turn: whoever takes it slowly has had it.
            try:
                async with asyncio.timeout(LIMITS.opening):
                    await self._send(stream, rebuilt, cells)
            except TimeoutError:
                raise DeadlineExceeded("the reader is too slow", field="cells") from None

    async def _send(self, stream: Stream, inside: Inside, cells: Sequence[Cell]) -> None:
        columns = opened(inside, cells)
        step: Callable[[], OpenedColumn | None] = partial(_next, columns)
        while (column := await self._worker.run(step)) is not None:
            await stream.send(encode_cells_reply(column))


def _next(columns: Iterator[OpenedColumn]) -> OpenedColumn | None:
    return next(columns, None)
