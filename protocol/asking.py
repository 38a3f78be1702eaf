"""Questions and answers: what any member may ask a node, and the asked node's side of it."""

import asyncio
from collections.abc import AsyncIterator, Sequence

from hearthring.protocol.errors import (
    DeadlineExceeded,
    HearthringError,
    PeerUnreachable,
    SeedUnreachable,
)
from hearthring.protocol.invitation import Invitation
from hearthring.protocol.limits import LIMITS
from hearthring.protocol.messages import DirectoryReply, StatusReply
from hearthring.protocol.transport import Method, Stream, Transport
from hearthring.protocol.wire import decode_records, decode_status, encode_query


async def ask_records(transport: Transport, node: Invitation, model_id: str) -> DirectoryReply:
    """The signed records of a model; an empty id asks for the model that the node serves."""
    return decode_records(await _ask(transport, node, Method.DIRECTORY, encode_query(model_id)))


async def ask_status(transport: Transport, node: Invitation) -> StatusReply:
    """A node about itself."""
    return decode_status(await _ask(transport, node, Method.STATUS, b""))


def no_seed(failed: Sequence[tuple[Invitation, HearthringError]]) -> SeedUnreachable:
    """None of the seeds answers: why each doesn't, and the mend of the first that names one."""
    return SeedUnreachable(
        "; ".join(f"{seed.address}: {error.message}" for seed, error in failed),
        field="join",
        mend=next((e.mend for _, e in failed if e.mend), "is a node running there, and reachable?"),
    )


async def questions(stream: Stream) -> AsyncIterator[bytes]:
    """What a peer asks, until it ends the stream: for who answers.

    Raises ``DeadlineExceeded`` when a question doesn't come in time.
    """
    while True:
        try:
            async with asyncio.timeout(LIMITS.idle):
                data = await stream.receive()
        except TimeoutError:
            raise DeadlineExceeded("no question in time", field="idle") from None
        if data is None:
            return
        yield data


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
