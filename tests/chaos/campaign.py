"""Generations by one client, during which faults strike, and what became of each.

A fault is drawn before its generation starts (``faults.py``): when it strikes (a fraction of the
prefill, a token, or a moment after another fault), whom (one of the nodes that hold the session
then), and how. The tokens must be those of an undisturbed run.
"""

import asyncio
import contextlib
import math
import signal
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from itertools import count, pairwise

from bench.homelab import Home
from hearthring import AsyncClient
from hearthring.client.answer import Answer
from hearthring.protocol.errors import HearthringError
from tests.chaos.faults import Fault, Phase, draw_faults
from tests.chaos.outcomes import WRONG, Outcome, Results
from tests.chaos.swarm import ChaosSwarm, Member, machine

TOKENS = 64
PATIENCE = 120.0
"""Seconds for one generation, after which its request counts as lost."""
GONE_SECONDS = 30.0
"""For a killed or leaving process to be gone."""
TRIES = 3
"""Generations for one fault, should it come too late to strike."""


@dataclass(slots=True)
class Run:
    """One generation: ``struck`` and ``arrivals`` are moments of ``time.monotonic``."""

    fault: Fault | None = None
    answer: Answer | None = None
    error: str = ""
    begun: float = 0.0
    ended: float = 0.0
    struck: list[float] = field(default_factory=list)
    arrivals: list[float] = field(default_factory=list)

    @property
    def pause(self) -> float:
        """The longest wait for a token after the first."""
        return max((b - a for a, b in pairwise(self.arrivals)), default=0.0)

    @property
    def detections(self) -> list[float]:
        """Seconds from faults until the client noticed, for those it went on without.

        The first time from the first fault, then from the last one before.
        """
        if self.answer is None or not self.struck:
            return []
        noticed = [self.begun + r.at_s for r in self.answer.timings.reroutes]
        noticed = [at for at in noticed if at >= self.struck[0]]
        later = [at - max(s for s in self.struck if s <= at) for at in noticed[1:]]
        return [at - self.struck[0] for at in noticed[:1]] + later

    @property
    def recovery(self) -> float | None:
        """Seconds from the last fault before it until the ring was whole, if it was mended."""
        if self.answer is None or not self.struck or not self.answer.timings.reroutes:
            return None
        last = self.answer.timings.reroutes[-1]
        whole = self.begun + last.at_s + last.pause_s
        before = [struck for struck in self.struck if struck <= whole]
        return whole - before[-1] if before else None

    def outcome(self, kind: str, number: int) -> Outcome:
        """What is kept of it."""
        reroutes = self.answer.timings.reroutes if self.answer is not None else ()
        return Outcome(
            kind,
            number,
            self.fault.phase.value if self.fault is not None else "",
            tuple(round(at - self.begun, 3) for at in self.struck),
            self.error,
            tuple(round(seconds, 3) for seconds in self.detections),
            self.recovery,
            self.arrivals[0] - self.begun if self.arrivals else 0.0,
            self.pause,
            tuple(f"after {r.at_s:.2f} s, for {r.pause_s:.2f} s: {r.reason}" for r in reroutes),
        )


Strike = Callable[[Fault, Member], Awaitable[None]]
"""Strikes one node."""
Heal = Callable[[Fault, list[Member]], Awaitable[None]]
"""Ends a fault that isn't for ever, when its time is over."""


async def _never(fault: Fault, victims: list[Member]) -> None:
    """For faults that nobody heals."""


