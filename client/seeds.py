"""Asking nodes for the directory. The records are signed, so any node will do."""

import asyncio
import contextlib
from collections.abc import Sequence

from hearthring.protocol.asking import ask_records, no_seed
from hearthring.protocol.errors import BadInvitation, HearthringError
from hearthring.protocol.invitation import Invitation, split_address
from hearthring.protocol.messages import DirectoryReply
from hearthring.protocol.record_book import RecordBook
from hearthring.protocol.records import NodeRecord, newest
from hearthring.protocol.tasks import cancel
from hearthring.protocol.transport import Transport

LATER, SOON = 0.5, 0.2
"""Seconds that seeds have to answer once one of them has: others may be cut off. The shorter time
is for whoever waits in the middle of an answer."""


def known_nodes(records: Sequence[NodeRecord], most: int = 8) -> list[Invitation]:
    """Nodes to ask when the seeds are gone: any of them knows the directory."""
    found = list[Invitation]()
    for record in records:
        if len(found) == most:
            break
        with contextlib.suppress(HearthringError, IndexError):  # some are reached by relays only
            host, port = split_address(record.addresses[0], "address")
            found.append(Invitation(host, port, record.node))
    return found


async def find_records(
    transport: Transport,
    seeds: Sequence[Invitation],
    book: RecordBook,
    model_id: str = "",
    later: float = LATER,
) -> tuple[str, list[NodeRecord]]:
    """``(model id, live records)`` from all seeds that answer; an empty id asks for theirs.

    ``book`` holds what was read before, and ``later`` is the time that the others have once one of
    them has answered. Raises ``SeedUnreachable`` when none does, saying why each didn't.
    """
    if not seeds:
        raise BadInvitation(
            "none was given", field="join", mend="use --join with what a node printed at start"
        )
    asking = {asyncio.ensure_future(ask_records(transport, seed, model_id)): seed for seed in seeds}
    told = list[DirectoryReply]()
    failed = list[tuple[Invitation, HearthringError]]()
    waiting = set(asking)
    try:
        while waiting:
            done, waiting = await asyncio.wait(
                waiting, timeout=later if told else None, return_when=asyncio.FIRST_COMPLETED
            )
            if not done:
                break
            for task in done:
                try:
                    told.append(task.result())
                except HearthringError as error:
                    failed.append((asking[task], error))
    finally:
        await cancel(waiting)
    if not told:
        raise no_seed(failed)
    model_id = model_id or told[0].model_id
    records = [data for reply in told if reply.model_id == model_id for data in reply.records]
    # Signatures take a second for thousands of new records; the book then finds them checked.
    await asyncio.to_thread(newest, records, model_id)
    return model_id, book.read(records, model_id)
