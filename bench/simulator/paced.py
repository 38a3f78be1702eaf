"""The client's own pace and draft at a simulated ring: what a pace brings, in simulated time.

``client/speculation.py`` and ``client/branches.py`` do here what they do in an answer; the ring and
the clock are simulated, and the text is given: a guess is right if it is what the text says.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from bench.simulator.clock import Clock
from bench.simulator.cores import Thread
from bench.simulator.ring import Row as Travelling
from bench.simulator.ring import SimulatedRing, Somebody, Stage, Step
from bench.simulator.work import NOTHING, Work
from hearthring.client.branches import Branch, Branches
from hearthring.client.cost import Ring
from hearthring.client.draft import Candidate, Draft
from hearthring.client.flight import Result
from hearthring.client.generation import LIKELY
from hearthring.client.pace import Pace, Trip
from hearthring.client.speculation import Speculation
from hearthring.protocol.messages import PROMPT, HopTime, Row

_STATE = np.zeros(1, np.float32)
"""Stands for a row's state."""


@dataclass(slots=True)
class _Flying:
    """A step of the client's under way. ``entered``: when it came to the stage where it is."""

    step: Step
    branches: list[Branch]
    sent: float
    alone: bool
    entered: float = 0.0
    times: list[HopTime] = field(default_factory=list)
    back: bool = False


@dataclass(slots=True)
class OwnTime:
    """The client's clock: simulated time, and what it has spent within this moment of it."""

    clock: Clock
    spent: float = 0.0

    def now(self) -> float:
        return self.clock.now + self.spent


class SlowDraft:
    """Another draft, that takes ``call`` seconds whenever it is asked and ``guess`` for each."""

    def __init__(self, inner: Draft, time: OwnTime, call: float, guess: float) -> None:
        self.name, self._inner, self._time = inner.name, inner, time
        self._call, self._guess = call, guess

    def observe(self, tokens: Sequence[int]) -> None:
        self._inner.observe(tokens)

    def propose(self, tail: Sequence[int], most: int) -> list[Candidate]:
        found = self._inner.propose(tail, most)
        self._time.spent += self._call + self._guess * len(found)
        return found

    def forget(self) -> None:
        self._inner.forget()

    def close(self) -> None:
        self._inner.close()