class Campaign:
    """Generations by one client, each with a fault; none is begun after ``until``."""

    def __init__(
        self,
        swarm: ChaosSwarm,
        client: AsyncClient,
        prompts: Sequence[list[int]],
        results: Results,
        until: float = math.inf,
    ) -> None:
        self.swarm, self.client, self.prompts, self.results = swarm, client, prompts, results
        self.expected: list[list[int]] = []
        self.prefill, self._until = 0.1, until

    @property
    def over(self) -> bool:
        """Whether nothing more is to be begun."""
        return time.monotonic() > self._until

    async def undisturbed(self) -> None:
        """The tokens that every later run must give, and how long a prefill takes.

        Prompts whose answers end earlier than others are left out.
        """
        kept = []
        for prompt in self.prompts:
            answer = await self.client.generate(prompt_ids=prompt, max_tokens=TOKENS, proof=False)
            if len(answer.token_ids) == TOKENS:
                kept.append(prompt)
                self.expected.append(answer.token_ids)
                self.prefill = answer.timings.first_token_s
        if not kept:
            raise ValueError("no prompt has an answer that is long enough")
        self.prompts = kept

    async def strike_all(
        self, kind: str, faults: Sequence[Fault], strike: Strike, heal: Heal = _never
    ) -> None:
        """A generation for every fault that hasn't been, in a swarm that is whole before it."""
        done = self.results.done(kind)
        for number, fault in enumerate(faults):
            for _ in range(0 if number in done else TRIES):
                if self.over:
                    return
                await self.swarm.whole()
                outcome = (await self.run(number, fault, strike, heal)).outcome(kind, number)
                self.results.add(outcome)
                if outcome.counts:
                    break

    async def run(
        self, number: int, fault: Fault | None, strike: Strike, heal: Heal = _never
    ) -> Run:
        """One generation and its fault. Never raises for what the swarm does."""
        run, place = Run(fault), number % len(self.prompts)
        run.begun = time.monotonic()
        stream = self.client.stream(prompt_ids=self.prompts[place], max_tokens=TOKENS, proof=False)
        striking: asyncio.Task[None] | None = None
        begins = (
            0 if fault is None or fault.phase is Phase.PREFILL else int(fault.when * TOKENS * 0.9)
        )
        if fault is not None and fault.phase is Phase.PREFILL:
            wait = fault.when * self.prefill
            striking = asyncio.create_task(self._strike(run, fault, wait, strike, heal))
        try:
            async with asyncio.timeout(PATIENCE):
                async for piece in stream:
                    if piece.token_id is None:
                        continue
                    run.arrivals.append(time.monotonic())
                    if fault is not None and striking is None and len(run.arrivals) > begins:
                        striking = asyncio.create_task(self._strike(run, fault, 0.0, strike, heal))
            run.answer = stream.answer
            if run.answer.token_ids != self.expected[place]:
                run.error = WRONG
        except (HearthringError, TimeoutError) as error:
            run.error = f"{type(error).__name__}: {error}"
        run.ended = time.monotonic()
        if striking is not None:
            await striking
        return run

    async def _strike(
        self, run: Run, fault: Fault, wait: float, strike: Strike, heal: Heal
    ) -> None:
        await asyncio.sleep(wait)
        transport = self.client.transport()
        working = list[Member]()
        while not working and not run.ended:  # at an early moment the session isn't open yet
            working = await self.swarm.at_work(transport)
        if not working or run.ended:
            return
        victims = [working.pop(int(fault.victim * len(working)))]
        if fault.phase is Phase.HAND_OVER and working:
            victims.append(working[int(fault.when * len(working))])
        for place, victim in enumerate(victims):
            if place:  # while the first one is being replaced
                await asyncio.sleep(fault.when)
            run.struck.append(time.monotonic())
            await strike(fault, victim)
        await heal(fault, victims)


# -- the kinds of faults ---------------------------------------------------------------------------


async def kills(campaign: Campaign, number: int, seed: int) -> None:
    """SIGKILLs, each during a generation."""

    async def strike(fault: Fault, victim: Member) -> None:
        victim.signal(signal.SIGKILL)
        # A killed process lives on for a moment, and only the dead are restarted.
        await asyncio.to_thread(victim.process.process.wait, GONE_SECONDS)

    await campaign.strike_all("kills", draw_faults(number, seed, (0, 0)), strike)


async def stops(campaign: Campaign, number: int, seed: int, most: float = 20.0) -> None:
    """SIGSTOPs of 1 to 20 s: who is stopped isn't dead, and comes back in the middle."""

    async def strike(fault: Fault, victim: Member) -> None:
        victim.signal(signal.SIGSTOP)

    async def heal(fault: Fault, victims: list[Member]) -> None:
        await asyncio.sleep(fault.seconds)
        for victim in victims:
            victim.signal(signal.SIGCONT)

    await campaign.strike_all("stops", draw_faults(number, seed, (1.0, most)), strike, heal)


async def partitions(
    campaign: Campaign, home: Home, number: int, seed: int, most: float = 20.0
) -> None:
    """A node that falls silent for 1 to 20 s: to everybody or to one other, or only one way."""

    async def strike(fault: Fault, victim: Member) -> None:
        next_ = machine((victim.place + 1) % len(campaign.swarm.members))
        others = () if fault.victim < 0.5 else (next_,)
        await asyncio.to_thread(home.cut, machine(victim.place), *others, one_way=fault.one_way)

    async def heal(fault: Fault, victims: list[Member]) -> None:
        await asyncio.sleep(fault.seconds)
        await asyncio.to_thread(home.mend)

    await campaign.strike_all("partitions", draw_faults(number, seed, (1.0, most)), strike, heal)


async def drains(campaign: Campaign, number: int) -> None:
    """Every node in turn is told to leave, and comes back, while generations go on.

    They go on until all have, if that takes longer.
    """
    swarm, done = campaign.swarm, campaign.results.done("drains")

    async def nothing(fault: Fault, victim: Member) -> None:
        pass

    async def roll() -> None:
        for member in swarm.members:
            await swarm.whole()
            if campaign.over:
                return
            member.process.process.send_signal(signal.SIGTERM)
            await asyncio.to_thread(member.process.process.wait, GONE_SECONDS)

    rolling = asyncio.create_task(roll())
    try:
        for n in count():
            if campaign.over or (n >= number and rolling.done()):
                break
            if n not in done:
                campaign.results.add((await campaign.run(n, None, nothing)).outcome("drains", n))
        await rolling
    finally:
        rolling.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await rolling
