"""Asking nodes for the directory. The records are signed, so any node will do."""

import asyncio
from collections.abc import Sequence

from hearthring.protocol.errors import (
    BadInvitation,
    DeadlineExceeded,
    HearthringError,
    SeedUnreachable,
)
from hearthring.protocol.invitation import Invitation
from hearthring.protocol.limits import LIMITS
from hearthring.protocol.messages import DirectoryReply
from hearthring.protocol.records import NodeRecord, read_all
from hearthring.protocol.transport import Method, Transport
from hearthring.protocol.wire import decode_records, encode_query


async def find_records(
    transport: Transport, seeds: Sequence[Invitation], model_id: str = ""
) -> tuple[str, list[NodeRecord]]:
    """``(model id, live records)`` from all seeds that answer; an empty id asks for theirs.

    Raises ``SeedUnreachable`` when none answers, saying why each didn't.
    """
    if not seeds:
        raise BadInvitation(
            "none was given", field="join", mend="use --join with what a node printed at start"
        )
    replies = await asyncio.gather(
        *(_ask(transport, seed, model_id) for seed in seeds), return_exceptions=True
    )
    told, failed = [], []
    for seed, reply in zip(seeds, replies, strict=True):
        if isinstance(reply, DirectoryReply):
            told.append(reply)
        elif isinstance(reply, HearthringError):
            failed.append(f"{seed.address}: {reply.message}")
        else:
            raise reply
    if not told:
        raise SeedUnreachable(
            "; ".join(failed), field="join", mend="is a node running there, and reachable?"
        )
    model_id = model_id or told[0].model_id
    records = [data for reply in told if reply.model_id == model_id for data in reply.records]
    return model_id, read_all(records, model_id)


async def _ask(transport: Transport, seed: Invitation, model_id: str) -> DirectoryReply:
    stream = await transport.dial(seed.address, seed.node_id, Method.DIRECTORY)
    try:
        async with asyncio.timeout(LIMITS.connect * 2):
            await stream.send(encode_query(model_id))
            data = await stream.receive()
    except TimeoutError:
        raise DeadlineExceeded("the directory doesn't answer in time", field="directory") from None
    finally:
        await stream.close()
    if data is None:
        raise SeedUnreachable("it ended the stream", field=seed.address)
    return decode_records(data)
