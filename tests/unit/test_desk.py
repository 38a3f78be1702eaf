"""A node's front desk: who asks for what nobody has holds up nobody else."""

import asyncio
from typing import Any

from hearthring.node.desk import Desk
from hearthring.protocol.memory import MemoryNetwork, MemoryTransport
from hearthring.protocol.messages import DirectoryReply
from hearthring.protocol.wire import decode_records, encode_query
from hearthring.shards.store import ModelEntry


class SlowAbroad:
    """A directory that knows one model, and looks for others for ever."""

    def __init__(self, model_id: str) -> None:
        self.model_id, self.asked = model_id, list[str]()

    async def fetch(self, model_id: str, layers: int) -> list[bytes]:
        self.asked.append(model_id)
        if model_id != self.model_id:
            await asyncio.Event().wait()
        return [b"record"]


async def test_other_models_do_not_stand_in_the_way_of_the_own(tiny: ModelEntry) -> None:
    desk = Desk(MemoryTransport(MemoryNetwork()), tiny)
    directory: Any = SlowAbroad(tiny.model_id)
    desk._directory = directory
    others = [asyncio.create_task(desk._records(encode_query(f"{n}" * 64))) for n in range(3)]
    await asyncio.sleep(0)
    async with asyncio.timeout(20):
        for _ in range(2):
            said = decode_records(await desk._records(encode_query("")))
            assert said == DirectoryReply(tiny.model_id, (b"record",))
    assert directory.asked == ["0" * 64, tiny.model_id]  # the second look was none
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
