"""One generation: prompt in, tokens out, everything kept that a proof needs.

``tokens`` is the life of a request: prefill in chunks that follow each other through the ring,
then a row at a time, each committed by the step after it.
"""

import time
from collections import deque
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from hearthring.client.answer import Rerouting, Timings
from hearthring.client.chunks import chunk_rows
from hearthring.client.flight import Result
from hearthring.client.heads import Heads
from hearthring.client.ring import RingSession
from hearthring.client.sampler import Sampling, choose
from hearthring.protocol.messages import GENERATED, PROMPT, Row
from hearthring.protocol.tensors import F32
from hearthring.shards.ends import Ends

if TYPE_CHECKING:
    import asyncio

IN_FLIGHT = 16
"""Prompt steps under way at once: enough to fill a ring, few enough to bound its queues."""


@dataclass(slots=True)
class Generation:
    """The growing state of one answer."""

    ring: RingSession
    ends: Ends
    heads: Heads
    sampling: Sampling
    token_ids: list[int]
    prompt_tokens: int = 0
    rows: list[Row] = field(default_factory=list)
    final: list[F32] = field(default_factory=list)
    begun: float = field(default_factory=time.monotonic)
    prefill_begun: float = 0.0
    first_token: float = 0.0
    last_token: float = 0.0
    results: list[Result] = field(default_factory=list)
    rounds: list[float] = field(default_factory=list)
    """Seconds that each generated row was under way."""
    uncommitted: list[int] = field(default_factory=list)

    async def tokens(self, limit: int, ends_at: frozenset[int]) -> AsyncIterator[int]:
        """Generate at most ``limit`` tokens; the one in ``ends_at`` is the last.

        Stopping early is fine at any token: what was sent so far stays committed.
        """
        self.prompt_tokens = len(self.token_ids)
        self.prefill_begun = time.monotonic()
        state = await self._prefill()
        for made in range(1, limit + 1):
            token, embedded = await self.heads.logits(self.ends, state[None], self._choose)
            self.token_ids.append(token)
            self.last_token = time.monotonic()
            self.first_token = self.first_token or self.last_token
            yield token
            if token in ends_at or made == limit:
                return
            state = await self._advance(embedded)

    async def prefill_only(self) -> None:
        """Prefill alone, for callers that want states and no tokens."""
        self.prompt_tokens = len(self.token_ids)
        await self._prefill()

    def timings(self) -> Timings:
        """Figures so far."""
        now = time.monotonic()
        made = len(self.token_ids) - self.prompt_tokens
        spent = self.last_token - self.first_token
        recent = self.results[-max(0, made - 1) :] if made > 1 else []
        # Another route has other stages: the figures are those of the last one's.
        stages_now = len(self.ring.route)
        decoded = [result.times for result in recent if len(result.times) == stages_now]
        stages = zip(*decoded, strict=True) if decoded else ()
        hops = [(np.mean([t.compute for t in s]), np.mean([t.queue for t in s])) for s in stages]
        return Timings(
            first_token_s=(self.first_token or now) - self.begun,
            decode_tokens_per_s=(made - 1) / spent if made > 1 and spent > 0 else 0.0,
            prefill_s=(self.first_token or now) - self.prefill_begun,
            total_s=now - self.begun,
            stage_compute_s=tuple(float(compute) for compute, _ in hops),
            stage_queue_s=tuple(float(queue) for _, queue in hops),
            hop_s=self._hop_seconds(),
            reroutes=tuple(
                Rerouting(m.lost, m.reason, m.at - self.begun, m.seconds) for m in self.ring.mended
            ),
        )

    def _hop_seconds(self) -> float:
        if not self.rounds:
            return 0.0
        decoded = self.results[-len(self.rounds) :]
        extra = [
            (took - sum(t.compute for t in result.times)) / (len(result.times) + 1)
            for took, result in zip(self.rounds, decoded, strict=True)
        ]
        return float(np.median(extra))

    async def _prefill(self) -> F32:
        """Send the prompt in chunks, several under way; the final state of its last row."""
        waiting: deque[asyncio.Future[Result]] = deque()
        prompt = self.token_ids
        chunk = chunk_rows(len(prompt), self.ring.route)
        for start in range(0, len(prompt), chunk):
            rows = [Row(p + 1, p, p, PROMPT) for p in range(start, min(start + chunk, len(prompt)))]
            states = await self.heads.run(self.ends.embed, [prompt[r.position] for r in rows])
            if len(waiting) == IN_FLIGHT:
                await self._receive(waiting.popleft())
            waiting.append(self._send(rows, states))
        while waiting:
            await self._receive(waiting.popleft())
        return self.final[-1]

    async def _advance(self, states: F32) -> F32:
        """Send one generated token's row round the ring; its final state."""
        position = len(self.rows)
        row = Row(position + 1, position, position, GENERATED)
        sent = time.perf_counter()
        await self._receive(self._send([row], states))
        self.rounds.append(time.perf_counter() - sent)
        return self.final[-1]

    def _send(self, rows: Sequence[Row], states: F32) -> "asyncio.Future[Result]":
        commit, self.uncommitted = self.uncommitted, [row.id for row in rows]
        self.rows.extend(rows)
        return self.ring.send(rows, states, commit)

    async def _receive(self, waiting: "asyncio.Future[Result]") -> None:
        result = await self.ring.result(waiting)
        self.results.append(result)
        self.final.extend(result.states)

    def _choose(self, logits: F32) -> tuple[int, F32]:
        """The next token and its embedding: at once, or other sessions' heads come between."""
        token = choose(logits[0], self.token_ids, len(self.token_ids), self.sampling)
        return token, self.ends.embed([token])
