"""The pace that pays: guesses go out as far as they are expected to save more than they cost.

What a draft says of its candidates is weighed against what trips were measured to take. Before
any was, what the stages announce and the prompt took must do, and guesses must promise more. In a
single step, as many candidates go as bring the most tokens a second (``cost.rows_worth``), unless
short steps that follow each other promise more (``chunk``). A further step follows those that fly
if the tokens it is expected to bring, at the rate reached without it, are worth what it takes from
the slowest stage. A draft that takes time is asked for no more than should pay for that, too. And
whatever the model of all this says: time is kept in plain tokens, and once guessing has lost what
it may, it stops until it may lose again.
"""

from collections import deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from statistics import median_low

from hearthring.client.chunks import STEP_SECONDS
from hearthring.client.cost import Ring, rows_worth
from hearthring.client.draft import Candidate
from hearthring.client.meter import Meter
from hearthring.client.pace import Explain, Place, Trip

ROWS, CHUNK, DEEP = 15, 4, 12
"""Most candidates of a first step and of a further one, and most steps at once."""
GAIN, UNSURE = 1.05, 1.3
"""What guesses must promise: measurements are rough, and expectations before them rougher."""
WILD, FEW = 2.5, 2
"""A round that takes so many times what it should is somebody else's pause, and counts as so much.
What a draft takes is known when it was asked more than a few times."""
BUSY = 0.5
"""Waiting at the stages, as a share of computing, above which other sessions come first."""
CHEAP = 0.02
"""A share of a plain token's time: a draft that takes less than that is for nothing."""
MEAN = 0.5
"""How likely a candidate is, before any was seen."""
ALLOWED, FIRST, MOST = 0.02, 2.0, 6.0
"""What guessing may lose, in the time of plain tokens: so much for every token, so much at first,
and at most so much of what it has gained before."""
AGAIN = 0.5
"""What it must be able to lose before it is tried again."""


