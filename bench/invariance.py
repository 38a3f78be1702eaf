"""Do rows keep their bits, whatever happens around them? And what does that cost?

Two texts, each of prompt rows and then generated ones, go through an engine in a plain way: prompt
in chunks of 64, then row by row, one thread. Then random schedules run them again: batches of 1 to
32 rows, chunks of 1 to 512, one or two threads, trees whose wrong branches are dropped, both texts
in one pass or apart, contexts to 2000. Every row must come back with the same bits: on a whole
model with each engine, and on two layers of fixed weights of the model's shape in every type.
At the end the engines run beside themselves without invariance (``cost.py``).

Run: python bench/invariance.py MODEL.gguf [--schedules 20] [--seed 1] [--short] [--costs]
"""

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from cost import show_costs
from gguf import GGMLQuantizationType

from hearthring.protocol.tensors import F32, Residual, pack, unpack
from hearthring.shards.engine import Engine, Kind, KvCache, Segment
from hearthring.shards.engines import load_engine
from hearthring.shards.families import layer_parts
from hearthring.shards.fingerprint import fixed_weight, uniform
from hearthring.shards.ggml_check import FixedWeights
from hearthring.shards.ggml_engine import GgmlEngine
from hearthring.shards.ggml_library import load_ggml
from hearthring.shards.gguf_file import GgufFile
from hearthring.shards.shape import Shape
from hearthring.shards.slots import ROOT, SlotMap

TYPES = ("F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0")
K_TYPES = ("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K")
"""Types in blocks of 256: the shape is widened until rows divide."""

Make = Callable[[int], Engine]
"""An engine with this many threads."""


@dataclass
class Text:
    """Rows of one session: states in, and what a plain run made of them."""

    states: F32
    prompt: int
    plain: list[bytes] = field(default_factory=list)


@dataclass
class Session:
    """A text on its way through a schedule."""

    text: Text
    length: int
    slots: SlotMap
    cache: KvCache
    done: int = 0
    tip: int = ROOT
    last: int = 0
    stray: list[int] = field(default_factory=list)

    def place(self, count: int, kind: Kind, decoys: int, draw: np.random.Generator) -> "Batch":
        """The next ``count`` rows and as many wrong branches off them."""
        moved = self.slots.compaction(count + decoys)
        if moved is not None:
            self.cache.move(*moved)
        rows, states, own, parents = [], [], [], [(self.tip, self.done)]
        plan = sorted([True] * count + [False] * decoys, key=lambda _: draw.random())
        for true in plan:
            self.last += 1
            if true:
                parent, position = parents[-1]
                states.append(self.text.states[position])
                own.append((len(rows), position))
                parents.append((self.last, position + 1))
            else:
                parent, position = parents[int(draw.integers(len(parents)))]
                states.append(self.text.states[(position * 7 + 1) % len(self.text.states)])
                self.stray.append(self.last)
            row = self.slots.insert(self.last, parent, position, kind)
            assert row is not None
            rows.append(row)
        chain = [row_id for row_id, _ in parents[1:]]
        return Batch(self, Segment(self.cache, tuple(rows)), np.array(states), own, chain)


@dataclass
class Batch:
    """Rows of one session in a pass: which of them belong to the text, and where."""

    session: Session
    segment: Segment
    states: F32
    own: list[tuple[int, int]]
    chain: list[int]

    def settle(self, out: F32) -> int:
        """Commit, drop the wrong branches, and count rows with other bits than in the plain run."""
        session = self.session
        session.slots.commit(self.chain)
        session.slots.drop(session.stray)
        session.stray.clear()
        session.tip, session.done = self.chain[-1], session.done + len(self.chain)
        return sum(out[row].tobytes() != session.text.plain[at] for row, at in self.own)


def make_text(engine: Engine, length: int, prompt: int, residual: Residual, seed: int) -> Text:
    """A text with its plain run."""
    wide = uniform(seed, (length, engine.width))
    text = Text(unpack(pack(wide, residual), length, engine.width, residual), prompt)
    session = Session(text, length, SlotMap(length), engine.new_cache(length))
    draw = np.random.default_rng(0)
    text.plain = [b""] * length
    while session.done < length:
        left = prompt - session.done
        kind = Kind.PROMPT if left > 0 else Kind.GENERATED
        batch = session.place(min(64, left) if left > 0 else 1, kind, 0, draw)
        out, _ = engine.forward((batch.segment,), batch.states)
        for row, at in batch.own:
            text.plain[at] = out[row].tobytes()
        batch.settle(out)
    return text


