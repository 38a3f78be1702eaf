"""The dishonest answers of ``bench/detection.py``, and what each audit says of them."""

from dataclasses import replace
from itertools import pairwise
from typing import Any

from bench.answers import STAGES, Asked, Forge, ask
from bench.cheats import (
    OUTPUTS,
    Cheat,
    by_engine,
    cut_context,
    edited,
    hooks,
    noise_unseen,
    of_output,
    stale_kv,
)
from bench.replays import Replays
from hearthring.client.calibrations import calibration_of
from hearthring.client.texts import write_texts
from hearthring.protocol.row_type import RowType
from hearthring.protocol.tensors import F32, Residual, pack
from hearthring.shards.ends import open_ends
from hearthring.shards.engine import Engine
from hearthring.shards.engines import EngineOptions, load_engine
from hearthring.shards.store import ModelStore
from hearthring.verify.audit import audit
from hearthring.verify.proof import Proof
from hearthring.verify.stage_audit import Opened, audit_stage
from hearthring.verify.tolerance import Calibration, Tolerance, sort_of
from hearthring.verify.verdict import Outcome, Verdict

LOW = EngineOptions(prompt="low")
KV8 = EngineOptions(prompt="low", kv="q8_0")
CHEAP, NEAR = "3-bit weights", "8-bit weights for 4-bit"
ALL, PROMPT_ROWS = 1 << 20, 24
FIGURES = (("exp_mismatches", "mean"), ("mantissa", "mean"), ("exp_mismatches", "chunk"))
WIDE = Tolerance((1e9,), (1e9,), 1e9, (1e9,), (1e9,), 1e9)
"""Nothing is beyond these: what is found is judged later, by the thresholds of then."""
OTHER_CLASS = "ab" * 32
"""A fingerprint that nobody else has."""
Found = dict[str, dict[str, Any]]


