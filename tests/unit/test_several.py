"""Drafts that compete, and a pace that tries ways out."""

from collections.abc import Callable, Sequence
from random import Random

import pytest

from hearthring.client.bandits import Exp3, Ucb
from hearthring.client.cost import Hop, Ring, chain, pipeline, plain
from hearthring.client.draft import Candidate
from hearthring.client.drafts import DRAFTS, check_draft
from hearthring.client.pace import Fixed, Place
from hearthring.client.several import SeveralDrafts, depth, right
from hearthring.client.trying import ARMS, HOLD, WIDTH, Trying, describe
from hearthring.protocol.errors import BadOption
from hearthring.shards.store import ModelEntry
from hearthring.shards.timings import Fit
from tests.memory_ring import memory_swarm
from tests.schedules import CUTS


class Counting:
    """Says that numbers go up by ``by``; nothing below ``start``."""

    def __init__(self, by: int, start: int = 0) -> None:
        self.name, self._by, self._start = f"by {by}", by, start
        self.text: list[int] = []
        self.closed = 0

    def observe(self, tokens: Sequence[int]) -> None:
        self.text.extend(tokens)

    def propose(self, tail: Sequence[int], most: int) -> list[Candidate]:
        last = [*self.text, *tail][-1]
        if last < self._start:
            return []
        return [Candidate((last + self._by * (i + 1)) % 300, i - 1, 0.5) for i in range(most)]

    def forget(self) -> None:
        self.text.clear()

    def close(self) -> None:
        self.closed += 1


def test_the_draft_that_would_have_been_right_guesses() -> None:
    ones, twos = Counting(1), Counting(2)
    several = SeveralDrafts([ones, twos])
    assert several.name == "by 1+by 2"
    several.observe([0, 5])
    assert several.propose((), 2)[0].token == 6  # nothing known: the order
    for number in range(7, 27, 2):
        several.observe([number])
    assert [c.token for c in several.propose((), 3)] == [27, 29, 31]
    assert several.propose((30,), 1)[0].token == 32
    for number in range(26, 150):
        several.observe([number])
    assert several.propose((), 1)[0].token == 150  # the text has changed its nature
    several.forget()
    assert ones.text == twos.text == []
    several.observe([3])
    assert several.propose((), 1)[0].token == 4
    several.close()
    assert (ones.closed, twos.closed) == (1, 1)


def test_whoever_has_nothing_to_say_is_passed_over() -> None:
    several = SeveralDrafts([Counting(1, start=100), Counting(3)])
    several.observe([1])
    assert several.propose((), 1)[0].token == 4
    several.observe([100])
    assert several.propose((), 1)[0].token == 101


def test_how_right_a_proposal_was() -> None:
    tree = [Candidate(1, -1, 0.5), Candidate(2, -1, 0.5), Candidate(3, 1, 0.5), Candidate(4, 2, 1)]
    assert right(tree, [2, 3, 4, 5]) == 3
    assert right(tree, [2, 3]) == 2
    assert right(tree, [1, 3]) == 1
    assert right(tree, [3]) == 0
    assert right([], [3]) == 0
    assert right(tree, []) == 0
    assert right([Candidate(7, i - 1, 1) for i in range(9)], [7] * 4) == 4
    assert (depth([]), depth(tree), depth(tree[:2])) == (0, 3, 1)


def test_several_are_wished_for_by_a_plus() -> None:
    assert check_draft("suffix+suffix") == "suffix+suffix"
    for wish in ("suffix+soothsayer", "suffix+none", "auto+suffix", "+", ""):
        with pytest.raises(BadOption, match="draft"):
            check_draft(wish)


async def test_several_drafts_in_a_ring(tiny: ModelEntry, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Counting] = []

    def counting(setting: object) -> Counting:
        made.append(Counting(1))
        return made[-1]

    monkeypatch.setitem(DRAFTS, "counting", counting)
    async with memory_swarm(tiny, CUTS) as swarm:
        client = swarm.client()
        client.answering.pace = lambda: Fixed(3)
        plain = await client.generate("a b a b a b", draft="none", max_tokens=24)
        both = await client.generate("a b a b a b", draft="counting+suffix", max_tokens=24)
    assert both.token_ids == plain.token_ids
    assert both.guessing.draft == "by 1+suffix"
    assert both.guessing.hits > 0
    assert [draft.closed for draft in made] == [1]


RING = Ring((Fit(0.018, 0.002),) * 4, (Hop(0.03),) * 5)


def written(learner: Ucb | Exp3, acceptance: Callable[[int], float], turns: int) -> list[float]:
    """Rates of a pace that tries, in a ring that behaves as the cost model says, but for noise."""
    pace, draw, rates = Trying(learner), Random(5), list[float]()
    place = Place(0, 1.0, 64)
    for turn in range(turns):
        arm = ARMS[pace._arm]
        assert pace.ask(place) == arm.rows
        rate = true_rate(arm, acceptance(turn))
        rates.append(rate)
        pace.wrote(HOLD, HOLD / rate * draw.uniform(0.9, 1.1))
    return rates


def true_rate(arm: Fixed, acceptance: float) -> float:
    if not arm.rows:
        return plain(RING).rate
    if arm.deep == 1:
        return chain(RING, [acceptance], arm.rows).rate
    return pipeline(RING, [acceptance], arm.rows, arm.deep).rate


@pytest.mark.parametrize("acceptance", [0.05, 0.5, 0.85])
def test_trying_finds_what_is_fast(acceptance: float) -> None:
    rates = written(Ucb(len(ARMS), WIDTH), lambda turn: acceptance, 300)
    best = max(true_rate(arm, acceptance) for arm in ARMS)
    assert sum(rates[150:]) / 150 > 0.93 * best
    # The plain rate is never far: trying costs little even before anything is known.
    assert sum(rates) / 300 > 0.9 * plain(RING).rate


def test_trying_follows_a_text_that_changes() -> None:
    rates = written(Exp3(len(ARMS), 1), lambda turn: 0.9 if turn < 200 else 0.05, 2_000)
    assert sum(rates[100:200]) / 100 > 1.2 * plain(RING).rate
    assert sum(rates[-500:]) / 500 > 0.7 * plain(RING).rate


def test_trying_says_what_it_does() -> None:
    said: list[str] = []
    pace = Trying(Ucb(len(ARMS), WIDTH), said.append)
    assert pace.ask(Place(0, 1.0, 64)) == 0
    pace.wrote(HOLD - 1, 1.0)
    assert said == []
    pace.wrote(1, 1.0)
    assert said == ["4.00 tokens/s with no guesses, next 2 guesses a step"]
    assert pace.ask(Place(0, 1.0, 64)) == 2
    assert list(pace.keep(Place(0, 1.0, 64), [Candidate(1, -1, 0.1)])) == [0]
    assert describe(ARMS[-1]) == "3 guesses a step in 8 steps"
