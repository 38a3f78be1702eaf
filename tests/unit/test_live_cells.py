"""Spot checks while a ring is at work."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from itertools import chain, repeat

import numpy as np
import pytest

from hearthring.client.coverage import Coverage
from hearthring.client.live_cells import LiveCheck, check_live
from hearthring.client.ring import RingSession
from hearthring.client.route import Stage
from hearthring.client.spot_checks import SpotChecks
from hearthring.node.config import NodeHooks
from hearthring.node.stage_session import StageSession
from hearthring.protocol.errors import EngineUnavailable
from hearthring.protocol.messages import PROMPT, Receipt, Row
from hearthring.protocol.tensors import Residual
from hearthring.shards.cell_runner import EngineCells
from hearthring.shards.ends import Ends
from hearthring.shards.engines import load_engine
from hearthring.shards.store import ModelEntry
from hearthring.verify import receipts
from hearthring.verify.cell_check import CellRunner
from hearthring.verify.reputation import Standing
from hearthring.verify.verdict import Outcome, Strength
from tests.liar import hooks_for, session
from tests.memory_ring import memory_swarm

CUTS, WINDOWS = (0, 2, 4), ((0, 2), (2, 4))
IDS = list(range(10, 110))
Runners = dict[tuple[int, int], CellRunner]


class TwoFaced(StageSession):
    """Commits to other rows than it signed on the way."""

    def commitment(self, whole: bool) -> Receipt | None:
        honest = super().commitment(whole)
        assert honest is not None
        body = receipts.read(honest)
        return receipts.sign(replace(body, out_roots=body.in_roots), self._who)


class Framing(StageSession):
    """Claims rows that it wasn't sent."""

    def commitment(self, whole: bool) -> Receipt | None:
        honest = super().commitment(whole)
        assert honest is not None
        body = receipts.read(honest)
        return receipts.sign(replace(body, in_roots=body.out_roots), self._who)


class Nameless(StageSession):
    """Commits to rows of a model whose id is none."""

    def commitment(self, whole: bool) -> Receipt | None:
        honest = super().commitment(whole)
        assert honest is not None
        return receipts.sign(replace(receipts.read(honest), model_id="none"), self._who)


class Behind(StageSession):
    """Commits to full chunks only, as nodes of earlier versions do."""

    def commitment(self, whole: bool) -> Receipt | None:
        return super().commitment(False)


class Silent(StageSession):
    """Commits to nothing."""

    def commitment(self, whole: bool) -> Receipt | None:
        return None


@pytest.fixture
def runners(tiny: ModelEntry) -> Runners:
    gguf = tiny.open()
    shape = gguf.shape
    own = EngineCells(
        load_engine("torch", gguf, (0, 4), Residual.FP16, 1), shape.kv_heads * shape.head_width
    )
    return dict.fromkeys(WINDOWS, own)


class Talk:
    """A ring to which rows are sent by hand."""

    def __init__(self, ring: RingSession, ends: Ends, entry: ModelEntry, runners: Runners) -> None:
        self.ring, self.ends, self.sent = ring, ends, 0
        self.shape, self.runners, self.transport = (
            entry.manifest.shape,
            runners,
            ring.places.transport,
        )

    async def say(self, rows: int) -> None:
        """Send rows and commit them."""
        made = [Row(p + 1, p, p, PROMPT) for p in range(self.sent, self.sent + rows)]
        states = self.ends.embed(IDS[self.sent : self.sent + rows])
        await self.ring.result(self.ring.send(made, states))
        nothing = np.empty((0, self.shape.width), np.float32)
        await self.ring.result(self.ring.send([], nothing, [row.id for row in made]))
        self.sent += rows

    async def runner_of(self, stage: Stage) -> CellRunner:
        if (stage.start, stage.end) not in self.runners:
            raise EngineUnavailable("not here", field="engine")
        return self.runners[stage.start, stage.end]

    async def check(self, verified: Coverage | None = None, whole: bool = False) -> LiveCheck:
        kinds, since = [PROMPT] * self.sent, verified or Coverage(self.shape.layers)
        about = self.transport, self.ring, kinds, self.shape, self.runner_of, since
        return await check_live(*about, whole=whole)

    async def flush(self) -> None:
        """All rows are committed."""

    def spot_checks(self, rate: float, known: dict[str, Standing], chance: float) -> SpotChecks:
        """Checks with a memory of nodes, for whom chance is always the same."""
        return SpotChecks(
            self.transport,
            self.ring,
            self.shape,
            lambda: [PROMPT] * self.sent,
            self.runner_of,
            rate,
            lambda node: known.get(node, Standing()),
            lambda: chance,
        )


@asynccontextmanager
async def talk(
    entry: ModelEntry, runners: Runners, hooks: dict[int, NodeHooks]
) -> AsyncIterator[Talk]:
    async with memory_swarm(entry, CUTS, Residual.FP16, hooks) as swarm:
        ring, ends = await swarm.client().sessions.open(len(IDS), cells=True)
        async with ring:
            yield Talk(ring, ends, entry, runners)


async def test_an_honest_ring_is_verified_chunk_by_chunk(
    tiny: ModelEntry, runners: Runners
) -> None:
    async with talk(tiny, runners, {}) as one:
        await one.say(20)
        assert await one.check() == LiveCheck()
        verified = Coverage(one.shape.layers)
        for rows, expected in ((20, 32), (24, 64), (1, 64), (35, 96)):
            await one.say(rows)
            found = await one.check(verified)
            for stage in found.passed:
                verified.reach(stage, found.rows)
            assert (verified.whole, found.failed) == (expected, {})
            assert all(v.strength is Strength.BITS for v in found.verdicts.values())


