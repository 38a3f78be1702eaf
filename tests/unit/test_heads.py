"""Sessions of one client share the thread that multiplies heads."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from hearthring.client.heads import KEPT, Heads


class CountingEnds:
    """Logits that are twice the states, and the sizes of the batches."""

    def __init__(self):
        self.sizes = []

    def norm(self, states):
        return states

    def logits(self, normed):
        self.sizes.append(len(normed))
        if np.isnan(normed).any():
            raise ValueError("not a number")
        return 2 * normed


@pytest.fixture
def thread():
    with ThreadPoolExecutor(1) as pool:
        yield pool


def rows(value, count=1):
    return np.full((count, 3), value, np.float32)


async def held(thread):
    """Keep the thread busy until the event that is returned is set."""
    started, go = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def hold():
        loop.call_soon_threadsafe(started.set)
        go.wait(10)

    thread.submit(hold)
    await started.wait()
    return go


async def test_rows_that_wait_are_multiplied_together(thread):
    heads, ends, other = Heads(thread), CountingEnds(), CountingEnds()
    go = await held(thread)
    waiting = [
        asyncio.ensure_future(heads.logits(which, rows(i, 1 + i % 2), np.sum))
        for i, which in enumerate([ends, ends, other, ends])
    ]
    await asyncio.sleep(0)
    go.set()
    assert await asyncio.gather(*waiting) == [0, 12, 12, 36]
    assert (ends.sizes, other.sizes) == ([3], [1])
    assert await heads.logits(ends, rows(1), np.sum) == 6
    assert await heads.run(max, 3, 4) == 4


async def test_an_error_is_its_own_sessions_alone(thread):
    heads, ends = Heads(thread), CountingEnds()

    def refuse(logits):
        raise RuntimeError("no token")

    go = await held(thread)
    bad = asyncio.ensure_future(heads.logits(ends, rows(1), refuse))
    good = asyncio.ensure_future(heads.logits(ends, rows(1), np.sum))
    await asyncio.sleep(0)
    go.set()
    with pytest.raises(RuntimeError, match="no token"):
        await bad
    assert await good == 6
    with pytest.raises(ValueError, match="not a number"):
        await heads.logits(ends, rows(np.nan), np.sum)


async def test_what_is_cancelled_while_it_waits_is_left_out(thread):
    heads, ends = Heads(thread), CountingEnds()
    go = await held(thread)
    left = asyncio.ensure_future(heads.logits(ends, rows(1), np.sum))
    stays = asyncio.ensure_future(heads.logits(ends, rows(1), np.sum))
    await asyncio.sleep(0)
    left.cancel()
    await asyncio.sleep(0)
    go.set()
    assert await stays == 6
    assert ends.sizes == [1]
    with pytest.raises(asyncio.CancelledError):
        await left


async def test_a_shut_down_thread_leaves_nobody_waiting(thread):
    heads, ends = Heads(thread), CountingEnds()
    go = await held(thread)
    waiting = asyncio.ensure_future(heads.logits(ends, rows(1), np.sum))
    await asyncio.sleep(0)
    thread.shutdown(wait=False, cancel_futures=True)
    go.set()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert ends.sizes == []


async def test_rows_that_were_begun_on_cost_no_second_pass(thread):
    heads, ends, other = Heads(thread), CountingEnds(), CountingEnds()
    heads.begin(ends, rows(1, 2))
    await heads.run(int)  # so it has run before anybody asks
    assert await heads.logits(ends, rows(1, 2), np.sum) == 12
    assert ends.sizes == [1]  # rows that are the same are one
    assert heads.seconds > 0
    heads.begin(ends, rows(1))
    await heads.run(int)
    assert await heads.logits(other, rows(1), np.sum) == 6  # of other ends
    assert await heads.logits(ends, rows(2), np.sum) == 12  # another row
    assert await heads.logits(ends, np.concatenate([rows(3), rows(1)]), np.sum) == 24
    assert (ends.sizes, other.sizes) == ([1, 1, 1, 1], [1])
    assert await heads.logits(ends, rows(1), np.sum) == 6  # it was taken
    assert ends.sizes == [1, 1, 1, 1, 1]
    heads.begin(ends, rows(np.nan))  # nobody is told before somebody asks
    await heads.run(int)
    with pytest.raises(ValueError, match="not a number"):
        await heads.logits(ends, rows(np.nan), np.sum)


async def test_rows_that_are_about_to_be_asked_for_go_with_those_that_wait(thread):
    heads, ends = Heads(thread), CountingEnds()
    go = await held(thread)
    heads.begin(ends, rows(1))
    waiting = asyncio.ensure_future(heads.logits(ends, rows(2), np.sum))
    heads.begin(ends, rows(3))
    heads.begin(ends, rows(2))
    await asyncio.sleep(0)
    go.set()
    assert await waiting == 12
    assert ends.sizes == [3]
    assert await heads.logits(ends, np.concatenate([rows(3), rows(1)]), np.sum) == 24
    assert ends.sizes == [3]


async def test_of_rows_that_nobody_asks_for_only_the_newest_are_kept(thread):
    heads, ends = Heads(thread), CountingEnds()
    for i in range(KEPT + 1):
        heads.begin(ends, rows(i))
    await heads.run(int)
    passes = len(ends.sizes)
    assert await heads.logits(ends, rows(1), np.sum) == 6
    assert len(ends.sizes) == passes
    assert await heads.logits(ends, rows(0), np.sum) == 0
    assert len(ends.sizes) == passes + 1


async def test_a_row_without_logits_spoils_no_others(thread):
    heads, ends = Heads(thread), CountingEnds()
    go = await held(thread)
    heads.begin(ends, rows(np.nan))
    good = asyncio.ensure_future(heads.logits(ends, rows(1), np.sum))
    bad = asyncio.ensure_future(heads.logits(ends, rows(np.nan), np.sum))
    await asyncio.sleep(0)
    go.set()
    assert await good == 6
    with pytest.raises(ValueError, match="not a number"):
        await bad
