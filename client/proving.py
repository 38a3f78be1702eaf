"""Closing a session with a proof: receipts from every stage, the client's own half, a signature."""

import numpy as np

from hearthring.client.closing import evidence, finish
from hearthring.client.generation import Generation
from hearthring.client.sampler import Sampling
from hearthring.protocol.errors import HearthringError
from hearthring.protocol.identity import Identity
from hearthring.protocol.messages import Evidence, Receipt
from hearthring.protocol.tensors import F32, bf16_bits
from hearthring.shards.ends import Ends
from hearthring.verify import receipts
from hearthring.verify.digest import digests
from hearthring.verify.proof import (
    DRAFTED_RULES,
    SAMPLING_RULE,
    Proof,
    ProofSampling,
    StageProof,
    sign,
)
from hearthring.verify.rowhash import CHUNK, chunk_roots


async def prove(generation: Generation, model_id: str, model_name: str, who: Identity) -> Proof:
    """Collect receipts, and where neighbours' accounts differ their evidence, and sign it all.

    A stage that withholds its receipt, or sends one that isn't its own, is in the proof without
    one: the answer is kept, and the audit says who is missing.
    """
    ring, ends = generation.ring, generation.ends
    collected = await finish(ring, generation.uncommitted)
    ids = [row.id for row in generation.rows]
    in_roots = _roots(ring.ledger.sent, ids)
    out_roots = _roots(ring.ledger.received, ids)
    read = [_read(r, s.node) for r, s in zip(collected, ring.route, strict=True)]
    stages: list[StageProof] = []
    sent: tuple[bytes, ...] | None = in_roots
    for place, stage in enumerate(ring.route):
        receipt, body = collected[place], read[place]
        received: Evidence | None = None
        if body is not None and sent is not None and body.in_roots != sent:
            received = await evidence(ring, place)
        stages.append(
            StageProof(stage.node, stage.start, stage.end, receipt if body else None, received)
        )
        sent = body.out_roots if body is not None else None
    disputed = sent is not None and sent != out_roots
    return sign(
        Proof(
            client=who.node_id,
            session=ring.session,
            nonce=ring.nonce,
            model_id=model_id,
            model_name=model_name,
            residual=str(ring.row_type),
            numerics=ends.numerics.name,
            fingerprint=ends.numerics.fingerprint,
            token_ids=tuple(generation.token_ids),
            prompt_tokens=generation.prompt_tokens,
            sampling=proof_sampling(generation.sampling),
            sampling_rule=sampling_rule(generation.sampling, generation.speculation.rule.name),
            stages=tuple(stages),
            in_roots=in_roots,
            out_roots=out_roots,
            digests=tuple(await generation.heads.run(_digests, ends, generation.final)),
            row_ids=tuple(ids),
            class_from=max(generation.class_changes, default=0),
            candidates=ring.candidates,
            received=Evidence(tuple(ring.ledger.signed)) if disputed else None,
        ),
        who,
    )


def sampling_rule(sampling: Sampling, acceptance: str) -> str:
    """The rule's name in a proof; at temperature 0 all of them choose alike."""
    return DRAFTED_RULES.get(acceptance, SAMPLING_RULE) if sampling.temperature else SAMPLING_RULE


def proof_sampling(sampling: Sampling) -> ProofSampling:
    """Sampling as a proof keeps it."""
    return ProofSampling(
        sampling.temperature,
        sampling.top_k,
        sampling.top_p,
        sampling.min_p,
        sampling.repetition_penalty,
        sampling.seed or 0,
    )


def _roots(hashes: dict[int, bytes], ids: list[int]) -> tuple[bytes, ...]:
    return tuple(chunk_roots(range(len(ids)), [hashes[row] for row in ids]))


def _read(receipt: Receipt | None, node: str) -> receipts.ReceiptBody | None:
    """A receipt's body, if it is the stage's own."""
    try:
        body = receipts.read(receipt) if receipt is not None else None
    except HearthringError:
        return None
    return body if body is not None and body.node == node else None


def _digests(ends: Ends, final: list[F32]) -> list[bytes]:
    normed = ends.norm(np.stack(final))
    return digests([bf16_bits(normed[at : at + CHUNK]) for at in range(0, len(normed), CHUNK)])
