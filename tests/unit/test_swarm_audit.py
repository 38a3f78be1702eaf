"""Audits by verifiers of a swarm: what they find, and what liars among them change."""

import asyncio
import threading
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import pytest

from hearthring.client.api import AsyncClient
from hearthring.client.auditing import OfflineJudge
from hearthring.node.archive import Record
from hearthring.node.config import NodeHooks
from hearthring.node.stage_session import StageSession
from hearthring.protocol.errors import BadOption, HearthringError, QuotaExceeded, UnknownSession
from hearthring.protocol.opening import ask_rows
from hearthring.protocol.transport import Method
from hearthring.protocol.verifying import VerifyQuery, decode_verify_down, encode_verify_up
from hearthring.shards.store import ModelEntry
from hearthring.verify.evidence_store import Reputation
from hearthring.verify.grants import grant
from hearthring.verify.proof import Proof, read
from hearthring.verify.reputation import Standing
from hearthring.verify.verdict import Guilty, Outcome, Strength, Verdict, inconclusive, rejected
from tests.liar import hooks_for, session
from tests.memory_ring import MemoryNode, MemorySwarm, memory_swarm

CUTS = (0, 1, 3, 4)
WINDOWS = list(pairwise(CUTS))
PROMPT = {"prompt_ids": list(range(10, 50)), "max_tokens": 6}


@dataclass
class LyingJudge(OfflineJudge):
    """A verifier that says what it likes."""

    says: Callable[[Proof], Verdict]

    def whole(self, proof: Proof, model: Any, breathe: Any) -> tuple[Verdict, str]:
        return self.says(proof), "f" * 64


def slander(proof: Proof) -> Verdict:
    stage = proof.stages[0]
    guilty = Guilty(stage.node, stage.start, stage.end)
    return rejected("it lied", guilty, strength=Strength.BITS)


def praise(proof: Proof) -> Verdict:
    return Verdict(Outcome.ACCEPTED, "fine", (), Strength.BITS)


@asynccontextmanager
async def audited(
    tiny: ModelEntry,
    hooks: dict[int, NodeHooks] | None = None,
    judges: Sequence[Any] = (None, None, None),
):
    """A ring with verifiers that no route goes through, and a proof of it."""
    async with memory_swarm(tiny, CUTS, hooks=hooks) as swarm:
        for judge in judges:
            await swarm.node((0, 4), row_seconds=1.0, judge=judge)
        client = swarm.client()
        proof = (await client.generate(**PROMPT)).proof  # type: ignore[arg-type]
        assert len(proof.stages) == 3
        yield swarm, client, proof


async def test_three_verifiers_accept_an_honest_answer(tiny: ModelEntry) -> None:
    async with audited(tiny) as (swarm, client, proof):
        verdict = await client.audit(proof, verifiers=3)
        assert (verdict.outcome, verdict.strength) == (Outcome.ACCEPTED, Strength.BITS)
        said = {one["verifier"] for one in verdict.figures["verifiers"]}
        assert said == {node.node_id for node in swarm.nodes[3:]}
        assert verdict.figures["accepting"] == 3
        with pytest.raises(BadOption):
            await client.audit(proof, verifiers=2)


@pytest.mark.parametrize("place", [0, 1, 2])
async def test_a_liar_is_named_by_majority(tiny: ModelEntry, place: int) -> None:
    hooks = {place: hooks_for("noise:0.05", WINDOWS[place])}
    async with audited(tiny, hooks) as (swarm, client, proof):
        verdict = await client.audit(proof, verifiers=3)
        assert verdict.outcome is Outcome.REJECTED
        assert verdict.guilty == (Guilty(swarm.nodes[place].node_id, *WINDOWS[place]),)
        assert verdict.figures["rejecting"] == 3


async def test_one_lying_verifier_of_three_changes_nothing(tiny: ModelEntry) -> None:
    async with audited(tiny, judges=(None, LyingJudge(slander), None)) as (swarm, client, proof):
        verdict = await client.audit(proof, verifiers=3)
        assert (verdict.outcome, verdict.guilty) == (Outcome.ACCEPTED, ())
        assert verdict.figures["dissenters"] == [swarm.nodes[4].node_id]
    hooks = {1: hooks_for("skip-layer", WINDOWS[1])}
    judges = (None, LyingJudge(praise), None)
    async with audited(tiny, hooks, judges) as (swarm, client, proof):
        verdict = await client.audit(proof, verifiers=3)
        assert verdict.guilty == (Guilty(swarm.nodes[1].node_id, *WINDOWS[1]),)
        assert verdict.figures["dissenters"] == [swarm.nodes[4].node_id]


async def test_a_split_draws_more(tiny: ModelEntry) -> None:
    """Two say nothing, one slanders: others are asked until three of five agree."""

    def unsure(proof: Proof) -> Verdict:
        return inconclusive("can't")

    judges = [LyingJudge(unsure), LyingJudge(unsure), LyingJudge(slander), None, None, None]
    async with audited(tiny, judges=judges) as (_, client, proof):
        verdict = await client.audit(proof, verifiers=3)
        assert (verdict.outcome, verdict.guilty) == (Outcome.ACCEPTED, ())


