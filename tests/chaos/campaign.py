"""Seeded faults during generations, and what became of each.

A fault is drawn before its generation starts: when it strikes (a fraction of the prefill, a token,
or a moment after another fault), whom (one of the nodes that hold the session then), and how. The
tokens must be those of an undisturbed run.
"""

import asyncio
import contextlib
import random
import signal
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import pairwise

from bench.homelab import Home
from hearthring import AsyncClient
from hearthring.client.answer import Answer
from hearthring.protocol.errors import HearthringError
from tests.chaos.swarm import ChaosSwarm, Member, machine

TOKENS = 64
PATIENCE = 120.0
"""Seconds for one generation, after which its request counts as lost."""
GONE_SECONDS = 30.0
"""For a killed process to be gone."""


class Phase(StrEnum):
    """When a fault strikes."""

    PREFILL = "prefill"
    DECODE = "decode"
    HAND_OVER = "hand-over"


@dataclass(frozen=True, slots=True)
class Fault:
    """``when`` is 0 to 1: of the prefill's time, of the tokens, or of a second."""

    phase: Phase
    when: float
    victim: float
    seconds: float
    one_way: bool


def draw_faults(number: int, seed: int, seconds: tuple[float, float]) -> list[Fault]:
    """The campaign's faults: the phases in turn, everything else uniform."""
    draw = random.Random(seed)
    phases = list(Phase)
    return [
        Fault(
            phases[n % len(phases)],
            draw.random(),
            draw.random(),
            draw.uniform(*seconds),
            draw.random() < 0.5,
        )
        for n in range(number)
    ]


@dataclass(slots=True)
class Run:
    """One generation: ``struck`` and ``noticed`` are moments of ``time.monotonic``."""

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
        """Seconds from a fault until the client noticed it, for those it went on without."""
        if self.answer is None or not self.struck:
            return []
        noticed = [self.begun + r.at_s for r in self.answer.timings.reroutes]
        return [
            at - max(s for s in self.struck if s <= at) for at in noticed if at >= self.struck[0]
        ]

    @property
    def recovery(self) -> float | None:
        """Seconds from the last fault before it until the ring was whole, if it was mended."""
        if self.answer is None or not self.struck or not self.answer.timings.reroutes:
            return None
        last = self.answer.timings.reroutes[-1]
        whole = self.begun + last.at_s + last.pause_s
        before = [struck for struck in self.struck if struck <= whole]
        return whole - before[-1] if before else None


Strike = Callable[[Fault, list[Member]], Awaitable[None]]


class Campaign:
    """Generations by one client, each with a fault."""

    def __init__(
        self, swarm: ChaosSwarm, client: AsyncClient, prompts: Sequence[list[int]]
    ) -> None:
        self.swarm, self.client, self.prompts = swarm, client, prompts
        self.expected: list[list[int]] = []
        self.prefill = 0.1
        self.runs: list[Run] = []
        self.wrong = 0

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

    async def run(self, number: int, fault: Fault | None, strike: Strike) -> Run:
        """One generation and its fault. Never raises for what the swarm does."""
        run, place = Run(fault), number % len(self.prompts)
        self.runs.append(run)
        run.begun = time.monotonic()
        stream = self.client.stream(prompt_ids=self.prompts[place], max_tokens=TOKENS, proof=False)
        striking: asyncio.Task[None] | None = None
        begins = (
            0 if fault is None or fault.phase is Phase.PREFILL else int(fault.when * TOKENS * 0.9)
        )
        if fault is not None and fault.phase is Phase.PREFILL:
            wait = fault.when * self.prefill
            striking = asyncio.create_task(self._strike(run, fault, strike, wait))
        try:
            async with asyncio.timeout(PATIENCE):
                async for piece in stream:
                    if piece.token_id is None:
                        continue
                    run.arrivals.append(time.monotonic())
                    if fault is not None and striking is None and len(run.arrivals) > begins:
                        striking = asyncio.create_task(self._strike(run, fault, strike, 0.0))
            run.answer = stream.answer
            if run.answer.token_ids != self.expected[place]:
                self.wrong += 1
                run.error = "wrong tokens"
        except (HearthringError, TimeoutError) as error:
            run.error = f"{type(error).__name__}: {error}"
        run.ended = time.monotonic()
        if striking is not None:
            await striking
        return run

    async def _strike(self, run: Run, fault: Fault, strike: Strike, wait: float) -> None:
        await asyncio.sleep(wait)
        transport = self.client.transport()
        working = list[Member]()
        while not working and not run.ended:  # at an early moment the session isn't open yet
            working = await self.swarm.at_work(transport)
        if not working or run.ended:
            return
        first = working.pop(int(fault.victim * len(working)))
        run.struck.append(time.monotonic())
        both = [first]
        if fault.phase is Phase.HAND_OVER and working:
            # While the first is being replaced, another one.
            both.append(working[int(fault.when * len(working))])
            await strike(fault, both[:1])
            await asyncio.sleep(fault.when)
            run.struck.append(time.monotonic())
            await strike(fault, both[1:])
        else:
            await strike(fault, both)

    def report(self) -> dict[str, object]:
        """What the issue asks for."""
        hit = [run for run in self.runs if run.struck]
        detections = [seconds for run in hit for seconds in run.detections]
        recoveries = [run.recovery for run in hit if run.recovery is not None]
        lost = [run.error for run in self.runs if run.error and run.error != "wrong tokens"]
        pauses = [run.pause for run in self.runs if run.arrivals]
        return {
            "generations": len(self.runs),
            "faults": sum(len(run.struck) for run in hit),
            "by_phase": {p.value: sum(r.fault.phase is p for r in hit if r.fault) for p in Phase},
            "wrong": self.wrong,
            "lost": len(lost),
            "errors": lost[:5],
            "reroutes": sum(len(r.answer.timings.reroutes) for r in self.runs if r.answer),
            "detection_s": _quantiles(detections),
            "recovery_s": _quantiles(recoveries),
            "pause_s": _quantiles(pauses),
            "slowest": [] if not pauses else _slowest(self.runs),
        }


