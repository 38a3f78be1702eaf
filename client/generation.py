"""One generation: prompt in, tokens out, everything kept that a proof needs.

``tokens`` is the life of a request: prefill in chunks that follow each other through the ring
(``prefill.py``), then steps of generated rows. The first row of a step holds a token that is
chosen; a draft's guesses may hang beneath it, and further steps may follow before it is back. What
comes back is walked from the last chosen token on: each state chooses a token, as it would have
without guesses, and as long as that was guessed its state is there too. Guesses that fell are
cancelled.
"""

import time
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from hearthring.client.acceptance import Place
from hearthring.client.branches import Branch, Branches
from hearthring.client.flight import Result
from hearthring.client.heads import Heads
from hearthring.client.pace import Trip
from hearthring.client.prefill import prefill
from hearthring.client.ring import RingSession
from hearthring.client.rollback import RolledBack
from hearthring.client.sampler import Sampling
from hearthring.client.speculation import Speculation
from hearthring.protocol.messages import Row
from hearthring.protocol.tensors import F32
from hearthring.shards.ends import Ends

if TYPE_CHECKING:
    import asyncio

T = TypeVar("T")

LONG = 0.001
"""Seconds of a pass over the head from which on signatures are checked beside it."""
LIKELY = 0.3
"""States that the text gets to with this chance go through the head together, the others as they
are needed."""


@dataclass(frozen=True, slots=True)
class _Flying:
    """A step of generated rows under way."""

    waiting: "asyncio.Future[Result]"
    branches: list[Branch]
    sent: float
    alone: bool


@dataclass(frozen=True, slots=True)
class _Decided:
    """What a walk found: tokens with their rows (None: not guessed), what fell, what to send."""

    chosen: list[tuple[int, Branch | None]]
    fallen: list[Branch]
    steps: list[tuple[list[Branch], F32]]


