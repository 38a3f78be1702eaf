"""A worker's turns: in order, with what they raise, and none after the end."""

import asyncio
import threading
import weakref

import pytest

from hearthring.node.worker import Worker
from hearthring.protocol.errors import StageFailed
from tests.stage_peer import until


async def test_turns_are_taken_in_order_and_return_what_they_made() -> None:
    worker, seen = Worker("test"), list[int]()
    worker.submit(lambda: seen.append(1))
    assert await worker.run(lambda: [*seen, 2]) == [1, 2]
    await worker.close()


async def test_what_a_turn_raises_is_its_callers_and_no_one_elses(
    capsys: pytest.CaptureFixture[str],
) -> None:
    worker = Worker("test")
    with pytest.raises(ZeroDivisionError):
        await worker.run(lambda: 1 // 0)
    worker.submit(lambda: print(1 // 0))
    assert await worker.run(lambda: 3) == 3
    await worker.close()
    assert "test: ZeroDivisionError" in capsys.readouterr().err


async def test_a_turn_whose_caller_has_left_isnt_taken() -> None:
    worker, gate, seen = Worker("test"), threading.Event(), list[int]()
    worker.submit(lambda: gate.wait(5) and None)
    leaving = asyncio.create_task(worker.run(lambda: seen.append(1)))
    await asyncio.sleep(0)
    leaving.cancel()
    await asyncio.gather(leaving, return_exceptions=True)
    gate.set()
    await worker.run(lambda: None)
    await worker.close()
    assert not seen


async def test_closing_waits_for_the_turn_under_way_and_drops_the_rest() -> None:
    worker, begun, gate, seen = Worker("test"), threading.Event(), threading.Event(), list[int]()

    def turn() -> None:
        begun.set()
        gate.wait(5)
        seen.append(1)

    worker.submit(turn)
    late = asyncio.create_task(worker.run(lambda: seen.append(2)))
    await asyncio.to_thread(begun.wait, 5)
    closing = asyncio.create_task(worker.close())
    await asyncio.sleep(0)
    gate.set()
    await closing
    assert seen == [1]
    with pytest.raises(StageFailed, match="stopping"):
        await late
    with pytest.raises(StageFailed):
        await worker.run(lambda: None)


async def test_nothing_of_a_turn_is_kept_once_it_is_over() -> None:
    """The last one of a session holds its keys and values."""

    class Session:
        def leave(self) -> None:
            pass

    worker, session = Worker("test"), Session()
    gone = weakref.ref(session)
    worker.submit(session.leave)
    del session
    await until(lambda: gone() is None)
    await worker.close()
