"""Stages of one process, without a network: each takes signed steps, hashes, computes and signs.

What benches of proofs run, to see where the time of one thread goes.
"""

import contextlib
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace

from bench.unproven import unproven
from hearthring.node.archive import CellRecord
from hearthring.node.stage_session import StageSession
from hearthring.protocol.identity import Identity
from hearthring.protocol.messages import GENERATED, PROMPT, HopTime, Open, Row, Step
from hearthring.shards.engine import Engine
from hearthring.shards.tracing import TracingEngine
from hearthring.verify import receipts
from hearthring.verify.claims import Check
from hearthring.verify.sealing import Seal

MODEL, PROMPT_ROWS = "ab" * 32, 64
Account = tuple[receipts.ReceiptBody, CellRecord, bytes]
"""A stage's receipt, what it took, and what it sent."""


class Clock:
    """CPU seconds of this thread, by what they were spent on."""

    def __init__(self) -> None:
        self.spent: dict[str, float] = {}

    @contextlib.contextmanager
    def on(self, what: str) -> Iterator[None]:
        begun = time.thread_time()
        yield
        self.spent[what] = self.spent.get(what, 0.0) + time.thread_time() - begun


class Ring:
    """Stages of one model, each a session of its own, and their client.

    ``clock`` tells how long engines took, what is around them, checks of signatures (which are made
    beside engines and the head), cells (once a step has left), and what the client hashes and
    signs. A ``bare`` ring proves nothing.
    """

    def __init__(
        self, engines: Sequence[Engine], rows: int, cells: bool, bare: bool = False
    ) -> None:
        self.bare = bare
        self.engines, self.who = engines, [Identity.new() for _ in range(len(engines) + 1)]
        self.session, self.clock = bytes(16), Clock()
        residual = engines[0].numerics.residual.value
        classes = ["cd" * 32, *(e.numerics.fingerprint for e in engines)]
        self.stages = []
        for place, engine in enumerate(engines):
            after = self.who[(place + 2) % len(self.who)].node_id
            wish = Open(
                *(self.session, 0, MODEL, engine.start, engine.end, residual),
                *(engine.numerics.fingerprint, self.who[place].node_id, after, "", rows),
                *(bytes(32), classes[place]),
                cells=cells,
            )
            client = self.who[0].node_id
            self.stages.append(StageSession(wish, client, engine, self.who[place + 1]))
        self._tracing = [e if cells and isinstance(e, TracingEngine) else None for e in engines]
        about = 0, engines[0].start, bytes.fromhex(MODEL), bytes.fromhex(classes[0])
        self._sealing = Seal(self.who[0], self.session, *about)

    def run(self, step: Step) -> None:
        """One step through all stages."""
        with unproven(sys.modules[__name__]) if self.bare else contextlib.nullcontext():
            self._run(step)

    def _run(self, step: Step) -> None:
        with self.clock.on("client"):
            step = self._signed(step)
        for engine, tracing, stage in zip(self.engines, self._tracing, self.stages, strict=True):
            with self.clock.on("around"):
                prepared = stage.prepare(step)
            with self.clock.on("checks"):
                prepared.check.begin()
            trace = None
            with self.clock.on("engine"):
                if tracing is not None:
                    out, _, trace = tracing.forward_traced((prepared.segment,), prepared.states)
                else:
                    out, _ = engine.forward((prepared.segment,), prepared.states)
            with self.clock.on("around"):
                stage.confirm(prepared)
                step = stage.complete(prepared, out, HopTime(0.0, 0.0), trace)
            with self.clock.on("cells"):
                stage.settle()
        last = self.stages[-1].wish  # a client checks it beside the head
        about = last.end, bytes.fromhex(MODEL), bytes.fromhex(last.fingerprint)
        with self.clock.on("checks"):
            Check(self.who[-1].node_id, step, step.rows, *about).confirm()

    def _signed(self, step: Step) -> Step:
        _, signature = self._sealing.put(step.step_id, step.rows, step.states)
        return replace(step, signature=signature)


def generate(ring: Ring, wire: bytes, size: int, rows: int) -> Iterator[dict[str, float]]:
    """A prompt in one step, then rows one by one; yields what each step took, in seconds."""
    commit: tuple[int, ...] = ()
    for number, first in enumerate((0, *range(PROMPT_ROWS, rows)), 1):
        count, kind = (1, GENERATED) if first else (PROMPT_ROWS, PROMPT)
        made = tuple(Row(p + 1, p, p, kind) for p in range(first, first + count))
        states = wire[first * size : (first + count) * size]
        before = dict(ring.clock.spent)
        ring.run(Step(ring.session, 0, number, made, states, commit))
        commit = tuple(row.id for row in made)
        yield {what: all_ - before.get(what, 0.0) for what, all_ in ring.clock.spent.items()}
    for stage in ring.stages:
        with ring.clock.on("receipt"):
            stage.receipt(commit)


def records(ring: Ring) -> list[Account]:
    """What auditors and stages have after the end."""
    found = []
    for stage in ring.stages:
        receipt, record = stage.receipt(()), stage.record()
        assert receipt is not None
        assert record is not None
        assert record.cells is not None
        found.append((receipts.read(receipt), record.cells, record.wire))
    return found
