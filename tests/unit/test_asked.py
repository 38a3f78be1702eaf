"""Drafts that take time, beside cheap ones: asked where that should pay, and nowhere else."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from bench.simulator.paced import OwnTime, PacedClient
from bench.spoken import Dialled
from hearthring.client.asked import Asked
from hearthring.client.controller import Controller
from hearthring.client.cost import Hop, Ring
from hearthring.client.draft import Candidate, Draft, ReadingDraft, Setting, ThriftyDraft
from hearthring.client.drafts import open_speculation
from hearthring.client.pace import Fixed
from hearthring.client.request import PromptModel
from hearthring.client.sampler import Sampling
from hearthring.client.several import SeveralDrafts
from hearthring.shards.draft_file import draft_path, write_draft
from hearthring.shards.store import ModelEntry
from hearthring.shards.student import Student
from hearthring.shards.timings import Fit
from tests.memory_ring import memory_swarm
from tests.schedules import CUTS, same

TRIP = Fit(0.07, 0.004)
"""Seconds of a step by its rows."""


def guesses(*chances: float) -> list[Candidate]:
    return [Candidate(place, place - 1, chance) for place, chance in enumerate(chances)]


def known(each: float, hits: int = 0, misses: int = 0) -> Asked:
    """A draft whose candidates take so long, and did so well."""
    asked = Asked()
    asked.took(1, each)
    asked.judged(hits, False)
    for _ in range(misses):
        asked.judged(0, True)
    return asked


def test_it_is_asked_for_what_pays() -> None:
    assert known(0.001).worth(TRIP, [], 8, True) >= 3
    assert known(0.001, hits=20).worth(TRIP, [], 8, True) == 8
    assert known(0.025).worth(TRIP, [], 8, True) == 1
    assert known(0.06).worth(TRIP, [], 8, True) == 0
    assert known(0.001, misses=40).worth(TRIP, [], 8, True) == 0
    assert known(0.001).worth(TRIP, [], 0, True) == 0


def test_what_others_say_for_nothing_counts() -> None:
    asked = known(0.005)
    assert asked.worth(TRIP, guesses(0.1), 8, True) > 0
    assert asked.worth(TRIP, guesses(0.9, 0.9, 0.9), 8, True) == 0


def test_time_in_which_steps_are_under_way_costs_nothing() -> None:
    asked = known(0.018, misses=4)
    assert asked.worth(TRIP, [], 8, waiting=True) == 0
    assert asked.worth(TRIP, [], 8, waiting=False) == 1
    assert known(0.04).worth(TRIP, [], 8, waiting=False) == 0, "that would hold up what comes back"


def test_what_nobody_knows_is_tried_by_one() -> None:
    assert Asked().worth(TRIP, [], 8, True) == 1
    assert Asked().worth(None, [], 8, True) == 0, "nobody knows what a trip takes"
    # Nothing was found: that was the reading of a text.
    asked = Asked()
    asked.took(0, 9.0)
    assert asked.worth(TRIP, [], 8, True) == 1


def test_who_was_wrong_is_tried_again_some_day() -> None:
    asked = known(0.005, misses=12)
    assert asked.worth(TRIP, [], 8, True) == 0
    tokens = 0
    while not asked.worth(TRIP, [], 8, True):
        asked.fade()
        tokens += 1
    assert 20 < tokens < 200


@dataclass
class Slow:
    """Says that numbers go up by ``by``, after ``each`` seconds of ``time`` for each."""

    by: int = 1
    each: float = 0.001
    time: list[float] = field(default_factory=lambda: [0.0])
    name: str = "slow"
    asked: int = 0
    unread: int = 3
    text: list[int] = field(default_factory=list)

    def observe(self, tokens: Sequence[int]) -> None:
        self.text.extend(tokens)

    def read(self, prompt: Sequence[int]) -> bool:
        self.unread -= 1
        return self.unread <= 0

    def propose(self, tail: Sequence[int], most: int) -> list[Candidate]:
        self.asked += 1
        self.time[0] += self.each * most
        last = [*self.text, *tail][-1]
        return [Candidate(last + self.by * (i + 1), i - 1, 0.5) for i in range(most)]

    def forget(self) -> None:
        self.text.clear()

    def close(self) -> None:
        pass


@dataclass
class Cheap(Dialled):
    """Knows numbers that go up by one, with such chances."""

    truth: Sequence[int] = tuple(range(1000))
    alpha: float = 1.0


def several(slow: Slow, cheap: Draft, trip: Fit | None = TRIP) -> SeveralDrafts:
    found = SeveralDrafts([slow, cheap], clock=lambda: slow.time[0])
    if trip is not None:
        found.trip(trip)
    return found


def test_a_slow_draft_beside_a_right_one_is_left_in_peace() -> None:
    slow = Slow(by=2)
    both = several(slow, Cheap(said=0.9))
    both.observe([0])
    for number in range(1, 90):
        assert both.propose((), 4)[0].token == number
        both.observe([number])
    assert slow.asked == 0


@pytest.mark.parametrize(("by", "most"), [(1, 90), (2, 12)])
def test_a_slow_draft_guesses_as_long_as_it_is_right(by: int, most: int) -> None:
    slow = Slow(by=by, each=0.01)
    both = several(slow, Cheap(said=0.05, alpha=0.0))
    both.observe([0])
    for number in range(1, 90):
        both.propose((), 4)
        both.observe([number])
    assert (slow.asked > 80) == (by == 1)
    assert slow.asked <= most


def test_slow_drafts_wait_until_a_trip_is_known() -> None:
    slow = Slow()
    both = several(slow, Cheap(said=0.05), trip=None)
    both.observe([0])
    assert both.propose((), 4)
    assert slow.asked == 0
    both.trip(TRIP)
    assert len(both.propose((), 4)) == 1
    assert slow.asked == 1


def test_slow_drafts_read_beforehand() -> None:
    slow = Slow()
    both = several(slow, Cheap())
    assert isinstance(both, ReadingDraft)
    assert isinstance(both, ThriftyDraft)
    assert [both.read([1, 2]) for _ in range(3)] == [False, False, True]
    assert SeveralDrafts([Cheap(), Cheap()]).read([1, 2])


class Simulated(Slow):
    """As slow in a simulated ring."""

    def __init__(self, inner: Draft, own: OwnTime, each: float) -> None:
        super().__init__(each=each)
        self.inner, self.own = inner, own

    def observe(self, tokens: Sequence[int]) -> None:
        self.inner.observe(tokens)

    def propose(self, tail: Sequence[int], most: int) -> list[Candidate]:
        found = self.inner.propose(tail, most)
        self.own.spent += self.each * len(found)
        self.asked += len(found)
        return found

    def forget(self) -> None:
        self.inner.forget()


TEXT = list(range(400))


def seconds(hop: float, cheap: float, slow: float | None, each: float, tokens: int) -> float:
    """What an answer takes with such acceptances, at ``auto``."""
    ring = Ring((Fit(0.004, 0.001),) * 4, (Hop(hop),) * 5, ends=Fit(0.002, 0.0))
    text = TEXT[: 10 + tokens]
    client = PacedClient(ring, Dialled(text, cheap, said=0.3), Controller(), text, 10)
    if slow is not None:
        own = client._time
        guessing = Simulated(Dialled(text, slow, seed=9), own, each)
        drafts = [Dialled(text, cheap, said=0.3), guessing]
        client.speculation.draft = SeveralDrafts(drafts, clock=own.now)
    return client.run()


@pytest.mark.parametrize("hop", [0.0, 0.01, 0.05])
@pytest.mark.parametrize(("cheap", "each"), [(0.1, 0.002), (0.1, 0.01), (0.85, 0.01)])
def test_a_bad_slow_draft_costs_little(hop: float, cheap: float, each: float) -> None:
    without = seconds(hop, cheap, None, 0.0, 100)
    assert seconds(hop, cheap, 0.05, each, 100) < 1.06 * without


@pytest.mark.parametrize("hop", [0.01, 0.05])
def test_a_good_slow_draft_pays(hop: float) -> None:
    without = seconds(hop, 0.1, None, 0.0, 200)
    assert seconds(hop, 0.1, 0.7, 0.003, 200) < 0.75 * without


def trained(entry: ModelEntry) -> Path:
    """A draft of all layers, where that of a model lies."""
    student, path = Student(entry.open(), 4), draft_path(entry.model_id)
    path.parent.mkdir(parents=True)
    write_draft(entry.open(), entry.model_id, entry.name, student.shape, student.learnt(), path)
    return path


async def test_auto_takes_the_draft_that_was_trained_for_the_model(
    tiny: ModelEntry, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Whether it pays hangs on this machine's clock.
    monkeypatch.setattr(Asked, "worth", lambda asked, trip, instead, most, waiting: most)
    asked = {"max_tokens": 24, "temperature": 0.8, "seed": 3}
    async with memory_swarm(tiny, CUTS) as swarm:
        client = swarm.client()
        plain = await client.generate("the sky", draft="none", **asked)
        alone = await client.generate("the sky", draft="auto", **asked)
        trained(tiny)
        client.answering.pace = lambda: Fixed(4, 2)
        answer = await client.generate("the sky", draft="auto", **asked)
    same(alone, plain)
    same(answer, plain)
    assert alone.guessing.draft == "suffix"
    assert answer.guessing.draft == "suffix+distilled"
    assert answer.guessing.hits > 8


def test_auto_goes_without_a_draft_that_cannot_be_had(tiny: ModelEntry) -> None:
    path, said = trained(tiny), list[str]()
    path.write_bytes(path.read_bytes()[:1000])
    setting = Setting(PromptModel(tiny, tiny.open()), Sampling())
    speculation = open_speculation("auto", setting, explain=said.append)
    assert speculation.name == "suffix"
    assert len(said) == 1
    assert said[0].startswith("no guesses of the trained draft: ")
