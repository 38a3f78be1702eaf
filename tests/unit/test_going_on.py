"""Guesses that take time: what was found leaves, and more is looked for while it is under way."""

import asyncio
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from bench.simulator.paced import PacedClient
from bench.spoken import Dialled
from hearthring.client.branches import Branches
from hearthring.client.cost import Hop, Ring
from hearthring.client.draft import Candidate
from hearthring.client.pace import Fixed
from hearthring.client.speculation import LONG, Speculation
from hearthring.node.config import NodeHooks
from hearthring.protocol.messages import GENERATED, PROMPT, Row
from hearthring.protocol.tensors import F32
from hearthring.shards.engine import Kind, Segment
from hearthring.shards.store import ModelEntry
from hearthring.shards.timings import Fit
from tests.drafts import Knowing, Whim
from tests.memory_ring import memory_swarm
from tests.schedules import CUTS, KINDS, PROMPT_IDS, ask, same, uneven
from tests.wrapped import WrappedEngine


@dataclass
class Waiting(Knowing):
    """Calls ``before`` whenever it is asked, with what is under way."""

    before: Callable[[Sequence[int]], None] = lambda tail: None

    def propose(self, tail: Sequence[int], most: int) -> list[Candidate]:
        self.before(tail)
        return super().propose(tail, most)


@dataclass
class Seen(WrappedEngine):
    """An engine that tells of generated rows."""

    generated: threading.Event

    def before(self, segments: tuple[Segment, ...], states: F32) -> tuple[Segment, ...]:
        if any(row.kind == Kind.GENERATED for segment in segments for row in segment.rows):
            self.generated.set()
        return segments


@dataclass(frozen=True)
class Told(Fixed):
    """Notes what it is told."""

    said: list[tuple[str, object]] = field(default_factory=list)

    def drafted(self, candidates: int, seconds: float) -> None:
        self.said.append(("drafted", candidates))

    def sent(self, steps: Sequence[int], flying: int) -> None:
        self.said.append(("sent", (list(steps), flying)))


async def test_the_first_step_is_under_way_before_the_second_is_looked_for(
    tiny: ModelEntry,
) -> None:
    """A draft that says no more until a stage has run what it said first."""
    generated, waited = threading.Event(), list[bool]()

    def before(tail: Sequence[int]) -> None:
        if tail and not waited:
            waited.append(generated.wait(20))
        elif not tail:
            threading.Event().wait(2 * LONG)  # it takes time

    hooks = {2: NodeHooks(engine=lambda engine: Seen(engine, generated))}
    async with memory_swarm(tiny, CUTS, hooks=hooks) as swarm:
        client = swarm.client(sharing="none")
        plain = await ask(client, max_tokens=16)
        generated.clear()
        truth = PROMPT_IDS + plain.token_ids
        draft = Waiting(truth, 1, hit=1.0, wide=0, before=before)
        answer = await ask(client, draft, Fixed(2, 4), max_tokens=16)
    same(answer, plain)
    assert waited == [True]
    assert answer.guessing.hits > 8


@pytest.mark.parametrize("kind", KINDS)
async def test_drafts_slow_at_random_change_nothing(tiny: ModelEntry, kind: str) -> None:
    """Results come while guesses are looked for, guesses are found while results come."""
    place = 5000 + 100 * list(KINDS).index(kind)
    async with memory_swarm(tiny, CUTS, hooks=uneven(place)) as swarm:
        client, options = swarm.client(sharing="none"), {"max_tokens": 24, **KINDS[kind]}
        plain = await ask(client, **options)
        truth, steps, trips = PROMPT_IDS + plain.token_ids, 0, 0
        for seed in range(place, place + 6):
            draw, pause = np.random.default_rng(seed), threading.Event()

            def before(tail: Sequence[int], draw: Any = draw, pause: Any = pause) -> None:
                if draw.random() < 0.6:
                    pause.wait(draw.random() * 5 * LONG)

            draft = Waiting(truth, seed, hit=(0.3, 0.7, 0.95)[seed % 3], before=before)
            answer = await ask(client, draft, Whim(seed), **options)
            same(answer, plain)
            steps, trips = steps + answer.guessing.steps, trips + answer.guessing.trips
    assert steps > trips, "nothing was ever cancelled"


