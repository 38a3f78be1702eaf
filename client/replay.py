"""Replaying a proof with own weights, through an engine of this machine."""

from collections.abc import Sequence

from hearthring.client.sampler import Sampling, lead
from hearthring.client.window_replay import DEFAULT, Breathe, WindowReplayer
from hearthring.protocol.tensors import F32, Residual
from hearthring.shards.ends import open_ends
from hearthring.shards.engines import EngineOptions
from hearthring.shards.gguf_file import GgufFile
from hearthring.verify.proof import Proof


class EngineReplayer(WindowReplayer):
    """``verify.audit.Replayer`` over a model file: windows, and what the client does itself.

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
        *,
        breathe: Breathe = lambda: None,
    ) -> None:
        super().__init__(gguf, residual, threads, engine, options, breathe=breathe)
        self._ends = open_ends(ends, gguf, residual, threads)
        self.ends_fingerprint = self._ends.numerics.fingerprint
        _ = self.fingerprint  # measured now: an engine that can't run here is found out at once

    def embed(self, token_ids: Sequence[int]) -> F32:
        return self._ends.embed(token_ids)

    def norm(self, states: F32) -> F32:
        return self._ends.norm(states)

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
