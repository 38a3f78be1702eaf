"""Do mutated frames crash a node, make it grow, or disturb anybody?

Run: python -m bench.fuzz [--frames 1000000] [--live 20000] [--tls 20000] [--seed 1]

First, frames of every kind of message, with one to three changes, go through the real decoding
and, where they are steps, through a real session (order, rows, parents, positions, shapes, finite
values, hashes, signature) on an engine that computes nothing. Every second frame is a step; half of
the steps are changed before they are signed, as a hostile but well-spoken peer would. Then a stage
with a real engine takes mutated steps from one peer after another, while an honest session beside
it must get the bits it would get alone. The same over TLS, where honest sessions follow each other
all the while, after every broken rule and every flood there is was refused by its name. Anything
but a named error of a peer ends the run.
"""

import argparse
import asyncio
import gc
import os
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

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
from tests.fuzz.test_wire_fuzz import CORPUS, STEP, again, ended, mutated
from tests.stage_peer import ROOT, chain, honest_beside, rig, tiny_engine
from tests.tiny import write_tiny_gguf
from tests.tls_attack import attack, floods, mutations, refusals

WIDTH, ROWS = 64, 64
CLASS = "cd" * 32
WARM = 20
"""One part in so many is run before memory is first looked at."""


def resident() -> float:
    """MiB of this process, garbage collected."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


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
        except ProtocolError as error:
            self.refused[type(error).__name__] += 1
            self._open()
            return
        except HearthringError as error:  # the engine's own, of no slot left
            self.refused[type(error).__name__] += 1
            self._open()
            return
        self.passed += 1
        live = prepared.fresh
        self.step_id, self.commit = step.step_id + 1, tuple(row.id for row in live)
        self.row = max((row.id for row in step.rows), default=self.row)
        if self.step_id > 24 or [r.position for r in live] != [r.id - 1 for r in live]:
            self._open()


def offline(frames: int, seed: int) -> None:
    """Decode and validate, nothing else."""
    draw = np.random.default_rng(seed)
    sender, corpus = Sender(draw), [item for item in CORPUS.items() if item[0] != "step"]
    everything = [frame for kind, (samples, _) in corpus for frame in samples]
    decoded, refused, before = 0, Counter[str](), 0.0
    begun = time.monotonic()
    for n in range(frames):
        if n == frames // WARM:
            before = resident()
        if n % 2:
            sender.take(sender.frame())
            continue
        _, (samples, decode) = corpus[n // 2 % len(corpus)]
        data = mutated(samples[int(draw.integers(len(samples)))], everything, draw)
        try:
            decode(data)
        except ProtocolError as error:
            refused[type(error).__name__] += 1
            continue
        decoded += 1
    seconds = time.monotonic() - begun
    print(f"{frames} frames in {seconds:.0f} s: {frames / seconds:.0f} a second, no crash")
    print(f"  other messages: {decoded} decode, refused {dict(refused.most_common())}")
    print(f"  steps: {sender.passed} pass, in {sender.sessions} sessions")
    print(f"  steps refused {dict(sender.refused.most_common())}")
    print(f"  growth {resident() - before:.1f} MiB after the first {frames // WARM} frames")


async def live(frames: int, seed: int) -> None:
    """Mutated steps against a stage with a real engine, beside an honest session."""
    draw, ends = np.random.default_rng(seed), Counter[str]()
    with tempfile.TemporaryDirectory() as folder:
        engine = tiny_engine(write_tiny_gguf(Path(folder) / "tiny.gguf"))
    begun, before = time.monotonic(), 0.0
    async with rig(engine) as stage, honest_beside(stage) as honest:
        others = [encode_step(STEP), encode_step(honest.step(chain(6, 1, 5)))]
        honest.next_step -= 1
        peer = await stage.open()
        for n in range(frames):
            if n == frames // WARM:
                before = resident()
            if peer.next_step > 20:
                peer = await again(stage, peer)
            data = encode_step(peer.step(chain(peer.next_step, 2, ROOT, at=0)[:1]))
            await peer.rows.send(data if draw.integers(4) == 0 else mutated(data, others, draw))
            if end := await ended(peer):
                ends[end] += 1
                peer = await again(stage, peer)
        await peer.leave()
        await stage.settled(1)
        growth = resident() - before
    print(f"{frames} frames at a live stage in {time.monotonic() - begun:.0f} s")
    print(f"  sessions ended by {dict(ends.most_common())}")
    print("  the honest session beside got every bit it would get alone, and its receipt")
    print(f"  growth {growth:.1f} MiB after the first {frames // WARM} frames")


async def over_tls(frames: int, seed: int) -> None:
    """Broken rules, floods and mutated steps at a stage over TLS, beside honest sessions."""
    with tempfile.TemporaryDirectory() as folder:
        engine = tiny_engine(write_tiny_gguf(Path(folder) / "tiny.gguf"))
    before, begun = [0.0], [time.monotonic()]

    def look(n: int) -> None:
        if n == frames // WARM:
            before[0] = resident()
        if n and n % max(1, frames // WARM) == 0:
            print(f"  {n} frames after {time.monotonic() - begun[0]:.0f} s", flush=True)

    async with attack(engine) as found:
        print(
            f"over TLS: {await refusals(found)} broken rules, each refused by its own name",
            flush=True,
        )
        for what, said in (await floods(found)).items():
            print(f"  too many of {what}: {said}", flush=True)
        begun[0] = time.monotonic()
        ends = await mutations(found, frames, np.random.default_rng(seed), look)
        growth = resident() - before[0]
        print(f"{frames} frames over TLS in {time.monotonic() - begun[0]:.0f} s")
        print(f"  sessions ended by {dict(ends.most_common())}")
        print(
            f"  {found.stories} honest sessions meanwhile got every bit and their receipts; "
            f"a step took {found.slowest:.3f} s at most"
        )
        print(f"  growth {growth:.1f} MiB after the first {frames // WARM} frames")


def main() -> None:
    """All parts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, default=1_000_000)
    parser.add_argument("--live", type=int, default=20_000)
    parser.add_argument("--tls", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    print(f"seed {options.seed}")
    if options.frames:
        offline(options.frames, options.seed)
    if options.live:
        asyncio.run(live(options.live, options.seed))
    if options.tls:
        asyncio.run(over_tls(options.tls, options.seed))


if __name__ == "__main__":
    main()
