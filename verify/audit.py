"""Auditing a proof by replaying it.

Within the numerics class of the route an honest replay differs by not one bit, so row hashes
convict: chunk by chunk, the first stage whose signed output isn't what its (matching) input gives
is guilty, and what comes after it accuses nobody. In another class rounding differs, so the
replay is compared with the stages' TOPLOC digests within a tolerance; that can accept or reject an
answer, but never names a stage.

Replaying needs weights, which this package knows nothing of: they come as a ``Replayer``.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from hearthring.protocol.errors import BadProof, HearthringError, ProtocolError, UsageError
from hearthring.protocol.row_type import RowType
from hearthring.protocol.tensors import F32, bf16_bits
from hearthring.verify import consistency
from hearthring.verify.digest import Comparison, compare_all
from hearthring.verify.proof import SAMPLING_RULE, Proof
from hearthring.verify.receipts import ReceiptBody
from hearthring.verify.rowhash import CHUNK, chunk_roots, row_hashes
from hearthring.verify.tolerance import GENERIC, NOTHING, Calibration, Tolerance
from hearthring.verify.verdict import (
    INT8_BETWEEN_CLASSES,
    Guilty,
    Outcome,
    Strength,
    Verdict,
    inconclusive,
    rejected,
)

Progress = Callable[[str, int, int], None]


class Replayer(Protocol):
    """Own weights of the proof's model, in the route's residual type."""

    @property
    def numerics(self) -> str:
        """Class of the engine, by name."""

    @property
    def fingerprint(self) -> str:
        """The same, as it counts."""

    ends_fingerprint: str
    """Class of embedding, norm and head."""

    def embed(self, token_ids: Sequence[int]) -> F32:
        """Rows at boundary 0, ``[tokens, width]``."""

    def run(self, start: int, end: int, states: F32, kinds: Sequence[int]) -> F32:
        """Replay layers ``[start, end)`` over a whole sequence of rows of these kinds."""

    def norm(self, states: F32) -> F32:
        """The final norm."""

    def choose(self, proof: Proof, row: int, state: F32) -> tuple[int, float]:
        """The token that follows ``row``, and by how much its score exceeds the proof's token."""


@dataclass(frozen=True, slots=True)
class _Boundary:
    """One stage's output replayed: roots in its class, and bf16 patterns for digests."""

    roots: tuple[bytes, ...]
    comparison: Comparison


def audit(
    proof: Proof,
    layers: int,
    replayer: Replayer,
    progress: Progress = lambda *_: None,
    calibration: Calibration = NOTHING,
) -> Verdict:
    """Replay a proof with own weights. The verdict always comes with its figures.

    ``calibration`` says what another class may differ by; it is not asked within the class. A
    replay that ends for want of time, memory or an engine makes the verdict inconclusive.
    """
    if verdict := consistency.contradiction(proof, layers):
        return verdict
    if proof.is_hidden:
        return inconclusive("its text is hidden: only who knows it can reveal it and replay it")
    try:
        return _replay(proof, replayer, progress, calibration)
    except (UsageError, ProtocolError) as error:
        return rejected(f"what the proof says can't be run: {error}")
    except HearthringError as error:  # this machine's own trouble speaks against nobody
        return inconclusive(f"this machine can't replay it: {error}")