@dataclass(slots=True)
class Generation:
    """The growing state of one answer.

    ``token_ids`` holds the prompt, and behind its ``prompt_tokens`` (0: all are the prompt's) what
    an earlier session has chosen.
    """

    ring: RingSession
    ends: Ends
    heads: Heads
    sampling: Sampling
    token_ids: list[int]
    speculation: Speculation = field(default_factory=Speculation)
    prompt_tokens: int = 0
    rows: list[Row] = field(default_factory=list)
    final: list[F32] = field(default_factory=list)
    begun: float = field(default_factory=time.monotonic)
    prefill_begun: float = 0.0
    first_token: float = 0.0
    last_token: float = 0.0
    trips: list[Trip] = field(default_factory=list)
    """Steps of generated rows that are back."""
    uncommitted: list[int] = field(default_factory=list)
    class_changes: list[int] = field(default_factory=list)
    """Positions of tokens, each the first that a ring of other classes has chosen."""
    resumed: int = 0
    """Tokens of the answer that were there from the begin."""
    whole: bool = False
    """No token is to come: an earlier session has chosen the last one, whose row nobody needs."""
    newest: int = 0
    """The last row's id that was sent before those of ``_branches``: none is used twice."""
    _branches: Branches | None = None
    _flying: deque[_Flying] = field(default_factory=deque)
    _end: int = 0
    """Rows from this position on would come after the last token."""
    _looking: bool = False
    """The thread is busy with the tree, which is its own meanwhile."""

    async def tokens(self, limit: int, ends_at: frozenset[int]) -> AsyncGenerator[int | None]:
        """Generate until the answer has ``limit`` tokens; the one in ``ends_at`` is the last.

        ``None`` says that some were taken back: ``token_ids`` has those that are left. Stopping
        early is fine at any token: what was sent up to it stays committed, and whatever was sent
        beyond it is cancelled. May be called again after ``take_back``. A ``whole`` answer of which
        nothing is void gets no token.
        """
        try:
            if not self.rows:
                await self.prefill()
                if self.whole:
                    return
        except RolledBack as back:
            self.take_back(back)
            yield None
        self._end = self.prompt_tokens + limit - 1
        branches = await self._plant()
        self.ring.places.hearing.early = self._early
        try:
            while self.made < limit:
                likely = branches.likely(LIKELY)
                states = np.stack([branch.state for branch in likely if branch.state is not None])
                decide = partial(self._decide, branches, likely, limit, ends_at)
                decided = await self._apart(self.heads.logits(self.ends, states, decide))
                *guessed, (last, branch) = decided.chosen
                for token, row in guessed:
                    self._append(token)
                    yield token
                    self._accept(row)
                self._append(last)
                over = last in ends_at or self.made == limit
                if not over:  # before whoever reads has done with the token
                    self._discard(decided.fallen)
                    self._launch(branches, decided.steps)
                yield last
                if over:
                    return
                self._accept(branch)
                await self._go_on(branches)
                try:
                    await self._arrival(branches)
                except RolledBack as back:
                    self.take_back(back)
                    yield None
                    branches = await self._plant()
        finally:
            self.ring.places.hearing.early = None
            self._abandon()

    @property
    def made(self) -> int:
        """Tokens of the answer so far."""
        return len(self.token_ids) - self.prompt_tokens

    def take_back(self, back: RolledBack) -> None:
        """Forget what is void; the next token is chosen from the last state that is left."""
        self.restate(back)
        if back.position is None:
            return
        keep = min(back.position + 1, len(self.final))
        del self.token_ids[keep:], self.rows[keep:], self.final[keep:]
        committed = set(self.ring.flight.committed)
        self.uncommitted = [row.id for row in self.rows if row.id not in committed]
        self._abandon()

    def restate(self, back: RolledBack) -> None:
        """Rows that came back with other bytes have other states.

        If nothing is void they are those of another class, and the next token is chosen by it.
        """
        if back.position is None:
            self.class_changes.append(len(self.token_ids))
        if self._branches is not None:
            self._branches.restate(back.states)
        for place, row in enumerate(self.rows[: len(self.final)]):
            self.final[place] = back.states.get(row.id, self.final[place])

    async def _plant(self) -> Branches:
        """The tree begins at the last row of the text, whose state is back."""
        if self._branches is not None:
            self.newest = self._branches.newest
        last = self.rows[-1], self.token_ids[-1], self.final[-1]
        self._branches = Branches(*last, self.newest)
        await self.heads.run(self.speculation.begin, self.token_ids)
        return self._branches

    # -- what goes out ---------------------------------------------------------------------------

    async def prefill(self) -> None:
        """Have the text that is there run, as ``prefill.prefill``."""
        await prefill(self)

    def send(
        self, rows: Sequence[Row], states: F32, certain: list[int]
    ) -> "asyncio.Future[Result]":
        """Send rows, and with them the commit of those that are known to stay since the last."""
        commit, self.uncommitted = self.uncommitted, certain
        return self.ring.send(rows, states, commit)

    async def flush(self) -> None:
        """Have every stage commit to all rows of the text; they ride on a step of no rows.

        Raises as ``RingSession.result``.
        """
        if self.uncommitted:
            nothing = np.empty((0, self.ends.shape.width), np.float32)
            await self.ring.result(self.send([], nothing, []))

    # -- generated rows --------------------------------------------------------------------------

    def _decide(
        self,
        branches: Branches,
        likely: Sequence[Branch],
        limit: int,
        ends_at: frozenset[int],
        logits_of: F32,
    ) -> _Decided:
        """On the thread: walk as far as states are there, then plan what is sent next.

        ``logits_of`` the likely ones are there, ``[likely, vocabulary]``.
        """
        ready = dict(zip(map(id, likely), logits_of, strict=True))
        history, made = list(self.token_ids), self.made
        chosen, fallen = list[tuple[int, Branch | None]](), list[Branch]()
        missed = over = False
        while not missed and (state := (cursor := branches.cursor).state) is not None:
            logits = ready.get(id(cursor))
            if logits is None:
                logits = self.ends.logits(self.ends.norm(state[None])[0])
            place = Place(logits, history, len(history), self.sampling)
            offer = cursor.offer
            drawn = (
                (tuple(cursor.children), None) if offer is None else (offer.children, offer.spread)
            )
            token = self.speculation.rule.judge(place, *drawn).token
            branch = cursor.children.get(token)
            self.speculation.judged(cursor, token)
            fallen += branches.move(token)
            chosen.append((token, branch))
            history.append(token)
            missed = branch is None
            if over := token in ends_at or made + len(chosen) == limit:
                break
        self.speculation.wrote(history[len(self.token_ids) :], len(chosen) - missed)
        if over:
            return _Decided(chosen, fallen, [])
        if missed:
            branches.plant(history[-1])
        flying = 0 if missed else len(self._flying)
        return _Decided(chosen, fallen, self._plan(branches, flying))

    def _plan(self, branches: Branches, flying: int) -> list[tuple[list[Branch], F32]]:
        """On the thread: steps to send, with their embeddings."""
        planned = self.speculation.plan(branches, flying, self._end)
        return [(step, self.ends.embed([branch.token for branch in step])) for step in planned]

    async def _go_on(self, branches: Branches) -> None:
        """Look for guesses that take time to be found, while the step that is awaited is out."""
        while self.speculation.more and not self._flying[0].waiting.done():
            planned = await self._apart(self.heads.run(self._plan, branches, len(self._flying)))
            self._launch(branches, planned)

    async def _apart(self, work: Awaitable[T]) -> T:
        """Await what the thread does with the tree."""
        self._looking = True
        try:
            return await work
        finally:
            self._looking = False

    def _append(self, token: int) -> None:
        self.token_ids.append(token)
        self.last_token = time.monotonic()
        self.first_token = self.first_token or self.last_token

    def _accept(self, branch: Branch | None) -> None:
        """A row that was sent belongs to the text, if there is one."""
        if branch is None:
            return
        assert branch.row is not None
        self.rows.append(branch.row)
        self.uncommitted.append(branch.row.id)
        if branch.state is not None:
            self.final.append(branch.state)

    def _launch(self, branches: Branches, steps: Sequence[tuple[list[Branch], F32]]) -> None:
        for step, states in steps:
            rows, certain = branches.sent(step), list[int]()
            if step[0] is branches.cursor:
                self.rows.append(rows[0])
                certain = [rows[0].id]
            flying = _Flying(
                self.send(rows, states, certain), step, time.perf_counter(), not self._flying
            )
            self._flying.append(flying)

    def _early(self, rows: Sequence[Row], states: F32) -> bool:
        """Begin with the head of rows that aren't checked yet, if that takes longer than it."""
        if self._branches is None or self._looking or self.heads.seconds < LONG:
            return False
        if found := self._branches.early(rows, states, LIKELY):
            self.heads.begin(self.ends, np.stack(found))
        return bool(found)

    async def _arrival(self, branches: Branches) -> None:
        """Wait until the cursor's state is back, and take what comes before it."""
        while branches.cursor.state is None:
            flying = self._flying.popleft()
            result = await self._outlasting(flying.waiting)
            seconds = time.perf_counter() - flying.sent
            trip = Trip(result, seconds, flying.alone)
            self.trips.append(trip)
            self.speculation.back(trip)
            branches.back(result.rows, result.states)
        if len(self.final) < len(self.rows):
            self.final.append(branches.cursor.state)

    async def _outlasting(self, waiting: "asyncio.Future[Result]") -> Result:
        """A result, whatever class it is from. Raises ``RolledBack`` if anything is void."""
        while True:
            try:
                return await self.ring.result(waiting)
            except RolledBack as back:
                if back.position is not None:
                    raise
                self.restate(back)

    def _discard(self, fallen: Sequence[Branch]) -> None:
        """Guesses fell: the stages needn't run them, and nobody waits for them."""
        if not fallen:
            return
        self.ring.discard([branch.row.id for branch in fallen if branch.row is not None])
        lost = {id(branch) for top in fallen for branch in top.below()}
        flying = [f for f in self._flying if any(id(b) not in lost for b in f.branches)]
        self._flying = deque(flying)

    def _abandon(self) -> None:
        """Whatever was sent beyond the last token is nobody's; so is a row that went ahead for that
        token itself, and isn't back."""
        del self.rows[len(self.final) :]
        kept = {row.id for row in self.rows}
        self.uncommitted = [row for row in self.uncommitted if row in kept]
        self.ring.discard([row for row in self.ring.flight.undecided() if row not in kept])
        self._flying.clear()