async def test_fewer_than_asked_is_inconclusive_with_the_number(tiny: ModelEntry) -> None:
    async with audited(tiny, judges=(None, None)) as (swarm, client, proof):
        verdict = await client.audit(proof, verifiers=3)
        assert verdict.outcome is Outcome.INCONCLUSIVE
        assert verdict.figures == {"eligible": 2, "asked": 3}
        assert (await client.audit(proof, verifiers=1)).outcome is Outcome.ACCEPTED
        await swarm.kill(swarm.nodes[3])
        await swarm.kill(swarm.nodes[4])
        verdict = await client.audit(proof, verifiers=1)
        assert verdict.outcome is Outcome.INCONCLUSIVE
        assert verdict.reason.startswith("0 verifiers answered")
        assert len(verdict.figures["silent"]) == 2


async def test_a_verdict_on_another_proof_counts_nothing(tiny: ModelEntry) -> None:
    """A verifier that hands out an old verdict is as good as silent."""
    async with audited(tiny, judges=(None,)) as (swarm, client, proof):
        other = (await client.generate(**PROMPT)).proof  # type: ignore[arg-type]
        verifier = swarm.nodes[3]
        old = await _verdict(client, verifier, proof)

        async def replayed(stream: Any) -> None:
            await stream.receive()
            await stream.send(old)

        verifier.transport._handlers[Method.VERIFY] = replayed
        verdict = await client.audit(other, verifiers=1)
        assert verdict.outcome is Outcome.INCONCLUSIVE
        assert "something else" in verdict.figures["silent"][verifier.node_id]
        assert (await client.audit(proof, verifiers=1)).outcome is Outcome.ACCEPTED


async def _verdict(client: AsyncClient, node: MemoryNode, proof: Proof) -> bytes:
    stream = await client.transport().dial(node.invitation.address, node.node_id, Method.VERIFY)
    await stream.send(encode_verify_up(VerifyQuery(proof.file)))
    while (data := await stream.receive()) is not None:
        if type(decode_verify_down(data)).__name__ == "SignedVerdict":
            await stream.close()
            return data
    raise AssertionError("no verdict")


async def test_a_node_of_the_route_judges_nobody(tiny: ModelEntry) -> None:
    async with audited(tiny, judges=()) as (swarm, client, proof):
        with pytest.raises(HearthringError, match="his own"):
            await _verdict(client, swarm.nodes[1], proof)


