"""Replays that remember: whatever several cases share is computed once."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

from bench.answers import Asked, run
from hearthring.client.sampler import lead
from hearthring.protocol.tensors import F32, Residual
from hearthring.shards.ends import Ends
from hearthring.shards.engine import Engine
from hearthring.shards.engines import EngineOptions, load_engine
from hearthring.shards.gguf_file import GgufFile
from hearthring.verify.proof import Proof


@dataclass
class Replays:
    """``verify.audit.Replayer`` of one class; forgets nothing until told to."""

    gguf: GgufFile
    residual: Residual
    name: str
    options: EngineOptions
    ends: Ends
    engines: dict[tuple[int, int], Engine] = field(default_factory=dict)
    kept: dict[Any, Any] = field(default_factory=dict)

    def engine(self, start: int, end: int) -> Engine:
        if (start, end) not in self.engines:
            self.engines[start, end] = load_engine(
                self.name, self.gguf, (start, end), self.residual, 1, options=self.options
            )
        return self.engines[start, end]

    @property
    def numerics(self) -> str:
        return self.engine(*next(iter(self.engines))).numerics.name

    @property
    def fingerprint(self) -> str:
        return self.engine(*next(iter(self.engines))).numerics.fingerprint

    @property
    def ends_fingerprint(self) -> str:
        return self.ends.numerics.fingerprint

    def embed(self, token_ids: Sequence[int]) -> F32:
        return self.ends.embed(token_ids)

    def norm(self, states: F32) -> F32:
        return self.ends.norm(states)

    def run(self, start: int, end: int, states: F32, kinds: Sequence[int]) -> F32:
        key = self._key(start, end, states, kinds)
        if key not in self.kept:
            self.kept[key] = run(self.engine(start, end), kinds, states)[end]
        found: F32 = self.kept[key]
        return found

    def boundaries(
        self, windows: Sequence[tuple[int, int]], states: F32, kinds: Sequence[int]
    ) -> dict[int, F32]:
        """Residuals after every layer, of which ``run`` then knows those after each window."""
        found: dict[int, F32] = {}
        for start, end in windows:
            key = self._key(start, end, states, kinds)
            after = run(self.engine(start, end), kinds, states, taps=True)
            found, states = found | after, after[end]
            self.kept[key] = states
        return found

    def choose(self, proof: Proof, row: int, state: F32) -> tuple[int, float]:
        key = sha256(state.tobytes()).digest()
        if key not in self.kept:
            self.kept[key] = self.ends.logits(self.ends.norm(state[None])[0])
        said = Asked(proof.token_ids, proof.prompt_tokens, proof.sampling.seed).sampling
        history = proof.token_ids[: row + 1]
        return lead(self.kept[key], history, row + 1, said, proof.token_ids[row + 1])

    @staticmethod
    def _key(start: int, end: int, states: F32, kinds: Sequence[int]) -> tuple[Any, ...]:
        return start, end, sha256(states.tobytes()).digest(), tuple(kinds)
