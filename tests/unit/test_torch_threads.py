"""A team does every piece once, whoever is late or fails, and leaves nothing behind."""

import gc
import threading
import time

import pytest
import torch

from hearthring.shards.torch_threads import MOST, Team, one_thread

pytestmark = pytest.mark.usefixtures("torch_threads")


def helpers() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name.startswith("torch-")]


@pytest.mark.parametrize("threads", [1, 2, 3, 50])
def test_every_piece_is_done_once(threads: int) -> None:
    team, done = Team(threads), list[int]()
    for count in (0, 1, 2, 7) * 50:
        done.clear()
        team.share(done.append, count)
        assert sorted(done) == list(range(count))


def test_pieces_are_done_side_by_side() -> None:
    both = threading.Barrier(2, timeout=20)
    Team(2).share(lambda _: both.wait() and None, 2)


def test_kernels_run_in_one_thread_each() -> None:
    torch.set_num_threads(3)
    team, found, all_three = Team(3), [], threading.Barrier(3, timeout=20)

    def look(_: int) -> None:
        all_three.wait()
        found.append(torch.get_num_threads())

    team.share(look, 3)
    assert sorted(found) == [1, 1, 3]
    one_thread()
    team.share(look, 3)
    assert found[3:] == [1, 1, 1]


@pytest.mark.parametrize("wrong", [0, 1])
def test_the_caller_learns_what_went_wrong_in_any_thread(wrong: int) -> None:
    team, both = Team(2), threading.Barrier(2, timeout=20)
    caller = threading.current_thread()

    def fail(_: int) -> None:
        both.wait()
        if (threading.current_thread() is caller) == (wrong == 0):
            raise KeyError(wrong)

    for _ in range(3):
        with pytest.raises(KeyError):
            team.share(fail, 2)
    done: list[int] = []
    team.share(done.append, 5)
    assert sorted(done) == [0, 1, 2, 3, 4]


def test_nothing_waits_for_a_thread_that_never_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threading.Thread, "start", lambda _: None)
    team, done = Team(3), list[int]()
    team.share(done.append, 4)
    assert done == [0, 1, 2, 3]


def test_threads_end_with_their_team() -> None:
    gc.collect()
    before = set(helpers())
    team = Team(50)
    made = set(helpers()) - before
    assert len(made) == MOST - 1
    team.share(lambda _: None, 4)
    del team
    for thread in made:
        thread.join(20)
    assert not any(thread.is_alive() for thread in made)


def test_a_call_is_let_go_of_at_its_end() -> None:
    team, gone = Team(3), threading.Event()

    class Held:
        def __del__(self) -> None:
            gone.set()

        def work(self, _: int) -> None:
            time.sleep(0)

    team.share(Held().work, 4)
    assert gone.wait(20)
