"""What a step takes of every process of a ring: processor time by rows, and of the clock.

For ``bench/speculation.py``, whose rings are foretold with it. One session of its own sends steps
of so many rows one after the other, a chain beneath the text that is dropped again, and the
processor time of every thread is read before and after (Linux). So neither what else the machine
does nor the choice of a draft is in these figures.
"""

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bench.spoken import Dialled
from bench.watched import Meter, Spent, Watched, of
from hearthring import AsyncClient
from hearthring.client.draft import Candidate
from hearthring.client.pace import Fixed
from hearthring.client.ring import RingSession
from hearthring.protocol.messages import GENERATED, PROMPT, Cancel, Row
from hearthring.shards.ends import Ends

ROWS = (0, 1, 2, 3, 5, 9)
"""Rows of the steps that are measured; none is what a step is whose rows were all cancelled."""
STEPS, ROUNDS = 6, 3
"""Steps of a size at once, and how often every size has its turn."""
TEXT = 24
"""Tokens of the text whose end the steps are tried at."""
CLIENT, SWITCH = "client", "switch"
Points = list[tuple[int, float]]


@dataclass(frozen=True, slots=True)
class Tolls:
    """Seconds, by rows where it is points.

    ``hop`` is a link's delay as it was asked for; ``engines`` each stage's engine's thread,
    ``stage`` all other threads of a stage in the mean; ``client`` the client's with a step's
    messages, ``wire`` the switch with one of them; ``ends`` embedding, head and choice for a step
    that is back; ``trip`` a step's time by the clock, these not included; ``note`` one note of
    cancellation at one of its ends.
    """

    hop: float
    engines: list[Points]
    stage: Points
    client: Points
    wire: Points
    ends: Points
    trip: Points
    note: float


class NoGuesses(Dialled):
    """A draft that says nothing."""

    def __init__(self) -> None:
        super().__init__([], 0.0)

    def propose(self, tail: Sequence[int], most: int) -> list[Candidate]:
        """Nothing."""
        return []


class Steps:
    """A session whose steps are measured."""

    def __init__(self, ring: RingSession, ends: Ends, meter: Meter, ids: Sequence[int]) -> None:
        self._ring, self._ends, self._meter, self._ids = ring, ends, meter, list(ids)
        self._newest = 0

    async def prefill(self) -> None:
        """The text goes round."""
        rows = [Row(at + 1, at, at, PROMPT) for at in range(len(self._ids))]
        self._newest = len(rows)
        sent = self._ring.send(rows, self._ends.embed(self._ids), [row.id for row in rows])
        await self._ring.result(sent)

    async def run(self, rows: int, steps: int, notes: bool = False) -> tuple[Spent, list[float]]:
        """Threads' seconds for so many steps, and what each took by the clock. With ``notes``
        every stage is told of each that its rows are cancelled, after they have run."""
        states = self._ends.embed(self._ids[:rows])
        before, took = self._meter.read(), list[float]()
        for _ in range(steps):
            chain = self._chain(rows)
            begun = time.perf_counter()
            await self._ring.result(self._ring.send(chain, states))
            took.append(time.perf_counter() - begun)
            gone = tuple(row.id for row in chain)
            self._ring.discard(gone)
            for attached in self._ring.places.attached if notes else ():
                attached.post(Cancel(gone))
        return self._meter.since(before), took

    def _chain(self, rows: int) -> list[Row]:
        first, tip, at = self._newest + 1, len(self._ids), len(self._ids)
        self._newest += rows
        return [Row(first + i, first + i - 1 if i else tip, at + i, GENERATED) for i in range(rows)]


def meter_of(nodes: Mapping[str, int], switch: int) -> Meter:
    """Of everybody who works in a ring, this process as its client."""
    return Meter({**nodes, CLIENT: os.getpid(), SWITCH: switch})


async def measure(
    client: AsyncClient,
    question: Mapping[str, Any],
    nodes: Mapping[str, int],
    switch: int,
    hop: float,
) -> Tolls:
    """The tolls of a ring; ``nodes`` are the processes of its stages, in order."""
    meter = meter_of(nodes, switch)
    plain = Watched(Fixed(), meter, TEXT)
    client.answering.pace = lambda: plain
    answer = await client.generate(
        draft=lambda setting: NoGuesses(), proof=False, max_tokens=TEXT, **question
    )
    ids = answer.prompt_ids + answer.token_ids
    ring, ends = await client.sessions.open(len(ids) + 64, extra=0)
    spent = {rows: Spent() for rows in ROWS}
    took: dict[int, list[float]] = {rows: [] for rows in ROWS}
    noted = Spent()
    async with ring:
        steps = Steps(ring, ends, meter, ids)
        await steps.prefill()
        await steps.run(2, 2)
        for _ in range(ROUNDS):
            for rows in ROWS:
                seconds, clock = await steps.run(rows, STEPS)
                spent[rows].update(seconds)
                took[rows] += clock
            seconds, _ = await steps.run(1, STEPS, notes=True)
            noted.update(seconds)
        heads = await client.heads.run(_heads, ends)
    messages = of(spent[1], CLIENT) / (STEPS * ROUNDS)
    choice = max(0.0, of(plain.spent, CLIENT) / (TEXT - 1) - messages - heads[0][1])
    engines = {name: _busiest(spent[ROWS[-1]], name, nodes[name]) for name in nodes}
    each = STEPS * ROUNDS

    def points(of: Any) -> Points:
        return [(rows, of(spent[rows]) / each) for rows in ROWS]

    def others(counted: Spent) -> float:
        kept = (s for (name, t), s in counted.items() if name in nodes and t != engines[name])
        return sum(kept) / len(nodes)

    # Every stage is told once of each step, and the client tells them all.
    told = 2 * len(nodes) * each
    note = max(0.0, sum(noted.values()) - sum(spent[1].values())) / told
    return Tolls(
        hop=hop,
        engines=[points(lambda counted, name=name: counted[name, engines[name]]) for name in nodes],
        stage=points(others),
        client=points(lambda counted: of(counted, CLIENT)),
        wire=points(lambda counted: of(counted, SWITCH) / (len(nodes) + 1)),
        ends=[(rows, seconds + choice) for rows, seconds in heads],
        # Others on this machine only add to it.
        trip=[(rows, float(np.percentile(took[rows], 25))) for rows in ROWS],
        note=note,
    )


def _busiest(spent: Spent, name: str, process: int) -> int:
    """A node's engine's thread: of those beside its first the one that works most."""
    own = [(s, t) for (who, t), s in spent.items() if who == name and t != process]
    return max(own)[1]


def _heads(ends: Ends) -> Points:
    """Embedding, norm, head and choice, in seconds of this thread."""
    states, found = ends.embed(range(max(ROWS))), Points()
    for rows in ROWS[1:]:
        spent = list[float]()
        for _ in range(7):
            begun = time.thread_time()
            ends.embed(range(rows))
            for logits in ends.logits(ends.norm(states[:rows])):
                logits.argmax()
            spent.append(time.thread_time() - begun)
        found.append((rows, float(np.median(spent))))
    return found
