"""The text that is there goes round the ring in chunks, before the first token is chosen.

It is the prompt, and behind it, where an answer is resumed, what an earlier session has chosen.
"""

import time
from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING

from hearthring.client.chunks import chunk_rows
from hearthring.client.outlook import outlook
from hearthring.client.pace import Trip
from hearthring.client.rollback import RolledBack
from hearthring.protocol.messages import GENERATED, PROMPT, Row

if TYPE_CHECKING:
    import asyncio

    from hearthring.client.flight import Result
    from hearthring.client.generation import Generation

IN_FLIGHT = 16
"""Prompt steps under way at once: enough to fill a ring, few enough to bound its queues."""
RESUMED = 64
"""Rows in a step of tokens that an earlier session has chosen."""


async def prefill(generation: "Generation") -> None:
    """Send the text in chunks, several under way, and await their states, which become ``final``.

    Raises ``RolledBack`` if what an earlier session has chosen is void in part, and what
    ``RingSession.result`` does.
    """
    g = generation
    g.prompt_tokens = g.prompt_tokens or len(g.token_ids)
    g.prefill_begun, g.resumed = time.monotonic(), g.made
    waiting: deque[tuple[asyncio.Future[Result], float]] = deque()
    void, read, trips = list[int](), False, list[Trip]()
    for kind, places in _chunks(g):
        rows = [Row(place + 1, place, place, kind) for place in places]
        states = await g.heads.run(g.ends.embed, [g.token_ids[p] for p in places])
        if len(waiting) == IN_FLIGHT:
            trips.append(await _receive(g, *waiting.popleft(), void))
        if void:  # nothing may hang on what is void
            break
        begun = time.perf_counter()
        waiting.append((g.send(rows, states, [row.id for row in rows]), begun))
        g.rows.extend(rows)
        g.newest = rows[-1].id
    while waiting:
        # The draft reads while nothing else is to be done here.
        while not (waiting[0][0].done() or read):
            read = await g.heads.run(g.speculation.read, g.token_ids)
        trips.append(await _receive(g, *waiting.popleft(), void))
    if (ring := outlook(g.ring.route, trips)) is not None:
        g.speculation.expect(ring)
    if void:
        raise RolledBack(min(void), {})


def _chunks(generation: "Generation") -> Iterator[tuple[int, range]]:
    """Kind and positions of the steps: the prompt, then what was chosen before."""
    prompt, end = generation.prompt_tokens, len(generation.token_ids) - generation.whole
    chunk = chunk_rows(prompt, generation.ring.route)
    for start in range(0, prompt, chunk):
        yield PROMPT, range(start, min(start + chunk, prompt))
    for start in range(prompt, end, RESUMED):
        yield GENERATED, range(start, min(start + RESUMED, end))


async def _receive(
    generation: "Generation", waiting: "asyncio.Future[Result]", begun: float, void: list[int]
) -> Trip:
    """Take the states of a step that went at ``begun``. Positions that the text was taken back to
    go to ``void``."""
    while True:
        try:
            result = await generation.ring.result(waiting)
            break
        except RolledBack as back:
            generation.restate(back)
            if back.position is not None and back.position + 1 < len(generation.rows):
                void.append(back.position)
    generation.final.extend(result.states)
    return Trip(result, time.perf_counter() - begun, False)
