"""Auditing offline: find the proof's model on this machine, replay, judge."""

import contextlib
from collections.abc import Callable

from hearthring.client.calibrations import calibration_of
from hearthring.client.replay import EngineReplayer
from hearthring.client.window_replay import Breathe, replayer_like
from hearthring.protocol.errors import (
    EngineUnavailable,
    HearthringError,
    ModelNotHere,
    UnknownModel,
)
from hearthring.protocol.row_type import RowType
from hearthring.shards.ends import open_ends
from hearthring.shards.engines import options_of
from hearthring.shards.gguf_file import GgufFile
from hearthring.shards.parts import describe_parts, replay_parts
from hearthring.shards.store import ModelStore
from hearthring.verify.audit import audit
from hearthring.verify.consistency import bodies_of, contradiction
from hearthring.verify.proof import Proof
from hearthring.verify.stage_audit import Opened, audit_stage
from hearthring.verify.verdict import Verdict, inconclusive

Progress = Callable[[str, int, int], None]


def audit_offline(
    proof: Proof,
    threads: int,
    progress: Progress = lambda *_: None,
    opened: GgufFile | None = None,
) -> Verdict:
    """Judge a proof with the weights in this machine's model cache, ``opened`` if they are.

    Without the model the verdict is inconclusive and says how to get it. Raises ``BadModelFile``
    when the cached file isn't what it was.
    """
    try:
        entry = ModelStore().find(proof.model_id)
    except (UnknownModel, ModelNotHere) as error:
        name = proof.model_name or "FILE.gguf"
        return inconclusive(
            f"the model {proof.model_id[:12]}… ({name}) isn't on this machine: get it with "
            f"`hearthring model import {name}`",
            error=type(error).__name__,
        )
    if missing := entry.missing(replay_parts(entry.manifest)):
        return inconclusive(
            f"{describe_parts(missing)} of {entry.name} aren't on this machine: "
            "fetch them from the swarm with --join",
            error=ModelNotHere.__name__,
        )
    layers = entry.manifest.shape.layers
    if verdict := contradiction(proof, layers):
        return verdict
    return _judge_whole(proof, layers, opened or entry.open(), threads, progress)[0]


class OfflineJudge:
    """``verify.judge.Judge`` with weights of this machine, for a node that judges for others."""

    def __init__(self, threads: int) -> None:
        self._threads = threads

    def whole(self, proof: Proof, model: GgufFile, breathe: Breathe) -> tuple[Verdict, str]:
        layers = model.shape.layers
        if verdict := contradiction(proof, layers):
            return verdict, ""
        return _judge_whole(proof, layers, model, self._threads, lambda *_: None, breathe)

    def stage(
        self,
        proof: Proof,
        place: int,
        model: GgufFile,
        taken: Opened | None,
        sent: Opened | None,
        breathe: Breathe,
    ) -> tuple[Verdict, str]:
        shape = model.shape
        if verdict := contradiction(proof, shape.layers):
            return verdict, ""
        body, rows = bodies_of(proof)[place], RowType.parse(proof.residual)
        assert body is not None  # contradiction() says so otherwise
        try:
            replayer = replayer_like(
                body.numerics, model, rows.residual, self._threads, body.start, breathe
            )
            if taken is None and proof.is_hidden:
                return inconclusive("the text is hidden"), ""
            if taken is None:
                ends = open_ends(_ends_of(proof), model, rows.residual, self._threads)
                embedded = ends.embed(proof.token_ids[: proof.rows])
                taken = Opened(rows.pack(embedded))
            known = calibration_of(proof.model_id)
            verdict = audit_stage(proof, place, shape.width, replayer, taken, sent, known)
        except HearthringError as error:
            return inconclusive(f"this machine can't replay it: {error}"), ""
        return verdict, replayer.fingerprint


def _judge_whole(
    proof: Proof,
    layers: int,
    gguf: GgufFile,
    threads: int,
    progress: Progress,
    breathe: Breathe = lambda: None,
) -> tuple[Verdict, str]:
    try:
        replayer = _replayer(proof, gguf, threads, breathe)
    except HearthringError as error:
        return inconclusive(f"this machine can't replay it: {error}"), ""
    known = calibration_of(proof.model_id)
    return audit(proof, layers, replayer, progress, known), replayer.fingerprint


def _replayer(proof: Proof, gguf: GgufFile, threads: int, breathe: Breathe) -> EngineReplayer:
    """With the route's own engine where this machine has it: then bits can be compared."""
    residual = RowType.parse(proof.residual).residual
    used = {body.numerics for body in bodies_of(proof) if body is not None}
    ends = _ends_of(proof)
    if used and all(name.startswith("ggml-") for name in used):
        with contextlib.suppress(EngineUnavailable):
            return EngineReplayer(
                gguf, residual, threads, "ggml", options_of(min(used)), ends, breathe=breathe
            )
    if ends == "ggml":
        with contextlib.suppress(EngineUnavailable):
            return EngineReplayer(gguf, residual, threads, ends=ends, breathe=breathe)
    return EngineReplayer(gguf, residual, threads, breathe=breathe)


def _ends_of(proof: Proof) -> str:
    """The name of what computed the client's embedding, norm and head."""
    return "ggml" if proof.numerics.startswith("ggml-") else "torch"
