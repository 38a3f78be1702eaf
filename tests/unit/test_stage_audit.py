"""Verifiers that judge single stages, from records that these open."""

from dataclasses import replace

import pytest

from hearthring.node.archive import Record
from hearthring.node.config import NodeHooks
from hearthring.node.stage_session import StageSession
from hearthring.protocol.errors import BadOption, HearthringError, QuotaExceeded, UnknownSession
from hearthring.protocol.opening import ask_rows
from hearthring.shards.store import ModelEntry
from hearthring.verify.grants import grant
from hearthring.verify.verdict import Guilty, Outcome, Strength
from tests.juries import WINDOWS, audited
from tests.liar import hooks_for, session


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