def _slowest(runs: Sequence[Run]) -> list[str]:
    """What happened in the generation with the longest wait."""
    run = max(runs, key=lambda run: run.pause)
    begun = [f"fault after {at - run.begun:.2f} s" for at in run.struck]
    if run.answer is None:
        return begun
    return begun + [
        f"after {r.at_s:.2f} s, for {r.pause_s:.2f} s: {r.reason}"
        for r in run.answer.timings.reroutes
    ]


def _quantiles(values: Sequence[float]) -> dict[str, float]:
    if not values:
        return {}
    ordered = sorted(values)
    return {
        "median": round(statistics.median(ordered), 3),
        "p95": round(ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))], 3),
        "max": round(ordered[-1], 3),
    }


# -- the kinds of faults ---------------------------------------------------------------------------


async def kills(campaign: Campaign, number: int, seed: int) -> None:
    """SIGKILLs, each during a generation; the dead come back before the next one."""

    async def strike(fault: Fault, victims: list[Member]) -> None:
        for victim in victims:
            victim.signal(signal.SIGKILL)
            # A killed process lives on for a moment, and only the dead are restarted.
            await asyncio.to_thread(victim.process.process.wait, GONE_SECONDS)

    for n, fault in enumerate(draw_faults(number, seed, (0, 0))):
        await campaign.swarm.whole()
        await campaign.run(n, fault, strike)


async def stops(campaign: Campaign, number: int, seed: int, most: float = 20.0) -> None:
    """SIGSTOPs of 1 to 20 s: who is stopped isn't dead, and comes back in the middle."""

    async def strike(fault: Fault, victims: list[Member]) -> None:
        for victim in victims:
            victim.signal(signal.SIGSTOP)
        await asyncio.sleep(fault.seconds)
        for victim in victims:
            victim.signal(signal.SIGCONT)

    for n, fault in enumerate(draw_faults(number, seed, (1.0, most))):
        await campaign.run(n, fault, strike)


async def partitions(
    campaign: Campaign, home: Home, number: int, seed: int, most: float = 20.0
) -> None:
    """A node that falls silent for 1 to 20 s: to everybody or to one other, or only one way."""

    async def strike(fault: Fault, victims: list[Member]) -> None:
        for victim in victims:
            next_ = machine((victim.place + 1) % len(campaign.swarm.members))
            others = () if fault.victim < 0.5 else (next_,)
            await asyncio.to_thread(home.cut, machine(victim.place), *others, one_way=fault.one_way)
        await asyncio.sleep(fault.seconds)
        await asyncio.to_thread(home.mend)

    for n, fault in enumerate(draw_faults(number, seed, (1.0, most))):
        await campaign.run(n, fault, strike)


async def drains(campaign: Campaign, number: int) -> None:
    """Every node in turn is told to leave, and comes back, while generations go on."""

    async def nothing(fault: Fault, victims: list[Member]) -> None:
        pass

    async def roll() -> None:
        for member in campaign.swarm.members:
            await asyncio.to_thread(member.process.stop, signal.SIGTERM)
            await campaign.swarm.restart(member)

    rolling = asyncio.create_task(roll())
    try:
        n = 0
        while n < number or not rolling.done():
            await campaign.run(n, None, nothing)
            n += 1
        await rolling
    finally:
        rolling.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await rolling
