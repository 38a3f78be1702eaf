"""A node with a fault in what it computes or says.

Run: python -m tests.liar --fault NAME[:VALUE][@POSITION]

Everything after the fault is the flags of ``hearthring node``. It announces itself, signs and
serves like an honest node; that is what audits are for.

    noise:0.05       adds noise of that share of each row's standard deviation
    scale:1.02       scales its output
    flip-sign        flips the sign of its output
    nan              sends a NaN
    wrong-epoch      signs its rows for another epoch of the session
    wrong-class      signs its rows as of another numerics class than it announced
    replay           sends its previous step's output again
    stale-kv         lets generated rows attend to an older row in place of the newest
    skip-layer       leaves out the middle layer of its window
    swap-layer       runs the first two layers of its window in each other's place
    other-weights:4  rounds its weights to that many bits
    forge-receipt    signs other output hashes at the end than it signed on the way
    withhold         never hands out a receipt
    corrupt-layers   flips a bit in every piece of a layer that it sends to a peer
    slander          as a verifier, blames the first stage of every proof

From a position on, if one is given: until there its rows are true. That goes for what an engine
does while it runs: noise, scale, flip-sign, replay, stale-kv.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from hearthring.cli import main
from hearthring.node.config import NodeHooks
from hearthring.node.stage_session import Prepared, StageSession
from hearthring.protocol.messages import HopTime, Open, Receipt, Step
from hearthring.protocol.tensors import F32, pack, unpack
from hearthring.protocol.transport import Transport
from hearthring.shards.engine import Engine, EngineRow, Kind, Segment, Window
from hearthring.verify import receipts
from hearthring.verify.claims import claim
from hearthring.verify.judge import Breathe, Judge
from hearthring.verify.proof import Proof
from hearthring.verify.stage_audit import Opened
from hearthring.verify.verdict import Guilty, Strength, Verdict, rejected
from tests.wrapped import WrappedEngine


@dataclass
class LyingEngine(WrappedEngine):
    """An engine whose output passes through a fault, from a position on. Its cells are true."""

    spoil: Callable[[F32], F32] = lambda states: states
    misplace: Callable[[EngineRow], EngineRow] = lambda row: row
    turns: int = 0
    """The first position at which it lies."""

    def before(self, segments: tuple[Segment, ...], states: F32) -> tuple[Segment, ...]:
        return tuple(Segment(s.cache, tuple(map(self._bent, s.rows))) for s in segments)

    def after(self, segments: tuple[Segment, ...], output: F32) -> F32:
        kind = self.numerics.residual
        wrong = self.spoil(output)
        # Stay in the residual type: only the value is a lie.
        wrong = unpack(pack(wrong, kind), *wrong.shape, kind)
        lies = [row.position >= self.turns for segment in segments for row in segment.rows]
        return np.where(np.array(lies)[:, None], wrong, output)

    def _bent(self, row: EngineRow) -> EngineRow:
        return self.misplace(row) if row.position >= self.turns else row


@dataclass
class Replayer:
    """Remembers the last output of each shape."""

    last: dict[tuple[int, ...], F32] = field(default_factory=dict)

    def __call__(self, states: F32) -> F32:
        old = self.last.get(states.shape, states)
        self.last[states.shape] = states
        return old


def noise(share: float) -> Callable[[F32], F32]:
    random = np.random.default_rng(0)

    def spoil(states: F32) -> F32:
        spread = states.std(axis=1, keepdims=True) * share
        return (states + random.standard_normal(states.shape) * spread).astype(np.float32)

    return spoil


def stale(row: EngineRow) -> EngineRow:
    """Attend to the row before last in place of the last."""
    if row.kind is not Kind.GENERATED or len(row.path) < 3:
        return row
    path = row.path.copy()
    path[-2] = path[-3]
    return replace(row, path=path)


def renamed(first: int, second: int) -> Callable[[Any], Any]:
    """Weights of two layers in each other's place."""

    def hook(load: Any) -> Any:
        def other(name: str) -> F32:
            parts = name.split(".")
            if parts[0] == "blk" and int(parts[1]) in (first, second):
                parts[1] = str(first + second - int(parts[1]))
            return load(".".join(parts))  # type: ignore[no-any-return]

        return other

    return hook


def skipped(layer: int) -> Callable[[Any], Any]:
    """A layer that adds nothing to the residual."""

    def hook(load: Any) -> Any:
        def other(name: str) -> F32:
            silent = name in (f"blk.{layer}.attn_output.weight", f"blk.{layer}.ffn_down.weight")
            return np.zeros_like(load(name)) if silent else load(name)

        return other

    return hook


def coarse(bits: int) -> Callable[[Any], Any]:
    """Weights rounded to so many bits, a scale per row."""

    def hook(load: Any) -> Any:
        def other(name: str) -> F32:
            weight: F32 = load(name)
            if weight.ndim < 2:
                return weight
            scale = np.abs(weight).max(axis=1, keepdims=True) / (2 ** (bits - 1) - 1)
            return (np.round(weight / scale) * scale).astype(np.float32)

        return other

    return hook


