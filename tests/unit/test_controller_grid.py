"""The controller beside every fixed way, in simulated time: also short answers are fast at once."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

from bench.simulator.paced import PacedClient
from bench.simulator.work import Work
from bench.spoken import Dialled
from hearthring.client.controller import Controller
from hearthring.client.cost import Hop, Ring
from hearthring.client.draft import Candidate
from hearthring.client.pace import Fixed, Pace
from hearthring.client.suffix import SuffixDraft
from hearthring.shards.timings import Fit

FIXED = (Fixed(2), Fixed(4), Fixed(2, 4), Fixed(3, 8))
BESIDE = 0.001
"""Of a stage's time for a step, what isn't its engine's."""
TEXTS, CROWDED_TEXTS = (1, 2), (1, 2, 3)
PROMPT = 40
PERIODS = range(7, 30, 3)


def ring(hop: float, row: float = 0.004) -> Ring:
    """Four stages of 5 ms a row, of which a further one takes ``row``, and what isn't announced."""
    stage = Fit(0.005 - row + BESIDE, row)
    return Ring((stage,) * 4, (Hop(hop),) * 5, ends=Fit(0.002, 0.0005))


def announced(hop: float, row: float = 0.004) -> Ring:
    return Ring((Fit(0.005 - row, row),) * 4, (Hop(hop),) * 5)


def seconds(
    hop: float, alpha: float, said: float, tokens: int, pace: type[Controller] | Pace
) -> float:
    """Of some texts; a guess is right with a chance of ``alpha``, and ``said`` is what it says."""
    text, spent = list(range(PROMPT + tokens)), 0.0
    for seed in TEXTS:
        draft = Dialled(text, alpha, seed=seed, said=said)
        own = pace() if isinstance(pace, type) else pace
        client = PacedClient(
            ring(hop), draft, own, text, PROMPT, beside=BESIDE, announced=announced(hop)
        )
        spent += client.run()
    return spent


@pytest.mark.parametrize("hop", [0.0, 0.002, 0.01, 0.05])
@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.5, 0.7, 0.85])
def test_it_is_close_to_the_best_fixed_way_and_never_below_plain(hop: float, alpha: float) -> None:
    said = alpha or 0.6  # a draft that is never right boasts
    for tokens in (32, 48, 128) if alpha in (0.0, 0.85) else (32,):
        plain = len(TEXTS) * (tokens - 1) * ring(hop).trip(1)
        own = seconds(hop, alpha, said, tokens, Controller)
        fixed = (seconds(hop, alpha, said, tokens, way) for way in FIXED if alpha)
        best = min((plain, *fixed))
        assert own <= plain / 0.95, tokens
        assert own <= best / 0.9, tokens


def crowded(
    hop: float,
    alpha: float,
    said: float,
    tokens: int,
    pace: type[Controller] | Pace,
    make: Callable[..., Dialled] = Dialled,
) -> float:
    """As ``seconds``, where two processors do all that stages, client and links need, as measured
    on such a machine; it isn't announced that they share them."""
    work = Work(Fit(0.0021, 0.0001), Fit(0.0033, 0.0001), Fit(0.0003, 0.0), 0.6, 0.0011, 0.0002)
    stages, ends = (Fit(0.0025, 0.003),) * 4, Fit(0.0055, 0.0021)
    shared = Ring(stages, (Hop(hop),) * 5, ends, processors=2)
    told = Ring((Fit(0.0008, 0.0027),) * 4, (Hop(hop + 0.0037),) * 5)
    text, spent = list(range(PROMPT + tokens)), 0.0
    for seed in CROWDED_TEXTS:
        draft = make(text, alpha, seed=seed, said=said)
        own = pace() if isinstance(pace, type) else pace
        spent += PacedClient(shared, draft, own, text, PROMPT, work=work, announced=told).run()
    return spent


@pytest.mark.parametrize("hop", [0.0, 0.002, 0.01])
@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.85])
def test_it_notices_that_stages_share_processors(hop: float, alpha: float) -> None:
    said = alpha or 0.6
    plain = crowded(hop, alpha, said, 48, Fixed())
    own = crowded(hop, alpha, said, 48, Controller)
    best = min((plain, *(crowded(hop, alpha, said, 48, way) for way in FIXED if alpha)))
    assert own <= plain / 0.95
    assert own <= best / 0.85


class Modest(Dialled):
    """Of its first candidates it says that they are unlikely, as of a copy that has just begun."""

    begin = 8

    def propose(self, tail: Sequence[int], most: int) -> list[Candidate]:
        modest = max(0, PROMPT + self.begin - self._seen - len(tail))
        found = super().propose(tail, most)
        return [replace(one, chance=0.3) for one in found[:modest]] + found[modest:]


@pytest.mark.parametrize("hop", [0.0, 0.002, 0.01])
def test_steps_under_way_become_longer_when_what_follows_becomes_likelier(hop: float) -> None:
    """A ring that never runs empty is no reason to go on as it began."""
    own = crowded(hop, 0.97, 0.97, 48, Controller, Modest)
    assert own <= min(crowded(hop, 0.97, 0.97, 48, way, Modest) for way in FIXED) / 0.88


def copied(period: int) -> tuple[list[int], int]:
    """A text that begins anew and then copies its prompt with a change now and then."""
    prompt = [7 * at % 23 if at % 3 == 0 else 100 + at for at in range(60)]
    changed = (2000 + at if at % period == period - 1 else token for at, token in enumerate(prompt))
    return [*prompt, 1000, 1001, *itertools.islice(changed, 30)], len(prompt)


@pytest.mark.parametrize("hop", [0.01, 0.05])
def test_an_edit_is_noticed_within_a_few_tokens(hop: float) -> None:
    def spent(pace: Callable[[], Pace]) -> float:
        took = 0.0
        for period in PERIODS:
            text, prompt = copied(period)
            told = announced(hop)
            client = PacedClient(
                ring(hop), SuffixDraft(), pace(), text, prompt, beside=BESIDE, announced=told
            )
            took += client.run()
        return took

    own = spent(Controller)
    assert own <= min(spent(lambda fixed=fixed: fixed) for fixed in FIXED) / 0.9  # type: ignore[misc]
    assert len(PERIODS) * 31 * ring(hop).trip(1) / own > 1.9


@pytest.mark.parametrize("off", [0.4, 2.5])
def test_wrong_announcements_cost_little(off: float) -> None:
    """Stages say they are so many times as slow, and hops seem so much longer."""
    text = list(range(PROMPT + 48))
    for hop in (0.0, 0.01):
        for alpha, said in ((0.0, 0.6), (0.5, 0.5)):
            told = Ring((Fit(0.001 * off, 0.004 * off),) * 4, (Hop(hop * off + 0.002),) * 5)
            draft = Dialled(text, alpha, said=said)
            client = PacedClient(
                ring(hop), draft, Controller(), text, PROMPT, beside=BESIDE, announced=told
            )
            assert client.run() <= 47 * ring(hop).trip(1) / 0.95
