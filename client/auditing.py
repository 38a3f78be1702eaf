"""Auditing offline: find the proof's model on this machine, replay, judge."""

import contextlib
from collections.abc import Callable

from hearthring.client.replay import EngineReplayer
from hearthring.protocol.errors import (
    EngineUnavailable,
    HearthringError,
    ModelNotHere,
    UnknownModel,
)
from hearthring.protocol.tensors import Residual
from hearthring.shards.engines import options_of
from hearthring.shards.gguf_file import GgufFile
from hearthring.shards.parts import describe_parts, replay_parts
from hearthring.shards.store import ModelStore
from hearthring.verify.audit import audit
from hearthring.verify.consistency import bodies_of, contradiction
from hearthring.verify.proof import Proof
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
    try:
        replayer = _replayer(proof, opened or entry.open(), threads)
    except HearthringError as error:
        return inconclusive(f"this machine can't replay it: {error}")
    return audit(proof, layers, replayer, progress)


def _replayer(proof: Proof, gguf: GgufFile, threads: int) -> EngineReplayer:
    """With the route's own engine where this machine has it: then bits can be compared."""
    residual = Residual(proof.residual)
    used = {body.numerics for body in bodies_of(proof) if body is not None}
    ends = "ggml" if proof.numerics.startswith("ggml-") else "torch"
    if used and all(name.startswith("ggml-") for name in used):
        with contextlib.suppress(EngineUnavailable):
            return EngineReplayer(gguf, residual, threads, "ggml", options_of(min(used)), ends)
    if ends == "ggml":
        with contextlib.suppress(EngineUnavailable):
            return EngineReplayer(gguf, residual, threads, ends=ends)
    return EngineReplayer(gguf, residual, threads)