def run_schedule(make: Make, texts: list[Text], draw: np.random.Generator) -> tuple[int, int]:
    """Rows compared and rows that differ."""
    engine = make(int(draw.integers(1, 3)))
    sessions = []
    for text in texts:
        length = int(min(len(text.states), 30 * 2 ** (draw.random() * 6.1)))
        room = length + 80
        sessions.append(Session(text, length, SlotMap(room), engine.new_cache(room)))
    compared = wrong = 0
    longest_batch, longest_chunk = int(draw.integers(1, 33)), int(2 ** draw.integers(0, 10))
    while running := [s for s in sessions if s.done < s.length]:
        chosen = running if draw.random() < 0.7 else [running[int(draw.integers(len(running)))]]
        batches = []
        for session in chosen:
            left = min(session.text.prompt, session.length) - session.done
            if left > 0:
                count = min(left, int(draw.integers(1, longest_chunk + 1)))
                batches.append(session.place(count, Kind.PROMPT, 0, draw))
            else:
                rows = int(draw.integers(1, longest_batch + 1))
                count = min(session.length - session.done, int(draw.integers(1, rows + 1)))
                batches.append(session.place(count, Kind.GENERATED, rows - count, draw))
        out, _ = engine.forward(
            tuple(b.segment for b in batches), np.concatenate([b.states for b in batches])
        )
        at = 0
        for batch in batches:
            count = len(batch.segment.rows)
            wrong += batch.settle(out[at : at + count])
            compared += len(batch.own)
            at += count
    return compared, wrong


def fixed_engine(shape: Shape, kind: str, residual: Residual) -> Make:
    """Two layers of fixed weights in one type."""
    if kind in K_TYPES:
        shape = replace(shape, width=768, heads=12, kv_heads=4, head_width=64, ffn=1536)
    shape = replace(shape, layers=2)
    number = int(GGMLQuantizationType[kind])
    kinds = {part: number if len(size) > 1 else 0 for part, size in layer_parts(shape).items()}
    weights = FixedWeights(load_ggml(), lambda name: fixed_weight(name, shape), shape, kinds)
    return lambda threads: GgmlEngine(weights, 0, 2, residual, threads)


def check(name: str, make: Make, lengths: tuple[int, int], schedules: int, seed: int) -> bool:
    """Run schedules and print one line."""
    begun, plain = time.perf_counter(), make(1)
    residual = plain.numerics.residual
    texts = [
        make_text(plain, length, length * 2 // 3, residual, seed + i)
        for i, length in enumerate(lengths)
    ]
    took = time.perf_counter() - begun
    compared = wrong = 0
    for number in range(schedules):
        draw = np.random.default_rng([seed, number])
        rows, bad = run_schedule(make, texts, draw)
        compared, wrong = compared + rows, wrong + bad
        if sys.stderr.isatty():
            print(f"  {name}: schedule {number + 1} of {schedules}", end="\r", file=sys.stderr)
    print(f"{name:28} {compared:7d} rows compared, {wrong} differ  (plain run {took:.0f} s)")
    sys.stdout.flush()
    return wrong == 0


def main() -> int:
    """Check everything; the exit code tells whether all bits were equal."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--schedules", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--short", action="store_true", help="texts of 200 rows, a minute in all")
    parser.add_argument("--costs", action="store_true", help="only what invariance costs")
    options = parser.parse_args()
    file = GgufFile(options.model)
    if options.costs:
        show_costs(file)
        return 0
    layers = (0, file.shape.layers)
    lengths = (200, 130) if options.short else (2000, 700)
    print(f"seed {options.seed}, {options.schedules} schedules each")
    good = []
    for name in ("ggml", "torch"):
        made: dict[int, Engine] = {}

        def make(threads: int, name: str = name, made: dict[int, Engine] = made) -> Engine:
            if threads not in made:
                made[threads] = load_engine(name, file, layers, None, threads)
            return made[threads]

        good.append(check(f"{name}, whole model", make, lengths, options.schedules, options.seed))
    for kind in (*TYPES, *K_TYPES):
        make = fixed_engine(file.shape, kind, Residual.FP16)
        good.append(check(f"ggml {kind}", make, lengths, options.schedules, options.seed))
    show_costs(file)
    return 0 if all(good) else 1


if __name__ == "__main__":
    raise SystemExit(main())