async def test_an_answer_may_be_given_up_while_guesses_are_looked_for(tiny: ModelEntry) -> None:
    looking, go_on = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def before(tail: Sequence[int]) -> None:
        if tail:
            loop.call_soon_threadsafe(looking.set)
            go_on.wait(20)
        else:
            threading.Event().wait(2 * LONG)

    async with memory_swarm(tiny, CUTS) as swarm:
        client = swarm.client(sharing="none")
        plain = await ask(client, max_tokens=16)
        draft = Waiting(PROMPT_IDS + plain.token_ids, 1, hit=1.0, wide=0, before=before)
        asked = asyncio.create_task(ask(client, draft, Fixed(2, 4), max_tokens=16))
        await asyncio.wait_for(looking.wait(), 20)
        asked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asked
        assert draft.closed
        go_on.set()
        same(await ask(client, max_tokens=16), plain)


class Clocked:
    """A draft by whose clock every candidate takes ``each`` seconds: it copies ``text``."""

    name = "clocked"

    def __init__(self, text: Sequence[int], each: float) -> None:
        self.text, self.each, self.now, self.seen = text, each, 0.0, 0

    def observe(self, tokens: Sequence[int]) -> None:
        self.seen += len(tokens)

    def propose(self, tail: Sequence[int], most: int) -> list[Candidate]:
        at = self.seen + len(tail)
        found = [Candidate(t, i - 1, 0.9) for i, t in enumerate(self.text[at : at + most])]
        self.now += self.each * len(found)
        return found

    def forget(self) -> None:
        self.seen = 0

    def close(self) -> None:
        pass


def planned(each: float) -> tuple[Speculation, Told, Branches]:
    draft, pace = Clocked(range(10, 60), each), Told(2, 4)
    speculation = Speculation(draft, pace, clock=lambda: draft.now)
    speculation.begin([10])
    branches = Branches(Row(1, 0, 0, PROMPT), 10, np.zeros(1, np.float32))
    branches.move(11)
    branches.plant(11)
    draft.observe([11])
    return speculation, pace, branches


def test_what_costs_nothing_is_planned_at_once() -> None:
    speculation, pace, branches = planned(0.0)
    steps = speculation.plan(branches, 0, 60)
    assert [len(step) for step in steps] == [3, 2, 2, 2]
    assert not speculation.more
    assert pace.said == [("drafted", 2), ("sent", ([3, 2, 2, 2], 0))]


def test_what_takes_time_is_planned_one_by_one() -> None:
    speculation, pace, branches = planned(LONG)
    for place in range(4):
        (step,) = speculation.plan(branches, place, 60)
        assert [branch.token for branch in step[-2:]] == [12 + 2 * place, 13 + 2 * place]
        assert speculation.more
        branches.sent(step)
        assert all(branch.row is not None and branch.row.kind == GENERATED for branch in step)
    assert speculation.plan(branches, 4, 60) == []
    assert not speculation.more
    # Only what held up the ring is the pace's to know, and a search in vain is no step.
    assert pace.said == [
        ("drafted", 2),
        *(("sent", ([3 if not place else 2], place)) for place in range(4)),
    ]
    account = speculation.account()
    assert (account.steps, account.guesses) == (4, 8)


def test_a_new_token_ends_the_search() -> None:
    speculation, pace, branches = planned(LONG)
    branches.sent(speculation.plan(branches, 0, 60)[0])
    assert speculation.more
    speculation.wrote([12], 1)
    assert not speculation.more
    pace.said.clear()
    branches.move(12)
    speculation.plan(branches, 4, 60)
    assert pace.said == [("sent", ([], 4))]


def test_guesses_found_meanwhile_cost_nothing() -> None:
    """In simulated time: a draft as slow as a stage's row holds up the first step alone."""
    ring = Ring((Fit(0.004, 0.001),) * 4, (Hop(0.01),) * 5)
    text = list(range(1_000))

    def seconds(guess: float) -> float:
        draft = Dialled(text, 0.85)
        return PacedClient(ring, draft, Fixed(2, 4), text, 10, guess=guess).run()

    assert seconds(0.002) < 1.15 * seconds(0.0)
