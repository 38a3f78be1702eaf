"""The pace that pays: guesses go out as far as they are expected to save more than they cost.

What a draft says of its candidates is weighed against what trips were measured to take. Before
any was, what the stages announce and the prompt took must do, and guesses must promise more. In a
single step, as many candidates go as bring the most tokens a second (``cost.rows_worth``), unless
short steps that follow each other promise more (``reach.chunk``). A further step follows those that
fly, until the ring is full, if the tokens it is expected to bring, at the rate reached without it,
are worth what it takes from them. A draft that takes time is asked for no more than should pay for
that, too. And whatever the model of all this says: time is kept in plain tokens, and no more is put
at stake at once than a part of what guessing may lose (``credit``).
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from hearthring.client.cost import Ring, rows_worth
from hearthring.client.credit import Credit
from hearthring.client.draft import Candidate
from hearthring.client.finding import Finding
from hearthring.client.meter import Meter
from hearthring.client.pace import Explain, Place, Trip
from hearthring.client.reach import CHUNK, DEEP, chunk, paths, steady
from hearthring.client.rounds import Rounds

ROWS = 15
"""Most candidates of a first step."""
GAIN, UNSURE = 1.05, 1.3
"""What guesses must promise: measurements are rough, and expectations before them rougher."""
WILD = 2.5
"""A round that takes so many times what it should is somebody else's pause, and counts as so much.
"""
BUSY = 0.5
"""Waiting at the stages, as a share of computing, above which other sessions come first."""
CHEAP = 0.02
"""A share of a plain token's time: a draft that takes less than that is for nothing."""
RISEN = 0.03
"""Candidates that are so much likelier than before are worth longer steps."""
MEAN = 0.5
"""How likely a candidate is, before any was seen."""


