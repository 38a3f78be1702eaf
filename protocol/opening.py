"""Asking a stage to open what it recorded of a session."""

import asyncio

from hearthring.protocol.asking import ask_status
from hearthring.protocol.errors import (
    DeadlineExceeded,
    HearthringError,
    Malformed,
    PeerUnreachable,
    TooLarge,
)
from hearthring.protocol.invitation import Invitation, split_address
from hearthring.protocol.limits import LIMITS
from hearthring.protocol.transport import Method, Transport
from hearthring.protocol.verifying import (
    Grant,
    OpenedRows,
    RowsQuery,
    decode_verify_down,
    encode_verify_up,
)


async def ask_rows(
    transport: Transport,
    address: str,
    node: str,
    session: bytes,
    start: int,
    size: int,
    grant: Grant | None = None,
    seconds: float = LIMITS.opening,
) -> bytes:
    """The rows that ``node`` sent in a session out of the window that begins at ``start``, ``size``
    bytes in all.

    Raises what the node refused with, ``PeerUnreachable``, ``DeadlineExceeded`` or ``Malformed``.
    """
    try:
        async with asyncio.timeout(seconds):
            stream = await transport.dial(address, node, Method.VERIFY)
            try:
                await stream.send(encode_verify_up(RowsQuery(session, start, grant)))
                wire = bytearray()
                while (data := await stream.receive()) is not None:
                    frame = decode_verify_down(data)
                    if not isinstance(frame, OpenedRows):
                        raise Malformed("not what was asked for", field="verify")
                    wire += frame.states
                    if len(wire) > size:
                        raise TooLarge("more rows than were signed", field="rows.states")
                    if frame.last:
                        return bytes(wire)
            finally:
                await stream.close()
    except TimeoutError:
        raise DeadlineExceeded("it didn't open its record in time", field=node) from None
    raise PeerUnreachable("it ended the stream", field=node)


async def answers_status(transport: Transport, address: str, node: str) -> bool:
    """Whether a node is alive. One that is, and doesn't open its record, withholds it."""
    try:
        host, port = split_address(address, "address")
        await ask_status(transport, Invitation(host, port, node))
    except HearthringError:
        return False
    return True
