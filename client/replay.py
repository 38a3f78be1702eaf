"""Replaying a proof with own weights, through an engine of this machine."""

from collections.abc import Sequence

import numpy as np

from hearthring.client.sampler import Sampling, lead
from hearthring.protocol.messages import PROMPT
from hearthring.protocol.tensors import F32, Residual
from hearthring.shards.ends import open_ends
from hearthring.shards.engine import Engine, EngineRow, Kind, Segment
from hearthring.shards.engines import EngineOptions, load_engine
from hearthring.shards.gguf_file import GgufFile
from hearthring.verify.proof import Proof

BATCH = 256
DEFAULT = EngineOptions()


class EngineReplayer:
    """``verify.audit.Replayer`` over a model file. Only the window at work is in memory.

    ``engine`` is the name of the engine to replay with, ``options`` how, ``ends`` the name of what
    computes embedding, norm and head. Raises
    ``EngineUnavailable``.
    """

    def __init__(
        self,
        gguf: GgufFile,
        residual: Residual,
        threads: int,
        engine: str = "torch",
        options: EngineOptions = DEFAULT,
        ends: str = "torch",
    ) -> None:
        self._gguf, self._residual, self._threads = gguf, residual, threads
        self._name, self._options = engine, options
        self._ends = open_ends(ends, gguf, residual, threads)
        self.ends_fingerprint = self._ends.numerics.fingerprint
        self.fingerprint = self._engine(0, 1).numerics.fingerprint

    def embed(self, token_ids: Sequence[int]) -> F32:
        return self._ends.embed(token_ids)

    def norm(self, states: F32) -> F32:
        return self._ends.norm(states)

    def run(self, start: int, end: int, states: F32, kinds: Sequence[int]) -> F32:
        engine = self._engine(start, end)
        cache = engine.new_cache(len(states))
        slots = np.arange(len(states), dtype=np.int64)
        rows = tuple(
            EngineRow(Kind.PROMPT if kind == PROMPT else Kind.GENERATED, p, p, slots[: p + 1])
            for p, kind in enumerate(kinds)
        )
        done = [
            engine.forward((Segment(cache, rows[at : at + BATCH]),), states[at : at + BATCH])[0]
            for at in range(0, len(rows), BATCH)
        ]
        return np.concatenate(done)

    def choose(self, proof: Proof, row: int, state: F32) -> tuple[int, float]:
        said = proof.sampling
        sampling = Sampling(
            said.temperature,
            said.top_k,
            said.top_p,
            said.min_p,
            said.repetition_penalty,
            said.seed,
        )
        logits = self._ends.logits(self._ends.norm(state[None])[0])
        history = proof.token_ids[: row + 1]
        return lead(logits, history, row + 1, sampling, proof.token_ids[row + 1])

    def _engine(self, start: int, end: int) -> Engine:
        return load_engine(
            self._name,
            self._gguf,
            (start, end),
            self._residual,
            self._threads,
            options=self._options,
        )