class Bench:
    """Engines and thresholds for one model, a ring of three stages."""

    def __init__(self, name: str, residual: Residual) -> None:
        entry = ModelStore().find(name)
        self.gguf, self.residual, self.model_id = entry.open(), residual, entry.model_id
        layers = self.gguf.shape.layers
        self.cuts = (0, layers // 3, 2 * layers // 3, layers)
        self.windows = list(pairwise(self.cuts))
        self.ends = open_ends("torch", self.gguf, residual, 1)
        self.calibration = calibration_of(entry.model_id)
        self.route, self.other = self.replays("ggml", LOW), self.replays("torch", EngineOptions())
        self.forge = self.forge_of(self.route)
        self.numerics = self.forge.engine[0]
        self.wide = Calibration(entry.model_id, {sort_of(self.numerics): WIDE})
        self.cheats = self.middle()

    def replays(self, name: str, options: EngineOptions) -> Replays:
        """Engines of all windows in one class."""
        made = Replays(self.gguf, self.residual, name, options, self.ends)
        for window in self.windows:
            made.engine(*window)
        return made

    def forge_of(self, route: Replays) -> Forge:
        """Who signs for the stages of a route."""
        numerics = route.engine(*self.windows[0]).numerics
        said = numerics.name, numerics.fingerprint
        return Forge(self.model_id, self.cuts, RowType(self.residual), said, self.ends)

    def middle(self) -> dict[str, Cheat]:
        """The ways in which the middle stage cheats."""
        start, end = window = self.windows[1]
        honest = self.route.engine(start, end)
        made: dict[str, Cheat] = {}
        for name, hook in hooks(start).items():
            load = hook(self.gguf.dequantised)
            made[name] = by_engine(
                load_engine("ggml", self.gguf, window, self.residual, 1, load=load, options=LOW)
            )
        quantised = load_engine("ggml", self.gguf, window, self.residual, 1, options=KV8)
        made["8-bit keys and values"] = by_engine(quantised)
        made["another engine under the class's name"] = lambda asked, taken, _: self.other.run(
            *window, taken, asked.kinds
        )
        made["context cut to 16 rows"] = cut_context(honest)
        made["stale keys and values"] = stale_kv(honest)
        return made | {name: of_output(change, self.residual) for name, change in OUTPUTS.items()}

    def answered(self, number: int, engine: Engine) -> Asked:
        """A prompt with its answer, by an engine of all layers; the same in every run."""
        [text] = write_texts(self.gguf, engine, self.ends, 1, 10_000 + number)
        [asked] = ask(engine, self.ends, [text.ids[:PROMPT_ROWS]], [number])
        return asked

    def outputs(self, asked: Asked, route: Replays, first: F32 | None = None) -> list[F32]:
        """What each stage of an honest route sends; ``first``: what the first sends instead."""
        outputs, states = [], self.ends.embed(asked.ids[: asked.rows])
        for window in self.windows:
            if first is not None and not outputs:
                states = first
            else:
                states = route.run(*window, states, asked.kinds)
            outputs.append(states)
        return outputs

    # -- audits ----------------------------------------------------------------------------------

    def judge(self, asked: Asked, outputs: list[F32], place: int, proof: Proof) -> dict[str, Any]:
        """All audits of one answer whose stage ``place`` cheated: between classes the figures."""
        bits = audit(proof, self.cuts[-1], self.route)
        return self.digested(proof, place) | {
            "bits": bits.outcome is Outcome.REJECTED,
            "located": [g.node for g in bits.guilty] == [STAGES[place].node_id],
            "channels": self.channels(asked, outputs, place, proof, self.other),
        }

    def digested(self, proof: Proof, place: int = 1) -> dict[str, Any]:
        """A replay from the prompt in another class, its figures by boundary."""
        verdict = audit(proof, self.cuts[-1], self.other, calibration=self.wide)
        if verdict.outcome is Outcome.REJECTED:
            return {"digest": True}  # whatever the thresholds are
        said = verdict.figures
        names = [f"{name}_{part}" for name, part in FIGURES]
        boundaries = [[stage[name] for name in names] for stage in said["stages"]]
        boundaries.append([said[f"final_norm_{name}"] for name in names])
        exp, mantissa, _ = boundaries[place]
        return {
            "digest": {"boundaries": boundaries, "lead": said["token_lead"]},
            "exp": exp,
            "mantissa": mantissa,
        }

    def channels(
        self, asked: Asked, outputs: list[F32], place: int, proof: Proof, auditor: Replays
    ) -> tuple[float, float]:
        """A stage's recorded input replayed in another class: deviation, and of the worst chunk."""
        said = self.from_record(asked, outputs, place, proof, auditor, self.wide).figures
        return said["deviation_mean"], said["deviation_worst_chunk"]

    def from_record(
        self,
        asked: Asked,
        outputs: list[F32],
        place: int,
        proof: Proof,
        auditor: Replays,
        calibration: Calibration | None = None,
    ) -> Verdict:
        """A stage's recorded input replayed."""
        sent = [self.ends.embed(asked.ids[: asked.rows]), *outputs]
        taken, gave = (Opened(pack(sent[p], self.residual)) for p in (place, place + 1))
        width = self.gguf.shape.width
        known = calibration or self.calibration
        return audit_stage(proof, place, width, auditor, taken, gave, known)

    # -- cases -----------------------------------------------------------------------------------

    def dishonest(self, asked: Asked) -> Found:
        """Every case of one text."""
        honest, last = self.outputs(asked, self.route), self.windows[2]
        wrong: dict[str, list[F32]] = {}
        for name, cheat in self.cheats.items():
            middle = cheat(asked, honest[0], honest[1])
            wrong[name] = [honest[0], middle, self.route.run(*last, middle, asked.kinds)]
        found = {
            name: self.judge(asked, outputs, 1, self.forge.proof(asked, outputs))
            for name, outputs in wrong.items()
        }
        found |= self._elsewhere(asked, honest)
        found |= self._on_paper(asked, honest, wrong)
        return found | self._by_the_client(asked, honest)

    def _elsewhere(self, asked: Asked, honest: list[F32]) -> Found:
        """Cheats of the first and the last stage."""
        unseen = of_output(noise_unseen, self.residual)
        first = unseen(asked, honest[0], honest[0])
        vocabulary = self.gguf.shape.vocabulary
        made = {
            "first: noise outside the digest's values": (
                0,
                self.outputs(asked, self.route, first),
            ),
            "last: noise outside the digest's values": (
                2,
                [*honest[:2], unseen(asked, honest[1], honest[2])],
            ),
            "first: one word of the prompt edited": (
                0,
                self.outputs(edited(asked, vocabulary, 1), self.route),
            ),
            "first: another prompt": (
                0,
                self.outputs(edited(asked, vocabulary, ALL), self.route),
            ),
        }
        return {
            name: self.judge(asked, outputs, place, self.forge.proof(asked, outputs))
            for name, (place, outputs) in made.items()
        }

    def _on_paper(self, asked: Asked, honest: list[F32], wrong: dict[str, list[F32]]) -> Found:
        """Cheats in what is signed: the spoof, and a class that nobody can replay."""
        found = {}
        for place, name in ((1, "spoof"), (2, "last: spoof")):
            # Cheap states while tokens are made; true ones, computed at once, in the receipt.
            sent = wrong[CHEAP] if place == 1 else [*honest[:2], wrong[CHEAP][2]]
            proof = self.forge.proof(asked, sent, claimed={place: honest[place]})
            verdict = audit(proof, self.cuts[-1], self.route)
            found[f"{name}: true states signed for after cheap ones were sent"] = {
                **self.digested(proof),
                "bits": verdict.outcome is Outcome.REJECTED,
                "located": [g.node for g in verdict.guilty] == [STAGES[place].node_id],
            }
        for name in (CHEAP, NEAR):
            proof = self.forge.proof(asked, wrong[name], prints={1: OTHER_CLASS})
            said = self.judge(asked, wrong[name], 1, proof)
            # Whoever has the route's class can't compare bits: the stage claims another.
            whole = audit(proof, self.cuts[-1], self.route, calibration=self.wide)
            said["flagged"] = whole.figures.get("misnamed") == [STAGES[1].node_id]
            said["near"] = self.channels(asked, wrong[name], 1, proof, self.route)
            del said["bits"], said["located"]
            found[f"{name}, under the class's name with a fingerprint of its own"] = said
        return found

    def _by_the_client(self, asked: Asked, honest: list[F32]) -> Found:
        """Tokens swapped after sampling, and a receipt of another session: nobody else is named."""
        made: dict[str, dict[str, Any]] = {
            "client: last token swapped after sampling": {"said_ids": self._swapped(asked, -1)},
            "client: first token of the answer swapped": {
                "said_ids": self._swapped(asked, asked.prompt)
            },
            "a receipt of another session": {"stale": {1: b"another session."}},
        }
        proofs = {
            name: self.forge.proof(asked, honest, **options) for name, options in made.items()
        }
        found = {}
        for name, proof in proofs.items():
            verdict = audit(proof, self.cuts[-1], self.route)
            found[name] = {
                **self.digested(proof),
                "bits": verdict.outcome is Outcome.REJECTED,
                "located": not verdict.guilty,
            }
        return found

    def _swapped(self, asked: Asked, place: int) -> tuple[int, ...]:
        ids = list(asked.ids)
        ids[place] = (ids[place] + 1) % self.gguf.shape.vocabulary
        return replace(asked, ids=tuple(ids)).ids