async def test_a_proof_is_read_beside_the_loop_and_one_of_each_peer_at_a_time(
    tiny: ModelEntry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A proof has a signature of every stage: checking them holds nobody up."""
    reading, go_on = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def slow(data: bytes) -> Proof:
        loop.call_soon_threadsafe(reading.set)
        assert go_on.wait(20)
        return read(data)

    async with audited(tiny, judges=(None,)) as (swarm, client, proof):
        monkeypatch.setattr("hearthring.node.verifier.read", slow)
        first = asyncio.create_task(_verdict(client, swarm.nodes[3], proof))
        async with asyncio.timeout(20):
            await reading.wait()
        with pytest.raises(QuotaExceeded):
            await _verdict(client, swarm.nodes[3], proof)
        go_on.set()
        assert await first
        assert await _verdict(client, swarm.nodes[3], proof)


# -- openings and stage replays ------------------------------------------------------------------


async def test_records_open_once_to_the_client_and_to_whom_it_lets(tiny: ModelEntry) -> None:
    async with audited(tiny, judges=()) as (swarm, client, proof):
        stranger, friend = swarm.client(), swarm.client()
        node = swarm.nodes[0]
        start = proof.stages[0].start
        where = node.invitation.address, node.node_id, proof.session, start, 1 << 20
        mine = await ask_rows(client.transport(), *where)
        assert len(mine) == proof.rows * 64 * 4
        with pytest.raises(QuotaExceeded):
            await ask_rows(client.transport(), *where)
        with pytest.raises(UnknownSession):
            await ask_rows(stranger.transport(), *where)
        who, held = client.transport().identity, friend.transport().identity.node_id
        given = grant(who, proof.session, node.node_id, held)
        with pytest.raises(HearthringError, match="something else"):
            await ask_rows(stranger.transport(), *where, given)
        forged = grant(stranger.transport().identity, proof.session, node.node_id, held)
        with pytest.raises(HearthringError, match="signature"):
            await ask_rows(friend.transport(), *where, forged)
        assert await ask_rows(friend.transport(), *where, given) == mine


@pytest.mark.parametrize("fault", ["", "noise:0.5", "flip-sign"])
@pytest.mark.parametrize("place", [0, 1, 2])
async def test_between_classes_stages_are_judged_by_all_channels(
    tiny: ModelEntry, place: int, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Verifiers whose class isn't the route's: the replay of the recorded input names the liar."""
    monkeypatch.setattr("hearthring.client.window_replay.WindowReplayer.fingerprint", "e" * 64)
    hooks = {place: hooks_for(fault, WINDOWS[place])} if fault else None
    async with audited(tiny, hooks, judges=(None,)) as (swarm, client, proof):
        verdict = await client.audit(proof, verifiers=1)
        assert verdict.strength is Strength.TOLERANCE
        if fault:
            assert verdict.guilty == (Guilty(swarm.nodes[place].node_id, *WINDOWS[place]),)
        else:
            assert verdict.outcome is Outcome.ACCEPTED


class Withholding(StageSession):
    """Keeps no record of what it sent."""

    def record(self) -> Record | None:
        return None


class Inventing(StageSession):
    """Opens other rows than it sent."""

    def record(self) -> Record | None:
        honest = super().record()
        assert honest is not None
        return replace(honest, wire=honest.wire[::-1])


@pytest.mark.parametrize("kind", [Withholding, Inventing])
async def test_who_opens_nothing_or_something_else_is_named_but_not_guilty(
    tiny: ModelEntry, kind: type[StageSession], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hearthring.client.window_replay.WindowReplayer.fingerprint", "e" * 64)
    hooks = {
        0: NodeHooks(session=session(kind)),
        1: hooks_for("noise:0.5", WINDOWS[1]),
    }
    async with audited(tiny, hooks, judges=(None,)) as (swarm, client, proof):
        verdict = await client.audit(proof, verifiers=1)
        assert (verdict.outcome, verdict.guilty) == (Outcome.REJECTED, ())
        assert verdict.figures["withheld"] == [swarm.nodes[0].node_id]


async def test_closing_a_swarm_ends_its_jobs(tiny: ModelEntry) -> None:
    async with AsyncExitStack() as stack:
        swarm = await stack.enter_async_context(memory_swarm(tiny, CUTS))
        assert isinstance(swarm, MemorySwarm)
        await swarm.node((0, 4), row_seconds=1.0)
        client = swarm.client()
        proof = (await client.generate(**PROMPT)).proof  # type: ignore[arg-type]
        node = swarm.nodes[3]
        stream = await client.transport().dial(node.invitation.address, node.node_id, Method.VERIFY)
        await stream.send(encode_verify_up(VerifyQuery(proof.file)))
        await stream.receive()  # at work
    assert asyncio.all_tasks() == {asyncio.current_task()}


# -- what is remembered --------------------------------------------------------------------------


async def test_audits_move_standings_and_routes_go_by_them(tiny: ModelEntry) -> None:
    """The liar isn't used again; the honest keep their standing, whoever slanders them."""
    hooks = {1: hooks_for("skip-layer", WINDOWS[1])}
    async with audited(tiny, hooks, judges=(None, LyingJudge(slander), None)) as (swarm, client, _):
        client.swarm.reputation = memory = Reputation()
        proof = (await client.generate(**PROMPT)).proof  # type: ignore[arg-type]
        assert (await client.audit(proof, verifiers=3)).outcome is Outcome.REJECTED
        liar, honest, slanderer = (swarm.nodes[place].node_id for place in (1, 0, 4))
        newcomer = Standing().weight
        assert (memory(liar), memory(honest)) == (0.0, newcomer)
        assert memory(slanderer) < newcomer
        answer = await client.generate(**PROMPT)  # type: ignore[arg-type]
        assert liar not in {stage.node for stage in answer.route}
        for _ in range(2):
            assert (await client.audit(answer.proof)).outcome is Outcome.ACCEPTED
        assert memory(answer.route[0].node) > newcomer
        assert memory.standing(answer.route[0].node).good == pytest.approx(1.0, 1e-3)


async def test_a_hidden_text_leaves_the_stages_behind_the_first_to_judge(tiny: ModelEntry) -> None:
    hooks = {2: hooks_for("noise:0.05", WINDOWS[2])}
    async with audited(tiny, hooks, judges=(None,)) as (swarm, client, proof):
        verdict = await client.audit(proof.hidden(), verifiers=1)
        assert verdict.guilty == (Guilty(swarm.nodes[2].node_id, *WINDOWS[2]),)
    async with audited(tiny, judges=(None,)) as (_, client, proof):
        verdict = await client.audit(proof.hidden(), verifiers=1)
        assert verdict.outcome is Outcome.INCONCLUSIVE
        said = [one["verdict"] for one in verdict.figures["verifiers"]]
        assert said == ["accepted", "accepted"]


@pytest.mark.parametrize("fault", ["", "scale:1.01"])
async def test_stages_are_judged_from_what_they_were_sent(tiny: ModelEntry, fault: str) -> None:
    """A liar that hardly lies, found by bits; and verifiers that never see the first layers."""
    hooks = {1: hooks_for(fault, WINDOWS[1])} if fault else None
    async with audited(tiny, hooks) as (swarm, client, proof):
        verdict = await client.audit(proof, verifiers=3, depth="stage")
        assert verdict.strength is Strength.BITS
        if fault:
            assert verdict.guilty == (Guilty(swarm.nodes[1].node_id, *WINDOWS[1]),)
        else:
            assert verdict.outcome is Outcome.ACCEPTED
            assert len(verdict.figures["verifiers"]) == 9
        with pytest.raises(BadOption):
            await client.audit(proof, verifiers=3, depth="deep")
