"""One question, one answer: what any member may ask a node."""

import asyncio

from hearthring.protocol.errors import DeadlineExceeded, PeerUnreachable
from hearthring.protocol.invitation import Invitation
from hearthring.protocol.limits import LIMITS
from hearthring.protocol.messages import DirectoryReply, StatusReply
from hearthring.protocol.transport import Method, Transport
from hearthring.protocol.wire import decode_records, decode_status, encode_query


async def ask_records(transport: Transport, node: Invitation, model_id: str) -> DirectoryReply:
    """The signed records of a model; an empty id asks for the model that the node serves."""
    return decode_records(await _ask(transport, node, Method.DIRECTORY, encode_query(model_id)))


async def ask_status(transport: Transport, node: Invitation) -> StatusReply:
    """A node about itself."""
    return decode_status(await _ask(transport, node, Method.STATUS, b""))


async def _ask(transport: Transport, node: Invitation, method: Method, question: bytes) -> bytes:
    """Raises ``PeerUnreachable``, ``DeadlineExceeded``, or what the node refused with."""
    stream = await transport.dial(node.address, node.node_id, method)
    try:
        async with asyncio.timeout(LIMITS.connect * 2):
            await stream.send(question)
            data = await stream.receive()
    except TimeoutError:
        raise DeadlineExceeded("no answer in time", field=node.address) from None
    finally:
        await stream.close()
    if data is None:
        raise PeerUnreachable("it ended the stream", field=node.address)
    return data
