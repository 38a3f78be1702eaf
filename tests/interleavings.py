"""Random interleavings of steps and cancellations along a line of stages, without tensors.

The client's and the stages' own bookkeeping runs (``Branches``, ``Flight``, ``admit``); what is
random is who gets to act next. Steps keep their order from stage to stage, cancellations go to
every stage by a way of their own and arrive whenever they like. The model beside it knows of every
row its line of ancestors, and what must hold: no honest step is ever refused, no row that may yet
become text is ever lost, and every row that runs sees its ancestors and nothing else.
"""

import asyncio
from collections import deque
from dataclasses import dataclass, field, replace
from random import Random

import numpy as np

from hearthring.client.branches import Branch, Branches
from hearthring.client.draft import Candidate
from hearthring.client.flight import Flight, Sent
from hearthring.client.speculation import within
from hearthring.node.admission import admit
from hearthring.protocol.messages import PROMPT, Row, Step
from hearthring.shards.engine import Slots
from hearthring.shards.slots import SlotMap

PROMPT_ROWS, ROOM, WORDS = 3, 14, 4
STATE = np.zeros((1, 1), np.float32)


@dataclass
class Stage:
    """One stage: its slots, who lies in them, and what waits for it."""

    line: "dict[int, tuple[int, ...]]"
    slots: SlotMap
    steps: deque[Step] = field(default_factory=deque)
    cancels: deque[tuple[int, ...]] = field(default_factory=deque)
    cancelled: deque[int] = field(default_factory=deque)
    written: dict[int, int] = field(default_factory=dict)
    newest: int = 0
    ran: set[int] = field(default_factory=set)

    def move(self, source: Slots, target: Slots) -> None:
        held = [self.written[slot] for slot in source.tolist()]
        self.written.update(zip(target.tolist(), held, strict=True))

    def run(self) -> Step:
        """The next step; what leaves for the next stage."""
        step = self.steps.popleft()
        assert all(row <= self.newest for row in step.drop), "a drop before its row"
        taken = [self.cancelled.popleft() for _ in range(len(self.cancelled))]
        placed = admit(self.slots, step, taken, (), self.move)
        for row_id, entry in placed.items():
            assert row_id not in self.ran
            self.ran.add(row_id)
            self.written[entry.slot] = row_id
        for row_id, entry in placed.items():
            seen = tuple(self.written[slot] for slot in entry.path.tolist())
            assert seen == self.line[row_id], "a row sees other rows than its ancestors"
        self.newest = max((row.id for row in step.rows), default=self.newest)
        dead = tuple(row.id for row in step.rows if row.id not in placed)
        assert set(step.dead) <= set(dead), "a dead row came back to life"
        return replace(step, dead=dead)