@dataclass(slots=True)
class Controller:
    """A pace for one generation. ``explain`` is told each decision, in words."""

    explain: Explain | None = None
    meter: Meter = field(default_factory=Meter)
    deep: int = DEEP
    """Most steps at once."""
    _out: int = 0
    """Rows of the step that a cycle began with; 0: it isn't one of a single step."""
    _rate: float = 0.0
    """Tokens a second that the steps under way promise."""
    _rows: int = CHUNK
    """Rows of a further step."""
    _credit: float = FIRST
    _resting: bool = False
    _draft: float | None = None
    """Seconds that a candidate takes to be found, once any was: the median of late."""
    _drafts: deque[float] = field(default_factory=lambda: deque[float](maxlen=5))
    _spent: float = 0.0
    """Seconds that finding some took since tokens were chosen last."""
    _reading: float = 0.0
    """Those of it in which none was found: a draft reads a text once, and then knows it."""
    _mean: float = MEAN
    """How likely a candidate was of late, given the one before."""
    _guessed: bool = False
    _single: bool = False
    """Nothing follows the step that went last: it is to show what a plain one takes."""
    _first: int = 1
    """Rows of the last step that went while none was out."""
    _followed: bool = False
    """Others followed that one."""
    _asked: int = 0
    """Candidates that were found since tokens were chosen last."""
    _owed: int = 0
    """Steps that went and aren't back."""
    _free: bool = True
    """When the last first step went, none of ours was out, not even a fallen one."""

    def expect(self, ring: Ring) -> None:
        """Prices to begin with."""
        self.meter.expect(ring)

    def ask(self, place: Place) -> int:
        """Candidates to look at; none while nobody knows what a plain token takes, or at rest."""
        if self._resting or not self.meter.plain:
            return 0
        if not place.flying:
            return self._worth_finding()
        if place.flying >= self.deep or self.meter.waiting >= BUSY or self._single:
            return 0
        return self._rows if self._worth_following(place) else 0

    def drafted(self, candidates: int, seconds: float) -> None:
        """So many candidates took so long to be found."""
        self._spent += seconds
        self._reading += 0.0 if candidates else seconds
        if candidates:
            self._asked += candidates
            self._drafts.append(seconds / candidates)
            self._draft = median_low(self._drafts)

    def _worth_finding(self) -> int:
        """Candidates of a first step: as many as should pay, if it takes time to find them.

        One at least: what they are worth shows only when some are found.
        """
        plain = self.meter.plain
        if self._draft is None:
            return 1
        if ROWS * self._draft < CHEAP * plain:
            return ROWS
        row = (self.meter.seconds(2) - plain) * (1.0 + self.meter.waiting) + self._draft
        chances = [self._mean**depth for depth in range(1, ROWS + 1)]
        return max(1, rows_worth(chances, lambda rows: plain + (rows - 1) * row * GAIN))

    def _worth_following(self, place: Place) -> bool:
        """Whether a further step should pay for the time that finding it takes."""
        if self._draft is None or self._rows * self._draft < CHEAP * self.meter.plain:
            return True
        tokens = place.chance * sum(self._mean**depth for depth in range(1, self._rows + 1))
        turn = self.meter.turning(self._rows) * self._in_the_way(place, self._rows)
        seconds = turn + self._rows * self._draft
        return tokens > GAIN * max(self._rate, 1 / self.meter.plain) * seconds

    def keep(self, place: Place, candidates: Sequence[Candidate]) -> Collection[int]:
        """What pays."""
        order, chances = paths(candidates)
        if candidates:
            mean = sum(candidate.chance for candidate in candidates) / len(candidates)
            self._mean += (min(mean, 0.98) - self._mean) / 4
        if place.flying:
            return self._further(place, candidates, order, chances)
        price = 1.0 + self.meter.waiting  # a row of ours makes others wait as well
        plain, row = self.meter.plain, self.meter.seconds(2) - self.meter.plain

        def seconds(rows: int) -> float:
            return plain + (rows - 1) * row * price * GAIN

        count, self._rows = rows_worth(chances, seconds), CHUNK
        alone = (1 + sum(chances[:count])) / seconds(1 + count)
        if self.deep > 1 and self.meter.waiting < BUSY and (mean := steady(candidates)):
            turn = self.meter.turning
            rows, rate = chunk(mean, seconds, lambda rows: turn(rows) + STEP_SECONDS)
            if rate > alone * GAIN:
                count, self._rows, alone = min(count, rows - 1), rows, rate
        self._single = not self.meter.sure and alone * plain < UNSURE
        if self._single:
            count = 0
        self._rate = (1 + sum(chances[:count])) / seconds(1 + count)
        self._say(
            f"{count} of {len(candidates)} guesses: {1 + sum(chances[:count]):.2f} tokens in "
            f"{seconds(1 + count) * 1e3:.1f} ms, plain {plain * 1e3:.1f} ms a token"
        )
        return order[:count]

    def _further(
        self,
        place: Place,
        candidates: Sequence[Candidate],
        order: Sequence[int],
        chances: Sequence[float],
    ) -> Sequence[int]:
        turn = self.meter.turning
        rate = max(self._rate, 1 / self.meter.plain)
        best, count, tokens = 0.0, 0, 0.0
        for rows, chance in enumerate(chances, 1):
            tokens += place.chance * chance
            price = (turn(rows) + STEP_SECONDS) * self._in_the_way(place, rows)
            gain = tokens - GAIN * rate * price
            if gain > best:
                best, count = gain, rows
        if count:
            brings = place.chance * sum(chances[:count])
            self._say(
                f"a further step of {count}, {place.flying} out: {brings:.2f} tokens for a turn of "
                f"{turn(count) * 1e3:.1f} ms"
            )
        return order[:count]

    def _in_the_way(self, place: Place, rows: int) -> float:
        """How much of a further step's turn counts, 0 to 1.

        The text waits for it if it gets there. If not, the step is cancelled: by then it has taken
        from those before it what they share with it, and from those that come all of its turn if
        so many fly that the slowest stage is never idle.
        """
        full = (place.flying + 1) * self.meter.turning(rows) >= self.meter.plain
        return place.chance + (1.0 - place.chance) * (1.0 if full else self.meter.crowded)

    def sent(self, steps: Sequence[int], flying: int) -> None:
        """Steps of so many rows go out, beside those that fly."""
        if not flying:
            self._owed, self._free = 0, not self._owed
            self._first, self._followed = steps[0], False
        self._owed += len(steps)
        self._followed |= len(steps) > (not flying)
        only = len(steps) == 1 or not self.meter.sure
        self._out = steps[0] if only and not flying else 0
        self._guessed = bool(flying) or sum(steps) > 1

    def back(self, trip: Trip) -> None:
        """A step is back."""
        self._owed -= 1
        single = not self._followed
        self.meter.trip(trip.result, trip.seconds, trip.alone, self._free, single)

    def judged(self, taken: Sequence[bool]) -> None:
        """Nothing follows from it: a draft's own chances count."""

    def wrote(self, tokens: int, seconds: float) -> None:
        """So many tokens were chosen at once, so long after the ones before."""
        if self._out:
            self.meter.round(self._out, max(0.0, seconds - self._spent))
        plain = self.meter.plain
        self._credit += ALLOWED * tokens
        finding = self._spent - self._reading
        if (self._guessed or finding > CHEAP * plain) and plain:
            usual = self.meter.seconds(max(1, self._first))
            if self._draft is not None and len(self._drafts) > FEW:
                usual += self._asked * self._draft
            took = min(seconds - self._reading, WILD * usual) / plain
            self._credit = max(-FIRST, min(MOST, self._credit + tokens - took))
        if self._credit < 0 and not self._resting:
            self._say(
                f"no guesses for a while: they lost {-self._credit:.1f} tokens' time too many"
            )
        self._spent = self._reading = 0.0
        self._asked = 0
        self._resting = self._credit < (self._to_try() if self._resting else 0.0)

    def _to_try(self) -> float:
        """What it must be able to lose to be tried again: what one candidate costs, as far as that
        is known."""
        if self._draft is None or not self.meter.plain:
            return AGAIN
        most = MOST if len(self._drafts) > FEW else FIRST
        return min(most, max(AGAIN, self._draft / self.meter.plain))

    def _say(self, words: str) -> None:
        if self.explain is not None:
            self.explain(words)


