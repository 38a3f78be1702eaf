"""Cells opened after an answer: honest stages pass bit for bit, liars are named with the layer."""

import time
from hashlib import sha256

import pytest

from hearthring.client.answer import Answer
from hearthring.client.api import AsyncClient
from hearthring.client.cells import ask_cells, audit_cells, promise_of
from hearthring.protocol.errors import (
    BadOpening,
    BadOption,
    EngineUnavailable,
    HearthringError,
    QuotaExceeded,
    UnknownSession,
)
from hearthring.protocol.limits import LIMITS
from hearthring.protocol.memory import MemoryTransport
from hearthring.protocol.tensors import Residual
from hearthring.shards.cell_runner import EngineCells
from hearthring.shards.engines import load_engine
from hearthring.shards.store import ModelEntry
from hearthring.verify import receipts
from hearthring.verify.draw import Cell
from hearthring.verify.grants import grant
from hearthring.verify.opening import Opening
from hearthring.verify.verdict import Outcome, Strength, Verdict
from tests.liar import hooks_for
from tests.memory_ring import memory_swarm
from tests.stage_peer import until

PROMPT_IDS = list(range(10, 50))
CUTS = (0, 2, 4)
GUILTY = 1


def runner(entry: ModelEntry, engine: str = "torch") -> EngineCells:
    gguf = entry.open()
    shape = gguf.shape
    loaded = load_engine(engine, gguf, (0, shape.layers), Residual.FP16, 1)
    return EngineCells(loaded, shape.kv_heads * shape.head_width)


async def audited(
    client: AsyncClient,
    answer: Answer,
    place: int,
    cells: EngineCells,
    seed: int = 0,
    transport: MemoryTransport | None = None,
    **changes: object,
) -> Verdict:
    proof = answer.proof
    receipt = proof.stages[place].receipt
    assert receipt is not None
    body = receipts.read(receipt)
    shape = (await client.model_entry()).manifest.shape
    beacon = sha256(bytes([seed])).digest()
    where = transport or client.transport()
    args = (where, answer.route[place].address, body, proof.kinds, shape, beacon, cells)
    return await audit_cells(*args, **changes)  # type: ignore[arg-type]


async def test_honest_stages_pass_and_open_once_to_each_who_may_ask(tiny: ModelEntry) -> None:
    cells = runner(tiny)
    async with memory_swarm(tiny, CUTS, Residual.FP16) as swarm:
        client = swarm.client()
        answer = await client.generate(prompt_ids=PROMPT_IDS, max_tokens=30)
        for place in range(2):
            verdict = await audited(client, answer, place, cells)
            assert verdict.outcome is Outcome.ACCEPTED, verdict
            assert verdict.strength is Strength.BITS
            assert verdict.figures["cells_equal"] == verdict.figures["cells"] >= 5
        with pytest.raises(QuotaExceeded):
            await audited(client, answer, 0, cells)
        friend = MemoryTransport(swarm.network)
        with pytest.raises(UnknownSession):
            await audited(client, answer, 0, cells, transport=friend)
        node, who = answer.route[0].node, client.transport().identity
        allowed = grant(who, answer.proof.session, node, friend.identity.node_id)
        verdict = await audited(client, answer, 0, cells, 3, friend, grant=allowed)
        assert verdict.outcome is Outcome.ACCEPTED
        await friend.close()


@pytest.mark.parametrize(
    ("fault", "layers"),
    [
        ("noise:0.01", {3}),
        ("scale:1.01", {3}),
        ("flip-sign", {3}),
        ("replay", {3}),
        ("stale-kv", {2, 3}),
        ("skip-layer:2", {2}),
        ("swap-layer", {2, 3}),
        ("other-weights:8", {2, 3}),
    ],
)
async def test_a_liar_is_named_with_a_layer_it_lied_in(
    tiny: ModelEntry, fault: str, layers: set[int]
) -> None:
    cells = runner(tiny)
    async with memory_swarm(tiny, CUTS, Residual.FP16, {GUILTY: hooks_for(fault, (2, 4))}) as swarm:
        client = swarm.client()
        answer = await client.generate(prompt_ids=PROMPT_IDS, max_tokens=30)
        assert (await audited(client, answer, 0, cells)).outcome is Outcome.ACCEPTED
        verdict = await audited(client, answer, GUILTY, cells)
        assert verdict.outcome is Outcome.REJECTED
        assert [g.node for g in verdict.guilty] == [answer.route[GUILTY].node]
        assert verdict.figures["layer"] in layers
        assert 0 <= verdict.figures["position"] < answer.proof.rows
        assert str(verdict.figures["layer"]) in verdict.reason


async def test_a_session_without_record_is_no_verdict(tiny: ModelEntry) -> None:
    cells = runner(tiny)
    async with memory_swarm(tiny, CUTS, Residual.FP16) as swarm:
        client = swarm.client()
        answer = await client.generate(prompt_ids=PROMPT_IDS, max_tokens=4)
        stage = swarm.nodes[0].stage
        await until(lambda: stage.sessions == 0)  # one that is open shows its own
        stage.archive._kept.clear()
        with pytest.raises(HearthringError):
            await audited(client, answer, 0, cells)


