"""One simulated run: clients, a ring, and what came of it."""

from collections.abc import Sequence
from dataclasses import dataclass

from bench.simulator.client import Policy, SimulatedClient
from bench.simulator.clock import Clock
from bench.simulator.ring import SimulatedRing
from bench.simulator.truth import Truth
from bench.simulator.work import NOTHING, Work
from hearthring.client.cost import Ring


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a run.

    ``rate``: tokens a second of all clients together, ``slowest``: of the slowest one; ``known``:
    when each token of the first one was; ``busy``: share of the time that the busiest stage
    computed; ``rows``: rows that a stage computed for each token, in the mean over stages.
    """

    rate: float
    slowest: float
    known: tuple[float, ...]
    busy: float
    rows: float


def simulate(
    ring: Ring,
    acceptance: Sequence[float],
    policy: Policy,
    tokens: int,
    *,
    seed: int = 1,
    clients: int = 1,
    batch: int = 0,
    interruptible: bool = False,
    work: Work = NOTHING,
    luck: Sequence[bool] = (),
    ends: bool = False,
) -> Outcome:
    """``clients`` write at least ``tokens`` tokens each, alike but for their texts.

    They begin one after the other within a trip, and go on until the last one is done: so the ring
    is equally full all the time. ``batch``: rows of several clients that a stage computes together
    at most, 0 for one step at a time. ``work`` is what processors do beside engines; ``luck``
    replaces chance, see ``Truth``. If the text ``ends`` after these tokens, nobody guesses beyond.
    """
    clock = Clock()
    stages = SimulatedRing(clock, ring, work, batch, interruptible)
    writers = [
        SimulatedClient(
            clock,
            stages,
            Truth(acceptance, seed + number, luck),
            policy,
            number,
            tokens if ends else None,
        )
        for number in range(clients)
    ]
    for number, writer in enumerate(writers):
        clock.at(ring.trip(policy.first) * number / clients, writer.start)
    for writer in writers:
        clock.run(lambda writer=writer: len(writer.known) >= tokens)
    written = sum(len(writer.known) for writer in writers)
    return Outcome(
        rate=written / clock.now,
        slowest=min(len(writer.known) for writer in writers) / clock.now,
        known=tuple(writers[0].known),
        busy=max(stage.busy for stage in stages.stages) / clock.now,
        rows=sum(stage.rows for stage in stages.stages) / len(stages.stages) / written,
    )