def paths(candidates: Sequence[Candidate]) -> tuple[list[int], list[float]]:
    """Candidates in the order of the chance that the text gets there, parents before children, and
    these chances."""
    chances = list[float]()
    for candidate in candidates:
        above = 1.0 if candidate.parent < 0 else chances[candidate.parent]
        chances.append(above * candidate.chance)
    order = sorted(range(len(candidates)), key=lambda index: (-chances[index], index))
    return order, [chances[index] for index in order]


def steady(candidates: Sequence[Candidate]) -> float:
    """The mean chance of a token of a chain, given the one before; 0 for what is no chain."""
    if not candidates or any(c.parent != at - 1 for at, c in enumerate(candidates)):
        return 0.0
    return min(0.98, sum(candidate.chance for candidate in candidates) / len(candidates))


def chunk(
    mean: float, trip: Callable[[int], float], turn: Callable[[int], float]
) -> tuple[int, float]:
    """Rows of steps of a chain that follow each other at once, and the tokens a second they bring.

    Every token is right with a chance of ``mean``, given the one before. Between two corrections
    1 / (1 - mean) tokens come: the first step takes a ``trip``, each that follows it a ``turn``, as
    in ``cost.pipeline``.
    """
    best = 1, 0.0
    for rows in range(1, CHUNK + 1):
        follow = mean**rows / (1 - mean**rows)
        seconds = trip(rows) + follow * max(turn(rows), trip(rows) / DEEP)
        best = max(best, (rows, 1 / (1 - mean) / seconds), key=lambda found: found[1])
    return best