async def test_a_proof_is_audited_by_the_cells_of_every_stage(tiny: ModelEntry) -> None:
    lying = {GUILTY: hooks_for("swap-layer", (2, 4))}
    async with memory_swarm(tiny, CUTS, Residual.FP16, lying) as ring:
        answer = await ring.client().generate(prompt_ids=PROMPT_IDS, max_tokens=20)
        stranger = ring.client()
        verdict = await stranger.audit(answer.proof, depth="cells")
        assert verdict.outcome is Outcome.INCONCLUSIVE
    async with memory_swarm(tiny, CUTS, Residual.FP16, lying) as ring:
        client = ring.client()
        answer = await client.generate(prompt_ids=PROMPT_IDS, max_tokens=20)
        verdict = await client.audit(answer.proof, depth="cells")
        assert verdict.outcome is Outcome.REJECTED
        assert [g.node for g in verdict.guilty] == [answer.route[1].node]
        stages = verdict.figures["cell_stages"]
        assert [stage["verdict"] for stage in stages] == ["accepted", "rejected"]
    async with memory_swarm(tiny, CUTS, Residual.FP16) as ring:
        client = ring.client()
        answer = await client.generate(prompt_ids=PROMPT_IDS, max_tokens=20)
        verdict = await client.audit(answer.proof, depth="cells")
        assert (verdict.outcome, verdict.strength) == (Outcome.ACCEPTED, Strength.BITS)
        again = await client.audit(answer.proof, depth="cells")  # each opens once
        assert again.outcome is Outcome.INCONCLUSIVE
        assert again.figures["withheld"] == [stage.node for stage in answer.route]
        with pytest.raises(BadOption):
            await client.audit(answer.proof, depth="some")
        with pytest.raises(BadOption):
            await client.audit(answer.proof, 3, depth="cells")


async def test_rows_that_were_not_asked_for_are_refused(tiny: ModelEntry) -> None:
    """Of a session that goes on, a stage may have signed more rows than are looked at."""
    async with memory_swarm(tiny, CUTS, Residual.FP16) as swarm:
        client = swarm.client()
        answer = await client.generate(prompt_ids=PROMPT_IDS, max_tokens=30)
        where = client.transport(), answer.route[0].address, answer.route[0].node
        columns = await ask_cells(*where, answer.proof.session, [Cell(0, 60)], 0)
        shape = (await client.model_entry()).manifest.shape
    receipt = answer.proof.stages[0].receipt
    assert receipt is not None
    body, kinds = receipts.read(receipt), answer.proof.kinds
    assert Opening(promise_of(body, kinds, shape), columns).bytes
    with pytest.raises(BadOpening, match="wasn't asked for"):
        Opening(promise_of(body, kinds[:60], shape), columns)


async def test_an_engine_that_fails_here_convicts_no_stage(
    tiny: ModelEntry, monkeypatch: pytest.MonkeyPatch
) -> None:
    cells = runner(tiny)

    def failing(*_: object) -> None:
        raise EngineUnavailable("failed to compute", field="engine")

    monkeypatch.setattr(cells, "run", failing)
    async with memory_swarm(tiny, CUTS, Residual.FP16) as swarm:
        client = swarm.client()
        answer = await client.generate(prompt_ids=PROMPT_IDS, max_tokens=4)
        verdict = await audited(client, answer, 0, cells)
    assert (verdict.outcome, verdict.guilty) == (Outcome.INCONCLUSIVE, ())
    assert "failed to compute" in verdict.reason


async def test_who_opens_nothing_once_the_window_is_over_withholds_nothing(
    tiny: ModelEntry, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with memory_swarm(tiny, CUTS, Residual.FP16) as swarm:
        client = swarm.client()
        answer = await client.generate(prompt_ids=PROMPT_IDS, max_tokens=4)
        for node in swarm.nodes:
            await until(lambda: node.stage.sessions == 0)  # noqa: B023
            node.stage.archive._kept.clear()
        later = answer.proof.created_ms / 1000 + LIMITS.audit_window + 1
        for now, withheld in ((time.time(), [s.node for s in answer.route]), (later, None)):
            monkeypatch.setattr("hearthring.client.cell_audit.time.time", lambda now=now: now)
            verdict = await client.audit(answer.proof, depth="cells")
            assert verdict.outcome is Outcome.INCONCLUSIVE
            assert verdict.figures.get("withheld") == withheld
        assert "window is over" in verdict.reason


async def test_an_engine_that_is_not_here_makes_no_stage_withhold(
    tiny: ModelEntry, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(*_: object) -> None:
        raise EngineUnavailable("torch isn't here", field="engine")

    async with memory_swarm(tiny, CUTS, Residual.FP16) as swarm:
        client = swarm.client()
        answer = await client.generate(prompt_ids=PROMPT_IDS, max_tokens=4)
        monkeypatch.setattr("hearthring.client.cell_audit.load_cells", missing)
        verdict = await client.audit(answer.proof, depth="cells")
    assert (verdict.outcome, "withheld" in verdict.figures) == (Outcome.INCONCLUSIVE, False)
    assert "can't be run here" in verdict.reason
