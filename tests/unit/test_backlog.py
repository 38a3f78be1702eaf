"""What waits for a reader has bounds in number and in bytes."""

import asyncio
from dataclasses import replace

import pytest

from hearthring.protocol.backlog import Backlog
from hearthring.protocol.limits import LIMITS


async def test_so_many_items_wait_and_in_order() -> None:
    backlog = Backlog[int](3)
    for item in range(3):
        backlog.put(item, 1)
    with pytest.raises(asyncio.QueueFull):
        backlog.put(3, 1)
    assert (len(backlog), backlog.bytes) == (3, 3)
    assert [await backlog.get() for _ in range(3)] == [0, 1, 2]
    backlog.put(4, 1)
    assert await backlog.get() == 4
    assert backlog.bytes == 0


async def test_so_many_bytes_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    smaller = replace(LIMITS, backlog_bytes=100)
    monkeypatch.setattr("hearthring.protocol.backlog.LIMITS", smaller)
    backlog = Backlog[str](10)
    backlog.put("half", 50)
    with pytest.raises(asyncio.QueueFull):
        backlog.put("too much", 51)
    backlog.put("other half", 50)
    assert await backlog.get() == "half"
    backlog.put("again", 50)
    assert [await backlog.get() for _ in range(2)] == ["other half", "again"]
    assert (len(backlog), backlog.bytes) == (0, 0)


def test_what_an_honest_client_has_under_way_fits() -> None:
    """Sixteen prompt steps, each as large as a message may be."""
    assert LIMITS.backlog_bytes >= 16 * LIMITS.message_bytes
