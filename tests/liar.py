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
from hearthring.node.config import NodeHooks, read_layers
from hearthring.node.stage_session import Prepared, StageSession
from hearthring.protocol.errors import BadOption, HearthringError
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
from tests.wrong_weights import coarse, renamed, skipped, wrong_weights


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
    """The hooks of a fault, ``NAME[:VALUE][@POSITION]``. Raises ``BadOption``, ``ValueError``."""
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
            return wrong_weights(skipped(int(value) if value else (start + end) // 2))
        case "swap-layer":
            return wrong_weights(renamed(start, start + 1))
        case "other-weights":
            return wrong_weights(coarse(int(value or 4)))
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
    raise BadOption(f"there is no {name!r}", field="fault", mend="see python -m tests.liar")


def run(arguments: list[str]) -> int:
    """Split off the fault, and be a node."""
    fault, rest = _option(arguments, "--fault")
    if fault is None:
        print(__doc__)
        return 64
    try:
        return main(["node", *rest], hooks_for(fault, _window(fault, rest)))
    except (HearthringError, ValueError) as error:
        print(f"tests.liar: {error}", file=sys.stderr)
        return 64


def _option(arguments: list[str], name: str) -> tuple[str | None, list[str]]:
    """The value of an option, ``NAME VALUE`` or ``NAME=VALUE``, and what is left without it."""
    for at, argument in enumerate(arguments):
        if argument.startswith(f"{name}="):
            return argument.partition("=")[2], arguments[:at] + arguments[at + 1 :]
        if argument == name and at + 1 < len(arguments):
            return arguments[at + 1], arguments[:at] + arguments[at + 2 :]
    return None, arguments


def _window(fault: str, rest: list[str]) -> Window:
    """The first window that the node is told to serve."""
    layers, _ = _option(rest, "--layers")
    if layers is None:
        if fault in ("skip-layer", "swap-layer"):
            raise BadOption(f"{fault} needs it", field="layers", mend="give --layers START:END")
        return 0, 0
    return read_layers(layers)[0]


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