async def test_a_text_that_has_ended_is_verified_to_its_last_row(
    tiny: ModelEntry, runners: Runners
) -> None:
    async with talk(tiny, runners, {}) as one:
        verified = Coverage(one.shape.layers)
        for rows, expected in ((20, 20), (7, 27), (10, 37), (33, 70)):  # it goes on after all
            await one.say(rows)
            found = await one.check(verified, whole=True)
            assert (found.rows, found.failed, len(found.passed)) == (expected, {}, 2)
            for stage in found.passed:
                verified.reach(stage, found.rows)
        await one.say(26)
        assert (await one.check(verified)).rows == 96


async def test_accounts_of_unlike_length_are_compared_in_full_chunks(
    tiny: ModelEntry, runners: Runners
) -> None:
    async with talk(tiny, runners, {1: NodeHooks(session=session(Behind))}) as one:
        await one.say(40)
        found = await one.check(whole=True)
        assert (found.rows, found.failed) == (32, {})


@pytest.mark.parametrize("begins", [0, 1])
async def test_nobody_is_blamed_while_the_ring_is_mended(
    tiny: ModelEntry, runners: Runners, monkeypatch: pytest.MonkeyPatch, begins: int
) -> None:
    """Who comes into a ring has no session yet: that it can't show anything is no fault."""
    async with talk(tiny, runners, {1: NodeHooks(session=session(Silent))}) as one:
        await one.say(40)
        looks = chain([False] * begins, repeat(True))
        monkeypatch.setattr(RingSession, "mending", property(lambda ring: next(looks)))
        assert await one.check() == LiveCheck()


async def test_only_rows_that_have_come_back_are_checked(
    tiny: ModelEntry, runners: Runners
) -> None:
    """What the last stage signed can't be compared before it is here."""
    async with talk(tiny, runners, {}) as one:
        await one.say(70)
        await one.say(1)
        late = one.ring.flight.committed[40]
        hashed = one.ring.ledger.received.pop(late)
        found = await one.check()
        assert (found.rows, found.failed) == (32, {})
        one.ring.ledger.received[late] = hashed
        assert (await one.check()).rows == 64


async def test_rows_that_come_during_a_check_are_for_another_time(
    tiny: ModelEntry, runners: Runners
) -> None:
    async with talk(tiny, runners, {}) as one:
        await one.say(100)
        one.sent = 40  # as many as there were when it began
        found = await one.check()
        assert (found.rows, len(found.passed), found.failed) == (32, 2, {})
        assert all(v.outcome is Outcome.ACCEPTED for v in found.verdicts.values())


async def test_who_can_not_check_a_stage_does_not_blame_it(
    tiny: ModelEntry, runners: Runners
) -> None:
    del runners[WINDOWS[1]]
    async with talk(tiny, runners, {}) as one:
        await one.say(40)
        found = await one.check()
        assert (found.passed, found.failed) == (one.ring.route[:1], {})
        said = found.verdicts[one.ring.route[1].node]
        assert (said.outcome, "can't be run here" in said.reason) == (Outcome.INCONCLUSIVE, True)


async def test_newcomers_are_checked_more_often_than_proven_nodes(
    tiny: ModelEntry, runners: Runners
) -> None:
    async with talk(tiny, runners, {}) as one:
        proven, newcomer = (stage.node for stage in one.ring.route)
        checks = one.spot_checks(0.3, {proven: Standing(good=20.0)}, chance=0.5)
        await one.say(70)
        checks.look()
        await checks.settled()
        assert [lesson.node for lesson in checks.lessons] == [newcomer]
        assert checks.verified == 0  # half the work on these rows was looked at
        await checks.finish(one.flush)
        assert [lesson.node for lesson in checks.lessons] == [newcomer]
        checks = one.spot_checks(1.0, {}, chance=0.99)
        await checks.finish(one.flush)
        assert {lesson.node for lesson in checks.lessons} == {proven, newcomer}
        assert all((lesson.good, lesson.bad) == (1.0, 0.0) for lesson in checks.lessons)
        assert checks.verified == 70


@pytest.mark.parametrize(
    ("place", "hooks"),
    [
        (1, hooks_for("noise:0.01", (2, 4))),
        (0, hooks_for("swap-layer", (0, 2))),
        (0, hooks_for("flip-sign", (0, 2))),
        (0, NodeHooks(session=session(TwoFaced))),
        (1, NodeHooks(session=session(TwoFaced))),
        (0, NodeHooks(session=session(Framing))),
        (1, NodeHooks(session=session(Framing))),
        (0, NodeHooks(session=session(Nameless))),
        (1, NodeHooks(session=session(Nameless))),
        (1, NodeHooks(session=session(Silent))),
    ],
)
@pytest.mark.parametrize(("rows", "whole"), [(70, False), (20, True)])
async def test_a_liar_at_work_is_named_and_nothing_of_it_verified(
    tiny: ModelEntry, runners: Runners, place: int, hooks: NodeHooks, rows: int, whole: bool
) -> None:
    async with talk(tiny, runners, {place: hooks}) as one:
        await one.say(rows)
        found = await one.check(whole=whole)
        assert one.ring.route[place] not in found.passed
        assert list(found.failed) == [one.ring.route[place].node]