def _replay(
    proof: Proof, replayer: Replayer, progress: Progress, calibration: Calibration
) -> Verdict:
    bodies = [body for body in consistency.bodies_of(proof) if body is not None]
    same = proof.fingerprint == replayer.ends_fingerprint and all(
        body.fingerprint == replayer.fingerprint for body in bodies
    )
    strength = Strength.BITS if same else Strength.TOLERANCE
    figures: dict[str, Any] = {"rows": proof.rows, "chunks": len(proof.in_roots), "stages": []}
    unlike = consistency.misnamed(bodies, replayer.numerics, replayer.fingerprint)
    if unlike:
        figures["misnamed"] = unlike
    kinds, rows = proof.kinds, RowType.parse(proof.residual)
    if rows.int8 and not same:
        return inconclusive(INT8_BETWEEN_CLASSES, **figures)
    wire, states = _sent(rows, replayer.embed(proof.token_ids[: proof.rows]))
    sent = _roots(proof, wire, bodies[0].previous_fingerprint, 0)
    if same and sent != proof.in_roots:
        return rejected(
            "the client sent other embeddings than those of its tokens", strength=strength
        )
    replays = []
    for place, body in enumerate(bodies):
        progress(f"replaying layers {body.start} to {body.end}", place, len(bodies))
        wire, states = _sent(rows, replayer.run(body.start, body.end, states, kinds))
        try:
            replays.append(_replayed(proof, body, wire, states))
        except BadProof as error:
            guilty = Guilty(body.node, body.start, body.end)
            return rejected(f"{body.node} signed a digest that is none: {error}", guilty)
        figures["stages"].append(_stage_figures(body, replays[-1]))
    progress("checking tokens", len(bodies), len(bodies))
    if same:
        verdict = _judge_bits(proof, bodies, replays, figures)
        return verdict or _judge_tokens(proof, replayer, states, None, figures)
    tolerance = calibration.tolerance(body.numerics for body in bodies)
    verdict = _judge_tolerance(bodies, replays, tolerance, figures)
    return verdict or _judge_tokens(proof, replayer, states, tolerance, figures)


def _sent(rows: RowType, states: F32) -> tuple[bytes, F32]:
    """Rows as they travel, and what their receiver makes of them."""
    wire = rows.pack(states)
    return wire, rows.unpack(wire, *states.shape) if rows.int8 else states


def _roots(proof: Proof, wire: bytes, fingerprint: str, boundary: int) -> tuple[bytes, ...]:
    rows = proof.rows
    hashes = row_hashes(
        bytes.fromhex(proof.model_id),
        bytes.fromhex(fingerprint),
        boundary,
        proof.kinds,
        range(rows),
        wire,
        rows,
    )
    return tuple(chunk_roots(range(rows), hashes))


def _replayed(proof: Proof, body: ReceiptBody, wire: bytes, states: F32) -> _Boundary:
    roots = _roots(proof, wire, body.fingerprint, body.end)
    return _Boundary(roots, compare_all(body.digests, _chunks(states)))


def _chunks(states: F32) -> list[Any]:
    return [bf16_bits(states[at : at + CHUNK]) for at in range(0, len(states), CHUNK)]


def _stage_figures(body: ReceiptBody, replay: _Boundary) -> dict[str, Any]:
    equal = [mine == theirs for mine, theirs in zip(replay.roots, body.out_roots, strict=True)]
    return {
        "node": body.node,
        "start": body.start,
        "end": body.end,
        "numerics": body.numerics,
        "chunks_equal": sum(equal),
        "first_chunk_different": equal.index(False) if False in equal else None,
        "exp_mismatches_mean": round(replay.comparison.mean.exp_mismatches, 3),
        "exp_mismatches_chunk": max(one.exp_mismatches for one in replay.comparison.chunks),
        "mantissa_mean": _figure(replay.comparison.mean.mantissa_mean),
    }


def _figure(value: float) -> float:
    return round(min(value, 1e6), 4)


def _judge_bits(
    proof: Proof, bodies: list[ReceiptBody], replays: list[_Boundary], figures: dict[str, Any]
) -> Verdict | None:
    for chunk in range(len(proof.in_roots)):
        for body, replay in zip(bodies, replays, strict=True):
            guilty = Guilty(body.node, body.start, body.end)
            first = chunk * CHUNK
            where = f"positions {first} to {min(first + CHUNK, proof.rows) - 1}"
            if replay.roots[chunk] != body.out_roots[chunk]:
                reason = (
                    f"{body.node} did not compute layers {body.start} to {body.end} of the model "
                    f"from what it was sent: its output differs at {where}"
                )
                return rejected(reason, guilty, strength=Strength.BITS, **figures)
            off = replay.comparison.chunks[chunk]
            if off.exp_mismatches or off.mantissa_mean:
                reason = f"{body.node} signed a digest at {where} that isn't of its own output"
                return rejected(reason, guilty, strength=Strength.BITS, **figures)
    return None


