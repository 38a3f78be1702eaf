"""The controller in rings of invented times: what it gains, and that it loses next to nothing."""

from dataclasses import dataclass

import numpy as np
import pytest

from hearthring.client.calibration import Calibration
from hearthring.client.controller import Controller
from hearthring.client.draft import Candidate
from hearthring.client.flight import Result
from hearthring.client.meter import Line
from hearthring.client.pace import Place, Trip
from hearthring.client.reach import chunk
from hearthring.protocol.messages import GENERATED, HopTime, Row


@dataclass
class Invented:
    """A ring of equal stages and a draft that is right with ``truth`` and says ``said``."""

    stage: float
    row: float
    hop: float
    truth: float
    said: float
    stages: int = 4
    noise: float = 0.1
    waiting: float = 0.0
    draft: float = 0.0
    asked: int = 0

    def run(self, pace: Controller, tokens: int, seed: int = 1) -> float:
        """Seconds for so many tokens, one step at a time."""
        known = Calibration()
        draw, spent, made = np.random.default_rng(seed), 0.0, 0
        while made < tokens:
            place = Place(0, 1.0, 64)
            asked = min(pace.ask(place), 64)
            self.asked, drafting = self.asked + asked, self.took(asked)
            if asked:
                pace.drafted(asked, drafting)
            chance = known.rate(self.said)
            chain = [Candidate(7, at - 1, chance) for at in range(asked)]
            kept = len(pace.keep(place, chain)) if chain else 0
            pace.sent([1 + kept], 0)
            times, rows = [], 1 + kept
            for _ in range(self.stages):
                compute = (self.stage + (rows - 1) * self.row) * (1 + self.noise * draw.random())
                times.append(HopTime(self.waiting * compute, compute))
            seconds = sum(t.compute + t.queue for t in times) + 5 * self.hop
            result = Result(1, (Row(1, 0, 0, GENERATED),) * rows, np.zeros((rows, 1)), tuple(times))
            pace.back(Trip(result, seconds, True))
            hits = 0
            while hits < kept and draw.random() < self.truth:
                hits += 1
            for at in range(min(hits + 1, kept)):
                known.saw(self.said, at < hits)
            pace.wrote(1 + hits, seconds + drafting)
            spent, made = spent + seconds + drafting, made + 1 + hits
        return spent / made

    def took(self, asked: int) -> float:
        """Seconds to find so many candidates."""
        return asked * self.draft

    def plain(self) -> float:
        """Seconds a token without guesses, in the mean."""
        stages = self.stages * self.stage * (1 + self.waiting) * (1 + self.noise / 2)
        return stages + 5 * self.hop


@pytest.mark.parametrize("hop", [0.0, 0.002, 0.01, 0.05])
@pytest.mark.parametrize("row", [0.001, 0.008])
def test_a_draft_that_boasts_costs_little(hop: float, row: float) -> None:
    for truth in (0.0, 0.1, 0.3):
        ring = Invented(0.01, row, hop, truth, said=0.95)
        assert ring.run(Controller(), 400) < ring.plain() / 0.95


def test_a_good_draft_saves_hops() -> None:
    for hop, least in ((0.002, 1.1), (0.01, 1.4), (0.05, 2.5)):
        ring = Invented(0.01, 0.006, hop, 0.85, said=0.85)
        assert ring.plain() / ring.run(Controller(deep=1), 400) > least


@pytest.mark.parametrize("hop", [0.0, 0.01, 0.05])
@pytest.mark.parametrize("truth", [0.1, 0.5, 0.8])
def test_a_draft_that_takes_long_costs_little(hop: float, truth: float) -> None:
    for draft in (0.002, 0.02, 0.2):
        ring = Invented(0.01, 0.004, hop, truth, said=truth, draft=draft)
        assert ring.run(Controller(), 400) < ring.plain() / 0.95