@dataclass
class Session:
    """A client, its line of stages, and one random course of events."""

    random: Random
    loop: asyncio.AbstractEventLoop
    length: int = 6
    stages: list[Stage] = field(default_factory=list)
    results: deque[Step] = field(default_factory=deque)
    line: dict[int, tuple[int, ...]] = field(default_factory=dict)
    flight: Flight = field(default_factory=Flight)
    branches: Branches = field(init=False)
    text: list[int] = field(default_factory=list)
    """Ids of the rows that are text."""
    unsaid: list[int] = field(default_factory=list)
    uncommitted: list[int] = field(default_factory=list)
    sent: int = 0
    dead: int = 0

    def run(self) -> None:
        """From the prompt to the end; raises ``AssertionError`` or what an honest step is
        refused with."""
        capacity = PROMPT_ROWS + self.length + ROOM
        count = self.random.randint(1, 3)
        self.stages = [Stage(self.line, SlotMap(capacity)) for _ in range(count)]
        prompt = [Row(p + 1, p, p, PROMPT) for p in range(PROMPT_ROWS)]
        self.send(prompt, [row.id for row in prompt])
        self.text = [row.id for row in prompt]
        while self.results or any(stage.steps for stage in self.stages):
            self.deliver()
        self.results.clear()
        self.branches = Branches(prompt[-1], 0, STATE[0])
        while len(self.text) < PROMPT_ROWS + self.length:
            self.decide()
            while self.branches.cursor.state is None:
                self.deliver(then=self.further)
        while self.results or any(s.steps or s.cancels for s in self.stages):
            self.deliver()
        self.flush()

    def decide(self) -> None:
        """Tokens are chosen as far as states are there; then a step, unless a guess is out."""
        full = PROMPT_ROWS + self.length
        while (cursor := self.branches.cursor).state is not None and len(self.text) < full:
            guesses = list(cursor.children)
            token = self.random.choice([*guesses, *guesses, self.random.randrange(WORDS)])
            right = cursor.children.get(token)
            fallen = [top.row.id for top in self.branches.move(token) if top.row is not None]
            if fallen:
                gone = self.flight.discard(fallen)
                self.unsaid.extend(sorted(gone))
                if doomed := self.flight.doom(gone):
                    for stage in self.stages:
                        stage.cancels.append(doomed)
            if right is None:
                self.branches.plant(token)
                self.grow([self.branches.cursor])
                self.text.append(self.branches.cursor.row.id)
                return
            self.text.append(right.row.id)
            self.uncommitted.append(right.row.id)

    def further(self) -> None:
        """Perhaps another step beneath the guesses that are out."""
        if self.random.random() < 0.4:
            self.grow([])

    def grow(self, first: list[Branch]) -> None:
        """Send a random tree beneath the likeliest tip, after ``first``."""
        under = sum(1 for _ in self.branches.cursor.below()) - 1
        tip = self.branches.tip().branch
        found = list[Candidate]()
        for index in range(self.random.randint(0, min(4, ROOM - under))):
            token, parent = self.random.randrange(WORDS), self.random.randint(-1, index - 1)
            candidate = Candidate(token, parent, self.random.random())
            if all((c.parent, c.token) != (candidate.parent, candidate.token) for c in found):
                found.append(candidate)
            else:
                break
        reach = PROMPT_ROWS + self.length - 1 - tip.position
        step = [*first, *tip.grow(within(found, reach))]
        if step:
            rows = self.branches.sent(step)
            self.send(rows, [rows[0].id] if first else [])

    def send(self, rows: list[Row], certain: list[int]) -> None:
        commit, self.uncommitted = self.uncommitted, certain
        drop, self.unsaid = self.unsaid, []
        self.sent += 1
        for row in rows:
            self.line[row.id] = (*self.line.get(row.parent, ()), row.id)
        self.flight.commit(commit)
        self.flight.live.update((row.id, Sent(row, memoryview(b""))) for row in rows)
        self.flight.ask(self.sent, rows, 1, self.loop.create_future())
        self.flight.launch(self.sent, tuple(rows))
        self.stages[0].steps.append(
            Step(b"", 0, self.sent, tuple(rows), commit=tuple(commit), drop=tuple(drop))
        )

    def deliver(self, then=lambda: None) -> None:
        """One event, whichever comes first."""
        able = list[tuple[str, int]]()
        for place, stage in enumerate(self.stages):
            able += [("step", place)] * bool(stage.steps)
            able += [("cancel", place)] * bool(stage.cancels)
        able += [("result", 0)] * bool(self.results)
        what, place = self.random.choice(able)
        stage = self.stages[place]
        if what == "cancel":
            stage.cancelled.extend(stage.cancels.popleft())
        elif what == "step":
            step = stage.run()
            last = place + 1 == len(self.stages)
            (self.results if last else self.stages[place + 1].steps).append(step)
        else:
            self.take(self.results.popleft())
        then()

    def take(self, step: Step) -> None:
        """A result is back: whatever isn't doomed must have run."""
        rows = self.flight.steps[step.step_id]
        assert step.rows == rows, "a gap"
        assert self.flight.doomed.issuperset(step.dead), "a row was lost that nobody gave up"
        self.dead += len(step.dead)
        live = step.live
        self.flight.land(step.step_id, live, np.zeros((len(live), 1), np.float32), ())
        if step.step_id > 1:  # the first is the prompt
            self.branches.back(rows, np.zeros((len(rows), 1), np.float32))

    def flush(self) -> None:
        """The last commits and drops, in a step without rows: all stages then hold the text."""
        fallen = [top.row.id for top in self.branches.cursor.children.values()]
        self.unsaid.extend(sorted(self.flight.discard(fallen)))
        self.send([], [])
        while self.results or any(stage.steps for stage in self.stages):
            self.deliver()
        for stage in self.stages:
            assert [row.id for row in stage.slots.committed] == self.text, "another text"
            assert stage.slots.live == len(self.text), "slots were lost"
            assert not stage.slots._tombstones, "tombstones were left"


def interleavings(count: int, seed: int = 1) -> tuple[int, int]:
    """So many courses of events; the steps that were sent and the rows that came back dead."""
    sent = dead = 0
    loop = asyncio.new_event_loop()
    try:
        for number in range(count):
            session = Session(Random(f"{seed} {number}"), loop)
            try:
                session.run()
            except BaseException as error:
                error.add_note(f"interleaving {number} of seed {seed}")
                raise
            sent, dead = sent + session.sent, dead + session.dead
    finally:
        loop.close()
    return sent, dead