def _judge_tolerance(
    bodies: list[ReceiptBody],
    replays: list[_Boundary],
    tolerance: Tolerance,
    figures: dict[str, Any],
) -> Verdict | None:
    figures["thresholds"] = {
        "exp_mismatches_mean": [tolerance.digest_at(body.end)[0] for body in bodies],
        "mantissa_mean": [tolerance.digest_at(body.end)[1] for body in bodies],
        "exp_mismatches_chunk": tolerance.chunk_exp,
        "false_rejections_at_most": tolerance.bound,
        "false_rejections_estimated": tolerance.tail,
    }
    for body, replay in zip(bodies, replays, strict=True):
        if exceeds(replay.comparison, tolerance.digest_at(body.end), tolerance.chunk_exp):
            figures["suspects"] = [b.node for b in bodies if b.end <= body.end]
            reason = (
                f"the output of layer {body.end} is farther from the replay than other kernels "
                f"explain; the fault lies at or before {body.node}"
            )
            return rejected(reason, strength=Strength.TOLERANCE, **figures)
    return None


def exceeds(found: Comparison, limits: tuple[float, float], chunk: float) -> bool:
    """Whether digests of a boundary are farther off than thresholds allow: for the request's mean
    mismatches and mantissa steps, and for the mismatches of a chunk."""
    mean = (found.mean.exp_mismatches, found.mean.mantissa_mean)
    return (
        mean[0] > limits[0]
        or mean[1] > limits[1]
        or any(one.exp_mismatches > chunk for one in found.chunks)
    )


def _judge_tokens(
    proof: Proof,
    replayer: Replayer,
    states: F32,
    tolerance: Tolerance | None,
    figures: dict[str, Any],
) -> Verdict:
    """Replay the choice of every token; the stages are cleared by now. No tolerance: by bits."""
    strength = Strength.BITS if tolerance is None else Strength.TOLERANCE
    try:
        normed = compare_all(proof.digests, _chunks(replayer.norm(states)))
    except BadProof as error:
        return rejected(f"the client's digest of the final norm is none: {error}")
    figures["final_norm_exp_mismatches_mean"] = round(normed.mean.exp_mismatches, 3)
    figures["final_norm_mantissa_mean"] = _figure(normed.mean.mantissa_mean)
    figures["final_norm_exp_mismatches_chunk"] = max(one.exp_mismatches for one in normed.chunks)
    limits = (0.0, 0.0) if tolerance is None else tolerance.norm
    if limits and exceeds(normed, limits, tolerance.chunk_exp if tolerance else 0.0):
        reason = "the client signed a digest of the final norm that isn't that of its rows"
        return rejected(reason, strength=strength, **figures)
    answer = range(proof.prompt_tokens, len(proof.token_ids))
    wrong, beyond, farthest = [], [], 0.0
    # Logits are divided by the temperature before they are compared.
    heat = proof.sampling.temperature or 1.0
    margin = (tolerance or GENERIC).token_margin / heat
    for position in answer:
        chosen, lead = replayer.choose(proof, position - 1, states[position - 1])
        if chosen != proof.token_ids[position]:
            wrong.append(position)
            farthest = max(farthest, lead)
            exact = tolerance is None and position >= proof.class_from
            # What was drafted isn't known: then a token is only wrong if no draft could lead to it.
            certain = proof.sampling_rule == SAMPLING_RULE
            if not np.isfinite(lead) or (certain and (exact or lead > margin)):
                beyond.append(position)
    figures |= {"tokens_checked": len(answer), "tokens_different": len(wrong)}
    figures["token_lead"] = _figure(farthest)
    other = max(0, proof.class_from - proof.prompt_tokens)
    if other:
        figures["tokens_of_another_class"] = other
    if beyond:
        reason = f"the token at position {beyond[0]} isn't the one that the sampling rule gives"
        return rejected(f"{reason}: the client chose it", strength=strength, **figures)
    figures["tokens_replayed"] = proof.sampling_rule == SAMPLING_RULE
    how = {
        Strength.BITS: "every row is bit for bit what the model gives",
        Strength.TOLERANCE: "every stage is within the tolerance between numerics classes",
        Strength.NONE: "",
    }[strength]
    if unlike := figures.get("misnamed"):
        how += f"; {', '.join(unlike)} named this auditor's class, with a fingerprint of its own"
    if other:
        how += f"; {other} tokens were chosen in another numerics class, and are within tolerance"
    return Verdict(Outcome.ACCEPTED, how, (), strength, figures)
