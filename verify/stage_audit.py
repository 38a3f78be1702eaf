"""Judging one stage by replaying what it recorded: its input, as the stage before it sent it.

What was opened is taken only if it hashes to the stage's own receipt, so nobody can open other rows
than were sent. In the route's numerics class the replay's hashes must then be those of the receipt.
In another class the opened output is compared with the replay in *all* channels: a digest sees the
128 largest values, which lie in a few channels, and whoever keeps those right could send noise in
all others.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from hearthring.protocol.errors import HearthringError
from hearthring.protocol.row_type import RowType
from hearthring.protocol.tensors import F32
from hearthring.verify.consistency import bodies_of, misnamed
from hearthring.verify.proof import Proof
from hearthring.verify.receipts import ReceiptBody
from hearthring.verify.rowhash import CHUNK, chunk_roots, row_hashes
from hearthring.verify.tolerance import NOTHING, Calibration
from hearthring.verify.verdict import (
    INT8_BETWEEN_CLASSES,
    Guilty,
    Outcome,
    Strength,
    Verdict,
    inconclusive,
    rejected,
)


class StageReplayer(Protocol):
    """Own weights of some layers of the proof's model, in the route's residual type."""

    @property
    def numerics(self) -> str:
        """Class of the engine, by name."""

    @property
    def fingerprint(self) -> str:
        """The same, as it counts."""

    def run(self, start: int, end: int, states: F32, kinds: Sequence[int]) -> F32:
        """Replay layers ``[start, end)`` over a whole sequence of rows of these kinds."""


@dataclass(frozen=True, slots=True)
class Opened:
    """What was opened: rows as bytes, or who withheld them and how."""

    wire: bytes = b""
    node: str = ""
    trouble: str = ""


def roots_of(proof: Proof, wire: bytes, fingerprint: str, boundary: int) -> tuple[bytes, ...]:
    """Roots over rows of the proof's positions and kinds. Raises ``BadShape``."""
    positions = range(proof.rows)
    model, kind = bytes.fromhex(proof.model_id), bytes.fromhex(fingerprint)
    hashes = row_hashes(model, kind, boundary, proof.kinds, positions, wire, proof.rows)
    return tuple(chunk_roots(positions, hashes))


def audit_stage(
    proof: Proof,
    place: int,
    width: int,
    replayer: StageReplayer,
    taken: Opened,
    sent: Opened | None = None,
    calibration: Calibration = NOTHING,
) -> Verdict:
    """Replay the stage at ``place`` from its recorded input; ``width`` is the model's.

    ``taken`` are the rows it took, ``sent`` those it sent: needed between classes only, as is
    ``calibration``, which says what they may differ by. The proof
    must be free of contradictions. A record that isn't opened makes the verdict inconclusive.
    """
    body = bodies_of(proof)[place]
    if body is None:
        return inconclusive("the stage signed no receipt", withheld=[proof.stages[place].node])
    same, rows = body.fingerprint == replayer.fingerprint, RowType.parse(proof.residual)
    if rows.int8 and not same:
        return inconclusive(INT8_BETWEEN_CLASSES)
    for opened, roots, boundary, kind in (
        (taken, body.in_roots, body.start, body.previous_fingerprint),
        *(() if same else ((sent or Opened(), body.out_roots, body.end, body.fingerprint),)),
    ):
        if trouble := _trouble(proof, opened, roots, boundary, kind):
            named = [opened.node] if opened.node else []
            return inconclusive(trouble, withheld=named)
    states = rows.unpack(taken.wire, proof.rows, width)
    try:
        replay = replayer.run(body.start, body.end, states, proof.kinds)
    except HearthringError as error:
        return inconclusive(f"the stage's input can't be run here: {error}")
    if same:
        return _judge_bits(proof, body, replay, rows)
    assert sent is not None
    limits = calibration.tolerance([body.numerics]).stage(body.end - body.start)
    sent_rows = rows.unpack(sent.wire, proof.rows, width)
    verdict = _judge_channels(body, replay, sent_rows, limits)
    if unlike := misnamed([body], replayer.numerics, replayer.fingerprint):
        return replace(verdict, figures=verdict.figures | {"misnamed": unlike})
    return verdict


