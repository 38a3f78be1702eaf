"""What a step of rows costs in a ring, and how many tokens it brings: which way to speculate.

Pure, and shared by the controller, which chooses by it, and the simulator (``bench/simulator``),
which is held to it. Seconds and tokens throughout.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from hearthring.shards.timings import Fit

CHUNKS = (1, 2, 3, 4, 5, 6, 8, 12, 16)
"""Rows in a step of a chain that are considered."""
FLIGHTS = (1, 2, 3, 4, 6, 8, 12, 16)
"""Steps under way that are considered."""
_FAR = 4096


@dataclass(frozen=True, slots=True)
class Hop:
    """One way to the next stage: seconds of latency, and of sending each row."""

    latency: float
    row: float = 0.0


@dataclass(frozen=True, slots=True)
class Ring:
    """What a ring and its client take.

    ``stages`` are seconds of a step at each stage, ``hops`` the ways to them and back, one more
    than stages. ``ends`` is what the client takes for a step's embedding, norm, head and choices,
    ``draft`` for guessing one token. ``processors`` is 0 when every stage has its own, else how
    many all stages share.
    """

    stages: tuple[Fit, ...]
    hops: tuple[Hop, ...]
    ends: Fit = field(default_factory=lambda: Fit(0.0, 0.0))
    draft: float = 0.0
    processors: int = 0

    def __post_init__(self) -> None:
        """One hop more than stages: out, between them, and back."""
        assert len(self.hops) == len(self.stages) + 1

    def trip(self, rows: int) -> float:
        """From the moment a step's tokens are known until its outcome is, nothing in the way."""
        stages = sum(stage.seconds(rows) for stage in self.stages)
        hops = sum(hop.latency + rows * hop.row for hop in self.hops)
        return stages + hops + self.ends.seconds(rows)

    def turn(self, rows: int) -> float:
        """Seconds after which the next step of as many rows can follow: the slowest part's."""
        stages = [stage.seconds(rows) for stage in self.stages]
        parts = [*stages, *(rows * hop.row for hop in self.hops), self.ends.seconds(rows)]
        if self.processors:
            parts.append(sum(stages) / self.processors)
        return max(parts)

    def marginal(self, rows: int) -> float:
        """What one row more than ``rows`` adds to a trip."""
        return self.trip(rows + 1) - self.trip(rows)


@dataclass(frozen=True, slots=True)
class Plan:
    """A way to speculate, and what it should bring.

    ``rows`` of a step, the one of the text's last token included; ``flights`` steps under way;
    ``tokens`` in ``seconds``, and rows that were ``wasted`` for it. One row in one flight is
    decoding without a draft.
    """

    rows: int
    flights: int
    tokens: float
    seconds: float
    wasted: float = 0.0
    tree: bool = False

    @property
    def rate(self) -> float:
        """Tokens a second."""
        return self.tokens / self.seconds

    @property
    def name(self) -> str:
        """For people: ``plain``, ``chain of 4``, ``tree of 8``, ``4 steps of 3``."""
        if self.rows == 1 and self.flights == 1:
            return "plain"
        if self.flights > 1:
            return f"{self.flights} steps of {self.rows}"
        return f"{'tree' if self.tree else 'chain'} of {self.rows - 1}"


def survivals(acceptance: Sequence[float]) -> Iterator[float]:
    """Chance that the first 1, 2, … drafted tokens of a chain are all accepted, without end.

    ``acceptance[i]`` is the chance that the i-th is, given that those before it are; beyond its
    end the last one holds. Values are 0 to 1.
    """
    chance, depth = 1.0, 0
    while True:
        chance *= acceptance[min(depth, len(acceptance) - 1)] if acceptance else 0.0
        depth += 1
        yield chance


def plain(ring: Ring) -> Plan:
    """Without a draft: a token a trip."""
    return Plan(1, 1, 1.0, ring.trip(1))


def chain(ring: Ring, acceptance: Sequence[float], drafted: int) -> Plan:
    """Draft, send, wait: E = 1 + Σ survivals a trip (Leviathan et al., 2023, equation 1)."""
    some = survivals(acceptance)
    tokens = 1.0 + sum(next(some) for _ in range(drafted))
    seconds = ring.trip(drafted + 1) + drafted * ring.draft
    return Plan(drafted + 1, 1, tokens, seconds, drafted + 1 - tokens)


def tree(ring: Ring, accepted: float, rows: int, drafting: float) -> Plan:
    """One tree a trip: ``accepted`` of its ``rows`` − 1 candidates in the mean.

    ``drafting`` is the seconds that it takes to draft them.
    """
    seconds = ring.trip(rows) + drafting
    return Plan(rows, 1, 1.0 + accepted, seconds, rows - 1 - accepted, tree=True)


def pipeline(ring: Ring, acceptance: Sequence[float], rows: int, flights: int) -> Plan:
    """Chains of ``rows``, each sent before the one before it is back.

    Between two corrections N drafted tokens are accepted. The step with the first of them takes a
    trip, each of the ⌊N / rows⌋ further ones a turn of the slowest part, be it a stage, the draft,
    or the wait for a free flight. A correction finds the slowest stage at work on what it has
    refuted, and waits for the rest of that: half a step, as often as the stage is at work.
    """
    slowest = max(stage.seconds(rows) for stage in ring.stages)
    turn = max(ring.turn(rows), rows * ring.draft, ring.trip(rows) / flights)
    tokens, turns = 1.0, 0.0
    for depth, chance in enumerate(survivals(acceptance), 1):
        if chance < 1e-9 or depth > _FAR:
            break
        tokens += chance
        if depth % rows == 0:
            turns += chance
    first = ring.trip(rows) + (rows - 1) * ring.draft
    if flights > 1:
        first += slowest / 2 * min(1.0, slowest / turn)
    refuted = min(flights - 1, ring.trip(rows) / turn) * rows
    return Plan(rows, flights, tokens, first + turns * turn, rows * (1 + turns) + refuted - tokens)


def plans(
    ring: Ring,
    acceptance: Sequence[float],
    chunks: Sequence[int] = CHUNKS,
    flights: Sequence[int] = FLIGHTS,
) -> Iterator[Plan]:
    """Every plan that is considered for chains, the one without a draft first."""
    yield plain(ring)
    for rows in chunks:
        for count in flights:
            if count > 1:
                yield pipeline(ring, acceptance, rows, count)
            elif rows > 1:
                yield chain(ring, acceptance, rows - 1)


def best(candidates: Iterable[Plan], price: float = 0.0, gain: float = 0.02) -> Plan:
    """The plan with the highest rate; one that asks for more rows under way must gain ``gain``.

    ``price`` is the seconds that a wasted row counts on top, for what it takes from other sessions:
    0 in an idle ring, a row's time at the slowest stage where others wait for it.
    """

    def rate(plan: Plan) -> float:
        return plan.tokens / (plan.seconds + price * plan.wasted)

    first, *others = sorted(candidates, key=lambda plan: plan.rows * plan.flights)
    for plan in others:
        if rate(plan) > rate(first) * (1 + gain):
            first = plan
    return first


def rows_worth(chances: Sequence[float], seconds: Callable[[int], float]) -> int:
    """How many candidates to send, of some whose path chances fall: most tokens a second.

    ``seconds(rows)`` is a trip's time with so many rows, the root's included. Zero: none is worth
    its row.
    """
    count, tokens, rate = 0, 1.0, 1.0 / seconds(1)
    for place, chance in enumerate(chances, 1):
        tokens += chance
        if tokens / seconds(place + 1) > rate:
            count, rate = place, tokens / seconds(place + 1)
    return count