class NanSession(StageSession):
    """Sends a NaN, properly signed."""

    def _seal(self, prepared: Prepared, wire: bytes, time: HopTime) -> Step:
        return super()._seal(prepared, b"\xff" * 4 + wire[4:], time)


class EpochSession(StageSession):
    """Signs its rows for an epoch that hasn't begun."""

    def _seal(self, prepared: Prepared, wire: bytes, time: HopTime) -> Step:
        step, wish = super()._seal(prepared, wire, time), self.wish
        ids = [row.id for row in prepared.rows]
        hashes = [self._kept[row].sent for row in ids]
        signed = claim(wish.session, wish.epoch + 1, step.step_id, wish.end, ids, hashes)
        return replace(step, signature=self._who.sign(signed))


class ClassSession(StageSession):
    """Signs its rows as of a class that it isn't."""

    def __init__(self, *parts: Any) -> None:
        super().__init__(*parts)
        self._class = bytes(32)


class ForgingSession(StageSession):
    """Signs a receipt that contradicts what it signed on the way."""

    def receipt(self, commit: tuple[int, ...]) -> Receipt | None:
        honest = super().receipt(commit)
        assert honest is not None
        body = receipts.read(honest)
        return receipts.sign(replace(body, out_roots=body.in_roots), self._who)


class WithholdingSession(StageSession):
    """Never hands out a receipt."""

    def receipt(self, commit: tuple[int, ...]) -> Receipt | None:
        return None


@dataclass
class SlanderingJudge:
    """Replays, and says something else."""

    honest: Judge

    def whole(self, proof: Proof, model: Any, breathe: Breathe) -> tuple[Verdict, str]:
        _, fingerprint = self.honest.whole(proof, model, breathe)
        return self._blame(proof), fingerprint

    def stage(
        self,
        proof: Proof,
        place: int,
        model: Any,
        taken: Opened | None,
        sent: Opened | None,
        breathe: Breathe,
    ) -> tuple[Verdict, str]:
        _, fingerprint = self.honest.stage(proof, place, model, taken, sent, breathe)
        return self._blame(proof), fingerprint

    def _blame(self, proof: Proof) -> Verdict:
        stage = proof.stages[0]
        guilty = Guilty(stage.node, stage.start, stage.end)
        return rejected("it lied", guilty, strength=Strength.BITS)


def session(kind: type[StageSession]) -> Any:
    def make(wish: Open, client: str, engine: Engine, transport: Transport) -> StageSession:
        return kind(wish, client, engine, transport.identity)

    return make


def hooks_for(fault: str, window: Window) -> NodeHooks:
    """The hooks of a fault, ``NAME[:VALUE][@POSITION]``."""
    fault, _, turns = fault.partition("@")
    name, _, value = fault.partition(":")
    turn = int(turns or 0)
    start, end = window
    match name:
        case "noise" | "scale" | "flip-sign" | "replay":
            spoil: Callable[[F32], F32] = {
                "noise": lambda: noise(float(value or 0.05)),
                "scale": lambda: lambda states: states * np.float32(value or 1.02),
                "flip-sign": lambda: lambda states: -states,
                "replay": Replayer,
            }[name]()
            return NodeHooks(engine=lambda honest: LyingEngine(honest, spoil, turns=turn))
        case "stale-kv":
            return NodeHooks(engine=lambda honest: LyingEngine(honest, misplace=stale, turns=turn))
        case "skip-layer":
            return NodeHooks(load=skipped(int(value) if value else (start + end) // 2))
        case "swap-layer":
            return NodeHooks(load=renamed(start, start + 1))
        case "other-weights":
            return NodeHooks(load=coarse(int(value or 4)))
        case "nan":
            return NodeHooks(session=session(NanSession))
        case "wrong-epoch":
            return NodeHooks(session=session(EpochSession))
        case "wrong-class":
            return NodeHooks(session=session(ClassSession))
        case "forge-receipt":
            return NodeHooks(session=session(ForgingSession))
        case "corrupt-layers":
            return NodeHooks(sent=lambda data: bytes([data[0] ^ 1]) + data[1:])
        case "withhold":
            return NodeHooks(session=session(WithholdingSession))
        case "slander":
            return NodeHooks(judge=SlanderingJudge)
    raise SystemExit(f"tests.liar: there is no fault {name!r}; see python -m tests.liar")


def run(arguments: list[str]) -> int:
    """Split off the fault, and be a node."""
    if "--fault" not in arguments or arguments.index("--fault") + 1 == len(arguments):
        print(__doc__)
        return 64
    at = arguments.index("--fault")
    fault, rest = arguments[at + 1], [*arguments[:at], *arguments[at + 2 :]]
    window = rest[rest.index("--layers") + 1] if "--layers" in rest else "0:2"
    start, _, end = window.partition(":")
    return main(["node", *rest], hooks_for(fault, (int(start), int(end))))


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