def _trouble(
    proof: Proof, opened: Opened, roots: tuple[bytes, ...], boundary: int, fingerprint: str
) -> str:
    """Why what was opened can't be used, if it can't."""
    if opened.trouble or not opened.wire:
        return opened.trouble or f"nobody opened the rows at boundary {boundary}"
    try:
        if roots_of(proof, opened.wire, fingerprint, boundary) == roots:
            return ""
    except HearthringError:
        pass
    return f"{opened.node or 'somebody'} opened other rows than were signed"


def _judge_bits(proof: Proof, body: ReceiptBody, replay: F32, rows: RowType) -> Verdict:
    mine = roots_of(proof, rows.pack(replay), body.fingerprint, body.end)
    equal = [one == other for one, other in zip(mine, body.out_roots, strict=True)]
    figures = _figures(proof, body, chunks_equal=sum(equal))
    if all(equal):
        how = "the stage's output is bit for bit what its layers give of its recorded input"
        return Verdict(Outcome.ACCEPTED, how, (), Strength.BITS, figures)
    first = equal.index(False) * CHUNK
    reason = (
        f"{body.node} did not compute layers {body.start} to {body.end} of the model from what it "
        f"was sent: its output differs at positions {first} to "
        f"{min(first + CHUNK, proof.rows) - 1}"
    )
    guilty = Guilty(body.node, body.start, body.end)
    return rejected(reason, guilty, strength=Strength.BITS, **figures)


def _judge_channels(
    body: ReceiptBody, replay: F32, sent: F32, limits: tuple[float, float]
) -> Verdict:
    mean, worst = deviation(replay, sent)
    figures: dict[str, Any] = {
        "rows": len(sent),
        "chunks": -(-len(sent) // CHUNK),
        "deviation_mean": round(mean, 4),
        "deviation_worst_chunk": round(worst, 4),
        "thresholds": {"deviation_mean": limits[0], "deviation_chunk": limits[1]},
    }
    if mean <= limits[0] and worst <= limits[1]:
        how = "the stage's output is within the tolerance between numerics classes in all channels"
        return Verdict(Outcome.ACCEPTED, how, (), Strength.TOLERANCE, figures)
    reason = (
        f"{body.node} is farther from layers {body.start} to {body.end} of the model, over what it "
        "was sent, than other kernels explain"
    )
    guilty = Guilty(body.node, body.start, body.end)
    return rejected(reason, guilty, strength=Strength.TOLERANCE, **figures)


def deviation(replay: F32, sent: F32) -> tuple[float, float]:
    """Mean of ``deviations`` over the request, and over its worst chunk."""
    off = deviations(replay, sent)
    return float(off.mean()), max(
        float(off[at : at + CHUNK].mean()) for at in range(0, len(off), CHUNK)
    )


def deviations(replay: F32, sent: F32) -> F32:
    """How far each row is from its replay, over all channels: 0 is equal, 1 as far as it gets.

    Each channel is measured by its own median magnitude in the replay, and counts once whatever its
    size: the few channels of huge values say no more than any other.
    """
    scale = np.maximum(np.median(np.abs(replay), axis=0), np.float32(1e-6))
    off: F32 = np.minimum(np.abs(replay - sent) / scale, np.float32(1.0)).mean(axis=1)
    return off


def _figures(proof: Proof, body: ReceiptBody, chunks_equal: int) -> dict[str, Any]:
    stage = {
        "node": body.node,
        "start": body.start,
        "end": body.end,
        "numerics": body.numerics,
        "chunks_equal": chunks_equal,
    }
    return {"rows": proof.rows, "chunks": len(body.out_roots), "stages": [stage]}
