"""A stage's session on an engine that computes nothing, and a peer that sends it mutated steps."""

from collections import Counter
from dataclasses import dataclass, replace

import numpy as np

from hearthring.node.stage_session import StageSession
from hearthring.protocol.errors import HearthringError, ProtocolError
from hearthring.protocol.identity import Identity
from hearthring.protocol.messages import GENERATED, PROMPT, HopTime, Open, Row, Step
from hearthring.protocol.tensors import F32, Residual, pack
from hearthring.protocol.wire import decode_step, encode_step
from hearthring.shards.engine import KvCache, Numerics, Segment, Slots, Window
from hearthring.verify.claims import claim
from hearthring.verify.rowhash import row_hashes
from tests.frames import STEP
from tests.mutants import mutated

WIDTH, ROWS = 64, 64
CLASS = "cd" * 32


@dataclass
class NullCache:
    """Nothing is kept."""

    capacity: int
    window: Window

    def move(self, source: Slots, target: Slots) -> None:
        """Nothing to move."""


class NullEngine:
    """An engine that hands back what it is given."""

    start, end, width, threads = 0, 4, WIDTH, 1
    numerics = Numerics("null", Residual.FP32, CLASS)

    def new_cache(self, slots: int, window: Window | None = None) -> KvCache:
        """A cache that keeps nothing."""
        return NullCache(slots, window or (self.start, self.end))

    def forward(
        self, segments: tuple[Segment, ...], states: F32, taps: frozenset[int] = frozenset()
    ) -> tuple[F32, dict[int, F32]]:
        """The states, unchanged."""
        return states, {}


class Sender:
    """A peer with a session at a null stage; it opens another whenever one has ended."""

    def __init__(self, draw: np.random.Generator) -> None:
        self.who, self.node, self.draw = Identity.new(), Identity.new(), draw
        self.engine = NullEngine()
        self.others = [encode_step(STEP)]
        self.sessions = self.passed = 0
        self.refused = Counter[str]()
        self._open()

    def _open(self) -> None:
        me = self.who.node_id
        wish = Open(
            *(self.draw.bytes(16), 0, "ab" * 32, 0, 4, "fp32", CLASS, me, me, ""),
            *(ROWS, bytes(32), CLASS, ()),
        )
        self.session = StageSession(wish, me, self.engine, self.node)
        self.wish, self.step_id, self.row, self.commit = wish, 1, 0, ()
        self.sessions += 1

    def step(self) -> Step:
        """An honest next step, unsigned: a prompt first, then a row at a time."""
        count = 4 if self.step_id == 1 else 1
        kind = PROMPT if self.step_id == 1 else GENERATED
        rows = tuple(Row(n + 1, n, n, kind) for n in range(self.row, self.row + count))
        states = self.draw.standard_normal((count, WIDTH)).astype(np.float32)
        wire = pack(states, Residual.FP32)
        head = self.wish.session, 0, self.step_id
        return Step(*head, rows, wire, self.commit, boundary=self.wish.start)

    def sign(self, step: Step) -> Step:
        """Sign a step of any content, as far as it has hashes."""
        live = step.live
        try:
            hashes = row_hashes(
                *(bytes.fromhex(self.wish.model_id), bytes.fromhex(CLASS), 0),
                *([row.kind for row in live], [row.position for row in live]),
                *(step.states, len(live)),
            )
        except HearthringError:
            hashes = []
        ids = [row.id for row in live]
        said = claim(step.session, step.epoch, step.step_id, 0, ids, hashes)
        return replace(step, signature=self.who.sign(said))

    def frame(self) -> bytes:
        """One frame: seldom honest, else changed after or before it was signed."""
        step, way = self.step(), int(self.draw.integers(16))
        if way == 0:
            return encode_step(self.sign(step))
        if way < 8:
            return mutated(encode_step(self.sign(step)), self.others, self.draw)
        try:
            return encode_step(
                self.sign(decode_step(mutated(encode_step(step), self.others, self.draw)))
            )
        except ProtocolError:
            return mutated(encode_step(step), self.others, self.draw)

    def take(self, data: bytes) -> None:
        """What a stage does with a frame."""
        try:
            step = decode_step(data)
            if step.session != self.wish.session:
                self.refused["foreign session, passed over"] += 1
                return
            prepared = self.session.prepare(step)
            output, _ = self.engine.forward((prepared.segment,), prepared.states)
            self.session.confirm(prepared)
            self.session.complete(prepared, output, HopTime(0.0, 0.0))
        except HearthringError as error:  # a peer's, or the engine's own of no slot left
            self.refused[type(error).__name__] += 1
            self._open()
            return
        self.passed += 1
        live = prepared.fresh
        self.step_id, self.commit = step.step_id + 1, tuple(row.id for row in live)
        self.row = max((row.id for row in step.rows), default=self.row)
        if self.step_id > 24 or [r.position for r in live] != [r.id - 1 for r in live]:
            self._open()
