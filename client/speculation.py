"""A draft and a pace at work for one generation, and the account of what came of it."""

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

from hearthring.client.acceptance import RULES, DrawingDraft, Rule
from hearthring.client.answer import Guessing
from hearthring.client.branches import Branch, Branches, Tip
from hearthring.client.calibration import Calibration
from hearthring.client.cost import Ring
from hearthring.client.draft import Candidate, Draft, ReadingDraft, ThriftyDraft
from hearthring.client.lessons import Lesson, Tally
from hearthring.client.meter import Line
from hearthring.client.pace import Explain, Fixed, Pace, Place, Trip, subtree
from hearthring.shards.timings import Fit

ROOM = 64
"""Rows beyond the text that may be at the stages at once: slots are reserved for so many."""
STEPS = 24
"""Steps that may fly at once, well below what a stage lets wait."""
LONG = 0.001
"""Seconds of looking for guesses from which on what was found leaves before more is looked for."""
FADE = 0.8
"""What the longest search counts for after the next one: of several drafts not all take long."""


@dataclass(slots=True)
class Speculation:
    """What a generation asks for guesses. Without a draft there are none."""

    draft: Draft | None = None
    pace: Pace = field(default_factory=Fixed)
    explain: Explain | None = None
    name: str = "none"
    trips: int = 0
    steps: int = 0
    guesses: int = 0
    tokens: int = 0
    hits: int = 0
    draft_s: float = 0.0
    rule: Rule = RULES["gumbel"]
    """What accepts guesses: by what they were drawn from, or as they are."""
    lesson: Lesson | None = None
    tally: Tally = field(default_factory=Tally)
    clock: Callable[[], float] = time.perf_counter
    more: bool = False
    """Further steps may pay, but looking for them takes time: ``plan`` again for those, once the
    ones that it gave are on their way."""
    _calibration: Calibration = field(default_factory=Calibration)
    _trips: Line = field(default_factory=Line)
    _wrote: float = 0.0
    _late: float = 0.0
    """The longest search for guesses of late, in seconds."""

    def __post_init__(self) -> None:
        """The name outlives the draft."""
        self.name = self.draft.name if self.draft is not None else self.name

    @property
    def room(self) -> int:
        """KV rows to ask for beyond those of the text."""
        return 0 if self.draft is None else ROOM

    def account(self) -> Guessing:
        """What came of it so far."""
        counts = self.tokens, self.trips, self.steps, self.guesses, self.hits
        return Guessing(self.name, *counts, self.draft_s)

    def stop(self, why: str) -> None:
        """Do without guesses after all."""
        self.close()
        if self.explain is not None:
            self.explain(why)

    def close(self) -> None:
        """Give up the draft. Idempotent."""
        draft, self.draft = self.draft, None
        if draft is not None:
            draft.close()

    def begin(self, prompt: Sequence[int]) -> None:
        """The prompt is through."""
        self._wrote = self.clock()
        if self.draft is not None:
            self.draft.forget()
            self.draft.observe(prompt)
            if self.lesson is not None:
                self.lesson.begin(self._calibration)

    def expect(self, ring: Ring) -> None:
        """What the ring should take, by what is known of it before the first generated row."""
        self.pace.expect(ring)
        self._trips.slope = ring.marginal(1)
        self._tell(Fit(ring.trip(1) - ring.marginal(1), ring.marginal(1)))

    def read(self, prompt: Sequence[int]) -> bool:
        """Let the draft read some of the prompt while it is on its way; whether that's all."""
        return not isinstance(self.draft, ReadingDraft) or self.draft.read(prompt)

    def judged(self, cursor: Branch, token: int) -> None:
        """A token was chosen behind the cursor. Guesses that weren't sent are judged by it, too."""
        ranked = sorted(cursor.children.values(), key=lambda guess: -guess.said)
        self.pace.judged([guess.token == token for guess in ranked])
        said = [(guess.token, guess.said) for guess in ranked]
        said += [(c.token, c.chance) for c in cursor.unsent if c.token not in cursor.children]
        for guess, chance in said:
            self._calibration.saw(chance, guess == token)
            self.tally.saw(chance, guess == token)

    def wrote(self, tokens: Sequence[int], hits: int) -> None:
        """Tokens were chosen, ``hits`` of them as guessed."""
        now, self.more = self.clock(), False
        self.tokens += len(tokens)
        self.hits += hits
        self.pace.wrote(len(tokens), now - self._wrote)
        self._wrote = now
        if self.draft is not None:
            self.draft.observe(tokens)
            if self.lesson is not None:
                self.lesson.wrote(tokens, self._calibration)

    def back(self, trip: Trip) -> None:
        """A step is back."""
        self.trips += 1
        self.pace.back(trip)
        if trip.alone:
            self._trips.add(len(trip.result.rows), trip.seconds)
            self._tell(self._trips.fit())

    def _tell(self, trip: Fit) -> None:
        if isinstance(self.draft, ThriftyDraft):
            self.draft.trip(trip)

    def plan(self, branches: Branches, flying: int, end: int) -> list[list[Branch]]:
        """Steps to send now, hung into the tree. ``flying`` steps are under way already; with none,
        the cursor is a token to be sent. No row is at position ``end`` or beyond.

        All there are to send, unless ``more``.
        """
        again, self.more = self.more, False
        steps = list[list[Branch]]()
        if not flying:
            steps.append([branches.cursor, *self._grow(branches, 0, end)])
        while len(steps) + flying < STEPS:
            if steps and self._late >= LONG:
                self.more = True
                break
            grown = self._grow(branches, flying + len(steps), end)
            if not grown:
                break
            steps.append(grown)
        sent = sum(map(len, steps))
        self.steps += len(steps)
        self.guesses += sent - (not flying)
        if steps or not again:
            self.pace.sent([len(step) for step in steps], flying)
        return steps

    def _grow(self, branches: Branches, flying: int, end: int) -> list[Branch]:
        """Guesses for one more step, beneath the likeliest tip."""
        if self.draft is None:
            return []
        tip = branches.tip()
        under = sum(1 for _ in branches.cursor.below()) - 1
        place = Place(flying, tip.chance, ROOM - under)
        reach = end - 1 - tip.branch.position
        if place.room < 1 or reach < 1 or (most := self.pace.ask(place)) < 1:
            return []
        fresh = not self.draft_s
        found = self._ask(tip, min(most, place.room), flying)
        # The first candidates show what they cost: it may be worth to look for more at once.
        if fresh and len(found) == most < (more := self.pace.ask(place)):
            found = self._ask(tip, min(more, place.room), flying)
        if isinstance(self.draft, DrawingDraft) and tip.branch.offer is None:
            tip.branch.offer = self.draft.offered()
        proposed = within(found, reach)
        rated = self._calibration.ahead(proposed, tip.chances)
        wanted = frozenset(self.pace.keep(place, rated))
        grown = tip.branch.grow(subtree(rated, wanted))
        for branch, candidate in zip(grown, subtree(proposed, wanted), strict=True):
            branch.said = candidate.chance
        left_out(proposed, wanted, tip.branch)
        return grown

    def _ask(self, tip: Tip, most: int, flying: int) -> list[Candidate]:
        """What the draft has to say, and what that took; the pace hears of it if nothing else was
        under way."""
        assert self.draft is not None
        begun = self.clock()
        found = self.draft.propose(tip.tail, most)
        spent = self.clock() - begun
        self.draft_s += spent
        self._late = max(spent, FADE * self._late)
        if not flying:
            self.pace.drafted(len(found), spent)
        return found


def left_out(proposed: Sequence[Candidate], wanted: Collection[int], root: Branch) -> None:
    """Note at the branches what of a proposal wasn't hung beneath them."""
    places = {-1: root}
    root.unsent = ()
    for index, candidate in enumerate(proposed):
        above = places.get(candidate.parent)
        if above is None:
            continue
        if (child := above.children.get(candidate.token)) is not None and index in wanted:
            places[index] = child
        else:
            above.unsent = (*above.unsent, candidate)


def within(candidates: Sequence[Candidate], depth: int) -> list[Candidate]:
    """The candidates at most so deep; the first has depth 1."""
    depths = list[int]()
    for candidate in candidates:
        depths.append(1 if candidate.parent < 0 else depths[candidate.parent] + 1)
    return subtree(candidates, [i for i, found in enumerate(depths) if found <= depth])