def test_a_draft_that_takes_time_is_asked_for_what_pays() -> None:
    slow = Invented(0.01, 0.001, 0.05, 0.8, said=0.8, draft=0.03)
    gain = slow.plain() / slow.run(Controller(deep=1), 400)
    fast = Invented(0.01, 0.001, 0.05, 0.8, said=0.8)
    assert gain > 1.5
    assert fast.plain() / fast.run(Controller(deep=1), 400) > gain
    assert slow.asked < 0.5 * fast.asked


def test_nothing_is_sent_on_where_others_wait() -> None:
    busy, idle = Controller(), Controller()
    Invented(0.01, 0.001, 0.05, 0.9, said=0.9, waiting=2.0).run(busy, 100)
    Invented(0.01, 0.001, 0.05, 0.9, said=0.9).run(idle, 100)
    assert busy.ask(Place(1, 0.9, 64)) == 0
    assert idle.ask(Place(1, 0.9, 64)) > 0


def test_a_further_step_pays_where_hops_are_long() -> None:
    chain = [Candidate(7, at - 1, 0.9) for at in range(4)]
    far, near = Controller(), Controller()
    Invented(0.01, 0.001, 0.05, 0.9, said=0.9).run(far, 100)
    Invented(0.01, 0.01, 0.0, 0.1, said=0.1).run(near, 100)
    assert len(far.keep(Place(1, 0.6, 64), chain)) == 4
    assert not near.keep(Place(1, 0.05, 64), chain)


def test_steps_that_follow_each_other_are_short_where_turns_are() -> None:
    rows, _ = chunk(0.85, lambda rows: 0.05 + 0.01 * rows, lambda rows: 0.01 + 0.002 * rows)
    slow, _ = chunk(0.85, lambda rows: 0.05 + 0.01 * rows, lambda rows: 0.04 + 0.001 * rows)
    assert slow > rows
    closed = 1 / (1 - 0.5) / (0.06 + 0.5 / (1 - 0.5) * 0.012)  # of one row
    found = chunk(0.5, lambda rows: 0.05 + 0.01 * rows, lambda rows: 0.01 + 0.002 * rows)
    assert found == (1, pytest.approx(closed))


def test_every_decision_is_explained() -> None:
    said = list[str]()
    Invented(0.01, 0.02, 0.0, 0.0, said=0.9).run(Controller(said.append), 60)
    assert any("guesses:" in words for words in said)
    Invented(0.01, 0.02, 0.0, 0.0, said=0.9, draft=0.1).run(Controller(said.append), 60)
    assert any("no guesses for a while" in words for words in said)


def test_a_line_finds_its_slope_and_bears_a_pause() -> None:
    line, draw = Line(slope=0.5), np.random.default_rng(2)
    for _ in range(200):
        rows = int(draw.integers(1, 9))
        line.add(rows, 1.0 + 0.25 * rows + draw.normal(0, 0.02))
    line.add(1, 500.0)
    assert line.fit().row == pytest.approx(0.25, abs=0.08)
    assert line.fit().seconds(1) == pytest.approx(1.25, abs=0.3)


def test_one_slow_call_of_a_draft_is_soon_forgotten() -> None:
    @dataclass
    class Paused(Invented):
        """The draft's call at one place takes 5 s."""

        pause: int = 60
        calls: int = 0

        def took(self, asked: int) -> float:
            self.calls += bool(asked)
            return 5.0 if self.calls == self.pause and asked else asked * self.draft

    for pause in (1, 10):
        pace = Controller(deep=1)
        paused = Paused(0.01, 0.001, 0.05, 0.85, said=0.85, draft=0.001, pause=pause)
        paused.run(pace, 130)
        asked = paused.asked
        paused.run(pace, 130, seed=2)
        free = Invented(0.01, 0.001, 0.05, 0.85, said=0.85, draft=0.001)
        free.run(Controller(deep=1), 130)
        assert paused.asked - asked > 0.8 * free.asked, f"after a pause at call {pause}"