@dataclass(slots=True)
class Controller:
    """A pace for one generation. ``explain`` is told each decision, in words."""

    explain: Explain | None = None
    meter: Meter = field(default_factory=Meter)
    deep: int = DEEP
    """Most steps at once."""
    credit: Credit = field(default_factory=Credit)
    finding: Finding = field(default_factory=Finding)
    rounds: Rounds = field(init=False)
    _rate: float = 0.0
    """Tokens a second that a step alone promises."""
    _rows: int = CHUNK
    """Rows of a further step."""
    _mean: float = MEAN
    """How likely a candidate was of late, given the one before."""
    _foreseen: float = 1.0
    """How likely it was when the rows of further steps were chosen."""
    _single: bool = False
    """Nothing follows the step that went last: it is to show what a plain one takes."""

    def __post_init__(self) -> None:
        """Rounds tell the meter."""
        self.rounds = Rounds(self.meter)

    def expect(self, ring: Ring) -> None:
        """Prices to begin with."""
        self.meter.expect(ring)

    def ask(self, place: Place) -> int:
        """Candidates to look at; none while nobody knows what a plain token takes, or at rest."""
        plain, each = self.meter.plain, self.finding.each
        if not plain or (self.credit.resting and (each is None or ROWS * each >= CHEAP * plain)):
            return 0
        if not place.flying:
            return self._worth_finding()
        if (
            self.credit.resting
            or place.flying >= self.deep
            or self.meter.waiting >= BUSY
            or self._single
        ):
            return 0
        if self._mean > self._foreseen + RISEN:  # a copy has begun since the first of them went
            self._foreseen = self._mean
            meter = self.meter
            self._rows, _ = chunk(self._mean, self._seconds, meter.turning, meter.crowded)
        return self._rows if self._worth_following(place) else 0

    def drafted(self, candidates: int, seconds: float) -> None:
        """So many candidates took so long to be found."""
        self.finding.add(candidates, seconds)

    def _worth_finding(self) -> int:
        """Candidates of a first step: as many as should pay, if it takes time to find them.

        One at least: what they are worth shows only when some are found.
        """
        plain, each = self.meter.plain, self.finding.each
        if each is None:
            return 1
        if ROWS * each < CHEAP * plain:
            return ROWS
        row = (self.meter.seconds(2) - plain) * (1.0 + self.meter.waiting) + each
        chances = [self._mean**depth for depth in range(1, ROWS + 1)]
        return max(1, rows_worth(chances, lambda rows: plain + (rows - 1) * row * GAIN))

    def _worth_following(self, place: Place) -> bool:
        """Whether a further step should pay for the time that finding it takes."""
        if place.flying * self.meter.turning(self._rows) > self.meter.seconds(self._rows):
            return False  # the ring is full: it can leave later, when more is known
        if self._at_stake(place.flying) > self._stake():
            return False
        finding = self._rows * (self.finding.each or 0.0)
        if finding < CHEAP * self.meter.plain:
            return True
        tokens = place.chance * sum(self._mean**depth for depth in range(1, self._rows + 1))
        seconds = self.meter.turning(self._rows) * self._in_the_way(place) + finding
        return tokens > GAIN * max(self._rate, 1 / self.meter.plain) * seconds

    def keep(self, place: Place, candidates: Sequence[Candidate]) -> Collection[int]:
        """What pays."""
        order, chances = paths(candidates)
        if candidates:
            mean = sum(candidate.chance for candidate in candidates) / len(candidates)
            self._mean += (min(mean, 0.98) - self._mean) / 4
        if place.flying:
            return self._further(place, order, chances)
        plain, seconds = self.meter.plain, self._seconds
        count, self._rows, follows = rows_worth(chances, seconds), CHUNK, False
        self._foreseen = 1.0
        self._rate = promised = (1 + sum(chances[:count])) / seconds(1 + count)
        if self.deep > 1 and self.meter.waiting < BUSY and (mean := steady(candidates)):
            rows, rate = chunk(mean, seconds, self.meter.turning, self.meter.crowded)
            if rate > self._rate * GAIN:
                count, self._rows, follows, promised = min(count, rows - 1), rows, True, rate
                self._foreseen = mean
        count = min(count, int(self._stake() / max(seconds(2) - plain, 1e-9)))
        follows = follows and self._at_stake(1) <= self._stake()
        if self.credit.resting or not (count or follows):
            self.credit.vouch(promised * plain - 1)
        self._single = not self.meter.sure and promised * plain < UNSURE
        if self._single or self.credit.resting:
            count = 0
        self._say(
            f"{count} of {len(candidates)} guesses: {1 + sum(chances[:count]):.2f} tokens in "
            f"{seconds(1 + count) * 1e3:.1f} ms, plain {plain * 1e3:.1f} ms a token"
        )
        return order[:count]

    def _seconds(self, rows: int) -> float:
        """What a single step of so many rows must bring."""
        price = 1.0 + self.meter.waiting  # a row of ours makes others wait as well
        plain, row = self.meter.plain, self.meter.seconds(2) - self.meter.plain
        return plain + (rows - 1) * row * price * GAIN

    def _further(
        self, place: Place, order: Sequence[int], chances: Sequence[float]
    ) -> Sequence[int]:
        turn = self.meter.turning
        rate = max(self._rate, 1 / self.meter.plain)
        best, count, tokens = 0.0, 0, 0.0
        for rows, chance in enumerate(chances, 1):
            tokens += place.chance * chance
            gain = tokens - GAIN * rate * turn(rows) * self._in_the_way(place)
            if gain > best:
                best, count = gain, rows
        if count:
            brings = place.chance * sum(chances[:count])
            self._say(
                f"a further step of {count}, {place.flying} out: {brings:.2f} tokens for a turn of "
                f"{turn(count) * 1e3:.1f} ms"
            )
        return order[:count]

    def _in_the_way(self, place: Place) -> float:
        """How much of a further step's turn counts, 0 to 1.

        The text waits for it if it gets there. If not, the step is cancelled: by then it has taken
        from those before it what they share with it.
        """
        return place.chance + (1.0 - place.chance) * self.meter.crowded

    def sent(self, steps: Sequence[int], flying: int) -> None:
        """Steps of so many rows go out, beside those that fly."""
        self.rounds.sent(list(steps), flying)

    def back(self, trip: Trip) -> None:
        """A step is back."""
        self.rounds.back(trip)

    def judged(self, taken: Sequence[bool]) -> None:
        """Nothing follows from it: a draft's own chances count."""

    def wrote(self, tokens: int, seconds: float) -> None:
        """So many tokens were chosen at once, so long after the ones before."""
        self.rounds.wrote(max(0.0, seconds - self.finding.spent))
        self.credit.chose(tokens)
        plain, sure = self.meter.plain, self.meter.sure
        if plain and (self.rounds.guessed or self.finding.finding > CHEAP * plain):
            # Before anything is sure a round counts as expected: the first ones are slow.
            usual = (self.rounds.usual + self.finding.usual) * (WILD if sure else 1.0)
            self.credit.brought(tokens, min(seconds - self.finding.reading, usual) / plain)
        self.finding.start()
        rested = self.credit.resting
        # To be tried again it must be able to lose what one candidate costs.
        again = (self.finding.each or 0.0) / plain if plain else 0.0
        if self.credit.settle(again) and not rested:
            self._say(f"no guesses for a while: they lost {-self.credit.left:.1f} tokens' time")

    def _at_stake(self, further: int) -> float:
        """Seconds that so many further steps may take from the first."""
        return further * self.meter.turning(self._rows) * self.meter.most_crowded

    def _stake(self) -> float:
        """Seconds that may be lost at once."""
        return self.credit.stake * self.meter.plain

    def _say(self, words: str) -> None:
        if self.explain is not None:
            self.explain(words)