class PacedClient:
    """Writes the rest of ``text``, whose first ``prompt`` tokens are there.

    The draft takes ``call`` seconds whenever it is asked and ``guess`` more for each candidate;
    ``beside`` is what of a stage's time for a step isn't its engine's, and isn't reported. ``work``
    is what processors do beside engines. ``announced`` is what the pace is told of the ring, if
    that isn't the truth.
    """

    def __init__(
        self,
        ring: Ring,
        draft: Draft | None,
        pace: Pace,
        text: Sequence[int],
        prompt: int,
        *,
        call: float = 0.0,
        guess: float = 0.0,
        beside: float = 0.0,
        work: Work = NOTHING,
        announced: Ring | None = None,
    ) -> None:
        self._beside = beside
        self._announced = announced or ring
        self._clock = Clock()
        self._time = OwnTime(self._clock)
        self._ring = SimulatedRing(self._clock, ring, work)
        self._heads = Thread(self._clock, self._ring.cores)
        self._somebody = Somebody(self._clock, self._ring.cores, work.path)
        self._out, self._home = (self._ring.link(place) for place in (0, -1))
        self._text, self._made = text, prompt
        if draft is not None and (call or guess):
            draft = SlowDraft(draft, self._time, call, guess)
        self.speculation = Speculation(draft, pace, clock=self._time.now)
        last = Row(prompt, prompt - 1, prompt - 1, PROMPT)
        self._branches = Branches(last, text[prompt - 1], _STATE)
        self._flying = deque[_Flying]()
        """Steps under way that may still count."""
        self._steps = dict[int, _Flying]()
        self._rows = dict[int, Travelling]()
        self._busy = False
        for stage in self._ring.stages:
            self._watch(stage)

    @property
    def worked(self) -> float:
        """Seconds of processors so far."""
        return self._ring.cores.worked

    def run(self) -> float:
        """Seconds from the first token to the last."""
        self.speculation.begin(self._text[: self._made])
        self.speculation.expect(self._announced)
        self._decide()
        self._clock.run(lambda: self._made == len(self._text))
        return self._clock.now

    def _watch(self, stage: Stage) -> None:
        """Note how long steps wait and are computed at a stage."""
        arrive, onward = stage.arrive, stage.onward

        def arriving(step: Step) -> None:
            self._steps[id(step)].entered = self._clock.now
            arrive(step)

        def leaving(step: Step) -> None:
            flying = self._steps[id(step)]
            took = max(0.0, step.done - step.begun - self._beside)
            flying.times.append(HopTime(step.begun - flying.entered, took))
            onward(step)

        stage.arrive, stage.onward = arriving, leaving  # type: ignore[method-assign]

    def _decide(self) -> None:
        """As ``Generation``: walk as far as states are there, then send what is planned."""
        self._busy = True
        branches, chosen, hits, missed = self._branches, list[int](), 0, False
        while not missed and branches.cursor.state is not None and self._made < len(self._text):
            token = self._text[self._made]
            branch = branches.cursor.children.get(token)
            self.speculation.judged(branches.cursor, token)
            self._discard(branches.move(token))
            chosen.append(token)
            self._made += 1
            missed = branch is None
            hits += not missed
        self.speculation.wrote(chosen, hits)
        if self._made == len(self._text):
            return
        if missed:
            branches.plant(chosen[-1])
        self._plan(0 if missed else len(self._flying))

    def _plan(self, flying: int) -> None:
        """Send what is found, and look for more while what is awaited is out."""
        for planned in self.speculation.plan(self._branches, flying, len(self._text) - 1):
            self._launch(planned)
        self._later(self._planned)

    def _planned(self) -> None:
        if self.speculation.more and not self._flying[0].back:
            self._plan(len(self._flying))
            return
        self._busy = False
        self._take()

    def _later(self, event: Callable[[], None]) -> None:
        """Go on once the time is over that was spent."""
        spent, self._time.spent = self._time.spent, 0.0
        self._clock.at(self._clock.now + spent, event)

    def _launch(self, branches: list[Branch]) -> None:
        named = self._branches.sent(branches)
        rows = [Travelling(row.position, 0, 1.0, True) for row in named]
        self._rows.update((row.id, own) for row, own in zip(named, rows, strict=True))
        step = Step(0, rows, self._back, self._home)
        flying = _Flying(step, branches, self._time.now(), not self._flying)
        self._steps[id(step)] = flying
        self._flying.append(flying)
        self._clock.at(flying.sent, lambda: self._handle(step, self._send))

    def _send(self, step: Step) -> None:
        self._ring.send(step, self._out)

    def _handle(self, step: Step, then: Callable[[Step], None]) -> None:
        """Half of what a step's messages take: when it leaves, or when it is back."""
        seconds = self._ring.work.client.seconds(step.live(self._clock.now, 0.0)) / 2
        self._somebody.handle(seconds, lambda: then(step))

    def _discard(self, fallen: Sequence[Branch]) -> None:
        lost = [branch for top in fallen for branch in top.below()]
        for branch in lost:
            if branch.row is not None:
                self._rows[branch.row.id].refuted = self._clock.now
        gone = set(map(id, lost))
        self._flying = deque(f for f in self._flying if any(id(b) not in gone for b in f.branches))
        if any(branch.row is not None and branch.state is None for branch in lost):
            self._ring.cancel(self._somebody)

    def _back(self, step: Step) -> None:
        self._handle(step, self._arrived)

    def _arrived(self, step: Step) -> None:
        self._steps[id(step)].back = True
        self._take()

    def _take(self) -> None:
        """Take what has come, as far as the cursor waits for it, and go on from there."""
        cursor = self._branches.cursor
        while not self._busy and cursor.state is None and self._flying and self._flying[0].back:
            came = self._flying.popleft()
            rows = tuple(branch.row for branch in came.branches if branch.row is not None)
            states = np.zeros((len(rows), 1), np.float32)
            result = Result(0, rows, states, tuple(came.times))
            self.speculation.back(Trip(result, self._clock.now - came.sent, came.alone))
            self._branches.back(rows, states)
        if not self._busy and cursor.state is not None:
            self._busy = True
            self._heads.do(self._head, self._decide)

    def _head(self) -> float:
        """What the heads of the next decision take: those of likely states go together, the others
        of a text that gets further are computed one by one."""
        ends, likely = self._ring.ring.ends, len(self._branches.likely(LIKELY))
        cursor: Branch | None = self._branches.cursor
        walked = 0
        for token in self._text[self._made :]:
            if cursor is None or cursor.state is None:
                break
            cursor, walked = cursor.children.get(token), walked + 1
        return ends.seconds(likely) + max(0, walked - likely) * ends.seconds(1)
