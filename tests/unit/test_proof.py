"""Proofs of tiny rings: honest ones are accepted, liars are named, altered ones are refused."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from hearthring.client.auditing import audit_offline
from hearthring.client.replay import EngineReplayer
from hearthring.protocol.errors import (
    BadModelFile,
    DeadlineExceeded,
    EngineUnavailable,
    HearthringError,
)
from hearthring.protocol.identity import Identity
from hearthring.protocol.tensors import Residual
from hearthring.shards.store import ModelEntry
from hearthring.verify import receipts
from hearthring.verify.audit import audit
from hearthring.verify.proof import Proof, StageProof, sign
from hearthring.verify.verdict import Guilty, Outcome, Strength
from tests.liar import hooks_for
from tests.memory_ring import memory_swarm
from tests.proofs import CUTS, PROMPT_IDS, prove

LOCATED = (
    "noise:0.02",
    "scale:1.01",
    "flip-sign",
    "replay",
    "stale-kv",
    "skip-layer",
    "swap-layer",
    "other-weights:7",
    "forge-receipt",
)


@pytest.mark.parametrize("options", [{}, {"temperature": 1.0, "top_p": 0.9, "seed": 4}])
async def test_an_honest_proof_is_accepted_bit_for_bit(
    tiny: ModelEntry, tmp_path: Path, options: dict[str, float]
) -> None:
    proof = await prove(tiny, **options)
    saved = Proof.load(proof.save(tmp_path / "x.proof"))
    assert saved == proof
    verdict = audit_offline(saved, 1)
    assert (verdict.outcome, verdict.strength) == (Outcome.ACCEPTED, Strength.BITS)
    assert verdict.figures["rows"] == 69
    assert [s["chunks_equal"] for s in verdict.figures["stages"]] == [3, 3, 3]
    assert verdict.figures["tokens_checked"] == 20
    assert saved.as_json()["stages"][1]["receipt"]["rows"] == 69
    assert [path.name for path in tmp_path.iterdir() if path.suffix] == ["x.proof"]


@pytest.mark.parametrize(
    ("fault", "place"),
    # Only the stage in the middle has two layers to swap.
    [(f, place) for f in LOCATED for place in range(3) if f != "swap-layer" or place == 1],
)
async def test_a_liar_is_named_wherever_it_stands(tiny: ModelEntry, fault: str, place: int) -> None:
    windows = list(pairwise(CUTS))
    hooks = {place: hooks_for(fault, windows[place])}
    async with memory_swarm(tiny, CUTS, hooks=hooks) as swarm:
        answer = await swarm.client().generate(prompt_ids=PROMPT_IDS, max_tokens=20)
        node = swarm.nodes[place].node_id
    verdict = audit_offline(answer.proof, 1)
    assert verdict.outcome is Outcome.REJECTED
    assert verdict.guilty == (Guilty(node, *windows[place]),)


@pytest.mark.parametrize(
    ("fault", "place", "error"),
    [
        ("nan", 1, "NonFinite"),
        ("nan", 2, "NonFinite"),
        ("wrong-epoch", 1, "BadSignature"),
        ("wrong-epoch", 2, "BadSignature"),
        ("wrong-class", 1, "BadSignature"),
    ],
)
async def test_rows_that_can_not_be_are_refused_by_who_gets_them(
    tiny: ModelEntry, fault: str, place: int, error: str
) -> None:
    with pytest.raises(HearthringError, match=error):
        await prove(tiny, fault, place, patience=0.5)


async def test_a_withheld_receipt_is_said(
    tiny: ModelEntry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hearthring.client.closing.RECEIPT_SECONDS", 0.3)
    proof = await prove(tiny, "withhold")
    verdict = audit_offline(proof, 1)
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert verdict.figures["withheld"] == [proof.stages[1].node]
    assert verdict.guilty == ()


async def test_a_proof_resigned_by_somebody_else_is_rejected(tiny: ModelEntry) -> None:
    proof, thief = await prove(tiny), Identity.new()
    stolen = sign(replace(proof, client=thief.node_id, _file=b""), thief)
    verdict = audit_offline(stolen, 1)
    assert verdict.outcome is Outcome.REJECTED
    assert "another client" in verdict.reason


async def test_a_client_that_edits_its_own_proof_is_caught(tiny: ModelEntry) -> None:
    proof, who = await _own_proof(tiny)

    def edited(**changes: object) -> Proof:
        return sign(replace(proof, _file=b"", **changes), who)  # type: ignore[arg-type]

    ids = proof.token_ids
    other_last = (*ids[:-1], (ids[-1] + 1) % 290)
    other_prompt = (ids[0] + 1, *ids[1:])
    first = proof.stages[0]
    without = StageProof(first.node, first.start, first.end, None)
    cases = (
        (edited(token_ids=other_last), Outcome.REJECTED, "sampling rule"),
        (edited(token_ids=other_prompt), Outcome.REJECTED, "embeddings"),
        (edited(token_ids=ids[:-1]), Outcome.REJECTED, "row ids"),
        (edited(nonce=bytes(32)), Outcome.REJECTED, "nonce_hash"),
        (edited(session=bytes(16)), Outcome.REJECTED, "session"),
        (edited(model_id="0" * 64), Outcome.INCONCLUSIVE, "isn't on this machine"),
        (edited(residual="fp16"), Outcome.REJECTED, "residual"),
        (edited(residual="fp8"), Outcome.REJECTED, "residual type"),
        (edited(stages=proof.stages[1:]), Outcome.REJECTED, "no stage begins at layer 0"),
        (edited(stages=proof.stages[:-1]), Outcome.REJECTED, "ends at layer"),
        (edited(stages=()), Outcome.REJECTED, "no stage"),
        (edited(stages=(without, *proof.stages[1:])), Outcome.INCONCLUSIVE, "no receipt"),
        (edited(in_roots=proof.out_roots), Outcome.REJECTED, "can't show"),
        (edited(out_roots=proof.in_roots), Outcome.INCONCLUSIVE, "can't show"),
        (edited(row_ids=proof.row_ids[::-1]), Outcome.REJECTED, "row ids"),
        (edited(sampling_rule="coin"), Outcome.INCONCLUSIVE, "sampling rule"),
        (edited(digests=(bytes(258),) * 3), Outcome.REJECTED, "digest"),
    )
    for changed, outcome, reason in cases:
        verdict = audit_offline(changed, 1)
        assert (verdict.outcome, reason in verdict.reason) == (outcome, True), verdict


async def _own_proof(tiny: ModelEntry) -> tuple[Proof, Identity]:
    async with memory_swarm(tiny, CUTS) as swarm:
        client = swarm.client()
        answer = await client.generate(prompt_ids=PROMPT_IDS, max_tokens=20)
        who = client.transport().identity
    return answer.proof, who


async def test_receipts_of_other_sessions_do_not_fit(tiny: ModelEntry) -> None:
    async with memory_swarm(tiny, CUTS) as swarm:
        client = swarm.client()
        one = (await client.generate(prompt_ids=PROMPT_IDS, max_tokens=4)).proof
        two = (await client.generate(prompt_ids=PROMPT_IDS, max_tokens=4)).proof
        who = client.transport().identity
    mixed = sign(replace(one, stages=(one.stages[0], two.stages[1], one.stages[2])), who)
    verdict = audit_offline(mixed, 1)
    assert verdict.outcome is Outcome.REJECTED
    assert "another session" in verdict.reason
    late = one.stages[1].receipt
    assert late is not None
    body = replace(receipts.read(late), epoch=1)  # its session hasn't got that far
    other = receipts.sign(body, swarm.nodes[1].transport.identity)
    stages = (one.stages[0], replace(one.stages[1], receipt=other), one.stages[2])
    verdict = audit_offline(sign(replace(one, stages=stages), who), 1)
    assert (verdict.outcome, verdict.guilty) == (Outcome.REJECTED, ())
    assert "epochs" in verdict.reason


async def test_two_equal_computations_have_equal_roots_and_digests(tiny: ModelEntry) -> None:
    one, two = await prove(tiny), await prove(tiny)
    assert one.session != two.session
    assert (one.in_roots, one.out_roots) == (two.in_roots, two.out_roots)
    bodies = [[receipts.read(s.receipt) for s in p.stages if s.receipt] for p in (one, two)]
    for mine, theirs in zip(*bodies, strict=True):
        assert (mine.out_roots, mine.digests) == (theirs.out_roots, theirs.digests)


async def test_a_class_s_name_with_another_fingerprint_is_said_and_convicts_nobody(
    tiny: ModelEntry,
) -> None:
    async with memory_swarm(tiny, CUTS) as swarm:
        client = swarm.client()
        proof = (await client.generate(prompt_ids=PROMPT_IDS, max_tokens=4)).proof
        keys = [node.transport.identity for node in swarm.nodes]
        who = client.transport().identity
    changed = {1: {"fingerprint": "ab" * 32}, 2: {"previous_fingerprint": "ab" * 32}}
    stages = list(proof.stages)
    for place, fields in changed.items():
        receipt = stages[place].receipt
        assert receipt is not None
        body = replace(receipts.read(receipt), **fields)
        stages[place] = replace(stages[place], receipt=receipts.sign(body, keys[place]))
    verdict = audit_offline(sign(replace(proof, stages=tuple(stages)), who), 1)
    assert (verdict.outcome, verdict.strength) == (Outcome.ACCEPTED, Strength.TOLERANCE)
    assert verdict.figures["misnamed"] == [stages[1].node]
    assert stages[1].node in verdict.reason
    assert "misnamed" not in audit_offline(proof, 1).figures


async def test_who_names_another_class_for_what_it_took_frames_nobody(tiny: ModelEntry) -> None:
    """Rows that the stage before opens would not be those that this one signed it took."""
    async with memory_swarm(tiny, CUTS) as swarm:
        client = swarm.client()
        proof = (await client.generate(prompt_ids=PROMPT_IDS, max_tokens=4)).proof
        keys = [node.transport.identity for node in swarm.nodes]
        who = client.transport().identity
    liar = proof.stages[1]
    assert liar.receipt is not None
    body = replace(receipts.read(liar.receipt), previous_fingerprint="ab" * 32)
    signed = replace(liar, receipt=receipts.sign(body, keys[1]))
    stages = (proof.stages[0], signed, proof.stages[2])
    verdict = audit_offline(sign(replace(proof, stages=stages), who), 1)
    assert (verdict.outcome, verdict.guilty) == (Outcome.REJECTED, ())
    assert f"{liar.node} has another previous_fingerprint" in verdict.reason


async def test_between_classes_digests_decide_and_nobody_is_named(tiny: ModelEntry) -> None:
    """A replayer of another class accepts honest work and rejects a gross lie, without a name."""

    class Elsewhere(EngineReplayer):
        def __init__(self) -> None:
            super().__init__(tiny.open(), Residual.FP32, 1)
            self.fingerprint = "f" * 64

    verdict = audit(await prove(tiny), 4, Elsewhere())
    assert (verdict.outcome, verdict.strength) == (Outcome.ACCEPTED, Strength.TOLERANCE)
    verdict = audit(await prove(tiny, "skip-layer"), 4, Elsewhere())
    assert (verdict.outcome, verdict.guilty) == (Outcome.REJECTED, ())
    assert verdict.figures["suspects"]


@pytest.mark.parametrize("trouble", [DeadlineExceeded, EngineUnavailable, BadModelFile])
async def test_an_auditor_s_own_trouble_speaks_against_nobody(
    tiny: ModelEntry, trouble: type[HearthringError]
) -> None:
    breaths = 0

    def breathe() -> None:
        nonlocal breaths
        breaths += 1
        if breaths > 3:
            raise trouble("enough")

    replayer = EngineReplayer(tiny.open(), Residual.FP32, 1, breathe=breathe)
    verdict = audit(await prove(tiny), 4, replayer)
    assert (verdict.outcome, verdict.guilty) == (Outcome.INCONCLUSIVE, ())
    assert "enough" in verdict.reason


async def test_ids_that_no_model_has_are_rejected(tiny: ModelEntry) -> None:
    proof, who = await _own_proof(tiny)
    ids = (*proof.token_ids[:3], 1 << 20, *proof.token_ids[4:])
    verdict = audit_offline(sign(replace(proof, token_ids=ids, _file=b""), who), 1)
    assert verdict.outcome is Outcome.REJECTED
    assert "can't be run" in verdict.reason
