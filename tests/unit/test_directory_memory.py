"""A directory in this process keeps the promises of the real one."""

from typing import TYPE_CHECKING

import pytest

from hearthring.node.memory_directory import MemoryDirectory
from hearthring.protocol import records
from hearthring.protocol.errors import BadSignature, DirectoryDown, Malformed
from hearthring.protocol.identity import Identity
from hearthring.protocol.limits import LIMITS

if TYPE_CHECKING:
    from hearthring.node.directory import Directory

MODEL = "ab" * 32
Shared = dict[tuple[str, str], bytes]


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def record(
    who: Identity,
    expires: float,
    windows: tuple[tuple[int, int], ...] = ((0, 4),),
    sequence: int = 0,
) -> records.NodeRecord:
    return records.NodeRecord(
        node=who.node_id,
        model_id=MODEL,
        windows=windows,
        addresses=("127.0.0.1:9",),
        expires=expires,
        sequence=sequence,
    )


@pytest.fixture
def clock() -> Clock:
    return Clock()


async def test_what_one_announces_the_other_fetches_until_it_expires(clock: Clock) -> None:
    shared: Shared = {}
    who, one, other = Identity.new(), MemoryDirectory(shared, clock), MemoryDirectory(shared, clock)
    directory: Directory = one
    signed = records.sign(record(who, 1024.0), who)
    await directory.announce(signed)
    assert await other.fetch(MODEL, 4) == [signed]
    assert await other.fetch("cd" * 32, 4) == []
    clock.now = 1024.0
    assert await other.fetch(MODEL, 4) == []


async def test_only_records_of_the_layers_asked_for(clock: Clock) -> None:
    who, directory = Identity.new(), MemoryDirectory({}, clock)
    await directory.announce(records.sign(record(who, 1024.0, windows=((10, 12),)), who))
    assert await directory.fetch(MODEL, 10) == []
    assert len(await directory.fetch(MODEL, 11)) == 1


async def test_the_later_expiry_stays(clock: Clock) -> None:
    who, directory = Identity.new(), MemoryDirectory({}, clock)
    newer = records.sign(record(who, 1030.0, sequence=1), who)
    await directory.announce(newer)
    await directory.announce(records.sign(record(who, 1024.0), who))
    assert await directory.fetch(MODEL, 4) == [newer]


async def test_withdrawn_is_left_out_by_readers(clock: Clock) -> None:
    who, directory = Identity.new(), MemoryDirectory({}, clock)
    offer = record(who, 1024.0)
    await directory.announce(records.sign(offer, who))
    await directory.withdraw(records.sign(offer.withdrawn(), who))
    assert records.read_all(await directory.fetch(MODEL, 4), MODEL, clock.now) == []


async def test_refuses_what_no_reader_would_accept(clock: Clock) -> None:
    who, directory = Identity.new(), MemoryDirectory({}, clock)
    signed = records.sign(record(who, 1024.0), who)
    with pytest.raises(BadSignature):
        await directory.announce(signed[:-1] + bytes([signed[-1] ^ 1]))
    with pytest.raises(Malformed):
        await directory.announce(b"nonsense")
    await directory.announce(records.sign(record(who, 1001.0 + LIMITS.record_life_cap), who))
    assert await directory.fetch(MODEL, 4) == []


async def test_closed_is_closed_for_all_but_the_others(clock: Clock) -> None:
    shared: Shared = {}
    who, one, other = Identity.new(), MemoryDirectory(shared, clock), MemoryDirectory(shared, clock)
    await one.announce(records.sign(record(who, 1024.0), who))
    await one.close()
    await one.close()
    with pytest.raises(DirectoryDown):
        await one.fetch(MODEL, 4)
    assert len(await other.fetch(MODEL, 4)) == 1
