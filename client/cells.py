"""Asking stages for their cells, and judging them."""

import asyncio
from collections.abc import Sequence

from hearthring.protocol.cells import (
    CellsOpen,
    Commitment,
    CommitmentQuery,
    OpenedColumn,
    decode_cells_reply,
    encode_cells_query,
)
from hearthring.protocol.errors import DeadlineExceeded, Malformed, PeerUnreachable, TooLarge
from hearthring.protocol.limits import LIMITS
from hearthring.protocol.messages import PROMPT, Receipt
from hearthring.protocol.transport import Method, Transport
from hearthring.protocol.verifying import Grant
from hearthring.shards.kv_types import kv_row_bytes
from hearthring.shards.shape import Shape
from hearthring.verify.cell_check import CellRunner, check_cells
from hearthring.verify.draw import Cell, draw
from hearthring.verify.opening import Promise, needed
from hearthring.verify.receipts import ReceiptBody
from hearthring.verify.tolerance import NOTHING, Calibration
from hearthring.verify.verdict import Verdict


async def ask_commitment(
    transport: Transport,
    address: str,
    node: str,
    session: bytes,
    start: int,
    whole: bool = False,
) -> Receipt:
    """What a stage whose layers begin at ``start`` has committed to so far in an open session of
    ours: in full chunks, with ``whole`` in the last one, too.

    The signature isn't checked yet. Raises what the stage refused with, ``PeerUnreachable``,
    ``DeadlineExceeded`` or ``Malformed``.
    """
    question = encode_cells_query(CommitmentQuery(session, start, whole))
    replies = await _ask(transport, address, node, question, 1)
    said = replies[0]
    if not isinstance(said, Commitment):
        raise Malformed("not what was asked for", field="cells")
    return Receipt(said.body, said.signature)


async def ask_cells(
    transport: Transport,
    address: str,
    node: str,
    session: bytes,
    cells: Sequence[Cell],
    start: int,
    grant: Grant | None = None,
) -> list[OpenedColumn]:
    """Cells of a stage whose layers begin at ``start``, as it opens them.

    Raises as ``ask_commitment``, and ``TooLarge`` for more than was asked for.
    """
    question = encode_cells_query(CellsOpen(session, start, tuple(cells), grant))
    columns = []
    for reply in await _ask(transport, address, node, question, len(needed(cells, start))):
        if not isinstance(reply, OpenedColumn):
            raise Malformed("not what was asked for", field="cells")
        columns.append(reply)
    return columns


async def _ask(
    transport: Transport, address: str, node: str, question: bytes, most: int
) -> list[Commitment | OpenedColumn]:
    replies: list[Commitment | OpenedColumn] = []
    try:
        stream = await transport.dial(address, node, Method.CELLS)
        try:
            await stream.send(question)
            while True:
                # Each answer has its own deadline: an opening may be long, but never stalls.
                async with asyncio.timeout(LIMITS.opening):
                    data = await stream.receive()
                if data is None:
                    raise PeerUnreachable("it ended the stream", field=node)
                reply = decode_cells_reply(data)
                replies.append(reply)
                if not isinstance(reply, OpenedColumn) or reply.last:
                    return replies
                if len(replies) >= most:
                    raise TooLarge("more than was asked for", field="cells")
        finally:
            await stream.close()
    except TimeoutError:
        raise DeadlineExceeded("it didn't open its cells in time", field=node) from None


def promise_of(body: ReceiptBody, kinds: Sequence[int], shape: Shape) -> Promise:
    """What an opening under this receipt is held against. Raises ``BadShape``."""
    values = shape.kv_heads * shape.head_width
    return Promise(body, kinds, shape.width, kv_row_bytes(body.kv, values) if body.kv else 0)


async def audit_cells(
    transport: Transport,
    address: str,
    body: ReceiptBody,
    kinds: Sequence[int],
    shape: Shape,
    beacon: bytes,
    runner: CellRunner,
    first: int = 0,
    rows: int | None = None,
    grant: Grant | None = None,
    calibration: Calibration = NOTHING,
) -> Verdict:
    """Draw cells of the stage at an address by the beacon, have them opened, and judge them.

    Positions are drawn in ``[first, rows)``, all that ``body`` covers if ``rows`` is None.
    ``kinds``: of every row. ``calibration``: what another class may differ by. For a session under
    way ``body`` is the stage's ``ask_commitment``, read; afterwards its receipt. Raises what
    ``ask_cells`` does: an opening that isn't delivered is no verdict yet.
    """
    promise = promise_of(body, kinds, shape)
    rows = body.rows if rows is None else min(rows, body.rows)
    prompt = sum(kind == PROMPT for kind in kinds[:rows])
    cells = draw(beacon, (body.start, body.end), rows, first, prompt)
    columns: list[OpenedColumn] = []
    if body.cell_roots:
        columns = await ask_cells(
            transport, address, body.node, body.session, cells, body.start, grant
        )
    return await asyncio.to_thread(check_cells, promise, cells, columns, runner, calibration)
