"""Asking nodes for the directory. The records are signed, so any node will do."""

import asyncio
from collections.abc import Sequence

from hearthring.protocol.asking import ask_records
from hearthring.protocol.errors import BadInvitation, HearthringError, SeedUnreachable
from hearthring.protocol.invitation import Invitation
from hearthring.protocol.messages import DirectoryReply
from hearthring.protocol.record_book import RecordBook
from hearthring.protocol.records import NodeRecord, newest
from hearthring.protocol.transport import Transport


async def find_records(
    transport: Transport, seeds: Sequence[Invitation], book: RecordBook, model_id: str = ""
) -> tuple[str, list[NodeRecord]]:
    """``(model id, live records)`` from all seeds that answer; an empty id asks for theirs.

    ``book`` holds what was read before. Raises ``SeedUnreachable`` when none answers, saying why
    each didn't.
    """
    if not seeds:
        raise BadInvitation(
            "none was given", field="join", mend="use --join with what a node printed at start"
        )
    replies = await asyncio.gather(
        *(ask_records(transport, seed, model_id) for seed in seeds), return_exceptions=True
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
    # Signatures take a second for thousands of new records; the book then finds them checked.
    await asyncio.to_thread(newest, records, model_id)
    return model_id, book.read(records, model_id)
