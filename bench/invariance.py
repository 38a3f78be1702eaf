"""Do rows keep their bits, whatever happens around them? And what does that cost?

Two texts, each of prompt rows and then generated ones, go through an engine in a plain way: prompt
in chunks of 64, then row by row, one thread. Then random schedules run them again: batches of 1 to
32 rows, chunks of 1 to 512, one or two threads, trees whose wrong branches are dropped, both texts
in one pass or apart, contexts to 2000. Every row's residual and every generated row's logits must
come back with the same bits: on the whole model with ggml, on its first layers with torch (all
would take an hour, and every layer is computed alike), and on two layers of fixed weights of the
model's shape in every type, and in both that can be packed. At the end the engines run beside
themselves without invariance (``cost.py``).

Run: python -m bench.invariance MODEL.gguf [--schedules 20] [--seed 1] [--short] [--costs]
     python -m bench.invariance MODEL.gguf --only torch Q4_K [--torch-layers 30]
"""

import argparse
import sys
import time
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType

from bench.cost import show_costs
from bench.rows import Make, Session, Text, make_text
from bench.side_by_side import WithoutKeys
from hearthring.protocol.tensors import Residual
from hearthring.shards.ends import Ends, open_ends
from hearthring.shards.engine import Engine, Kind
from hearthring.shards.engines import load_engine
from hearthring.shards.families import layer_parts
from hearthring.shards.fingerprint import fixed_weight
from hearthring.shards.ggml_engine import GgmlEngine
from hearthring.shards.ggml_library import load_ggml
from hearthring.shards.ggml_policy import Policy
from hearthring.shards.gguf_file import GgufFile
from hearthring.shards.shape import Shape
from hearthring.shards.slots import SlotMap

ENGINES = ("ggml", "torch")
TYPES = ("F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0")
K_TYPES = ("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K")
"""Types in blocks of 256: the shape is widened until rows divide."""
PACKED = ("packed-Q4_0", "packed-Q4_K")
"""Types that have an interleaved layout."""

PASSES = 100
"""A prompt is cut into about twice so many chunks at most: the smallest are for short ones, or a
run would take hours."""

EVERY = 10.0
"""Seconds between lines that tell how far it is, where no terminal can overwrite them."""


def run_schedule(make: Make, texts: list[Text], draw: np.random.Generator) -> tuple[int, int]:
    """Rows compared and rows that differ."""
    engine, ends = make(int(draw.integers(1, 3)))
    sessions = []
    for text in texts:
        length = int(min(len(text.states), 30 * 2 ** (draw.random() * 6.1)))
        room = length + 80
        sessions.append(Session(text, length, SlotMap(room), engine.new_cache(room)))
    compared = wrong = 0
    longest_batch, longest_chunk = int(draw.integers(1, 33)), int(2 ** draw.integers(0, 10))
    longest_chunk = max(longest_chunk, max(s.length for s in sessions) // PASSES)
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
            mine = out[at : at + len(batch.segment.rows)]
            wrong += batch.settle(mine, batch.logits(mine, ends))
            compared, at = compared + len(batch.own), at + len(mine)
    return compared, wrong


def model_engine(name: str, file: GgufFile, layers: int) -> Make:
    """The first layers of a model with its head."""

    @cache
    def make(threads: int) -> tuple[Engine, Ends]:
        engine = load_engine(name, file, (0, layers), None, threads)
        return engine, open_ends(name, file, engine.numerics.residual, threads)

    return make


def fixed_engine(shape: Shape, kind: str, residual: Residual) -> Make:
    """Two layers of fixed weights in one type, packed if its name says so."""
    policy = Policy(repack=kind in PACKED)
    kind = kind.removeprefix("packed-")
    if kind in K_TYPES:
        shape = replace(shape, width=768, heads=12, kv_heads=4, head_width=64, ffn=1536)
    shape = replace(shape, layers=2)
    number = int(GGMLQuantizationType[kind])
    kinds = {part: number if len(size) > 1 else 0 for part, size in layer_parts(shape).items()}
    weights = WithoutKeys(load_ggml(), lambda name: fixed_weight(name, shape), shape, kinds)
    return cache(
        lambda threads: (GgmlEngine(weights, 0, 2, residual, threads, policy=policy), None)
    )


class Progress:
    """How far it is, on stderr."""

    def __init__(self, name: str, schedules: int) -> None:
        self._name, self._of = name, schedules
        self._next = time.perf_counter() + EVERY

    def show(self, done: int, rows: int) -> None:
        """After each schedule."""
        tty = sys.stderr.isatty()
        if tty or time.perf_counter() >= self._next:
            self._next = time.perf_counter() + EVERY
            line = f"  {self._name}: {done} of {self._of} schedules, {rows} rows"
            print(line, end="\r" if tty else "\n", file=sys.stderr, flush=True)


def check(name: str, make: Make, lengths: tuple[int, int], schedules: int, seed: int) -> bool:
    """Run schedules and print one line."""
    begun, residual = time.perf_counter(), make(1)[0].numerics.residual
    texts = [
        make_text(make, length, length * 2 // 3, residual, seed + i)
        for i, length in enumerate(lengths)
    ]
    progress = Progress(name, schedules)
    compared = wrong = 0
    for number in range(schedules):
        rows, bad = run_schedule(make, texts, np.random.default_rng([seed, number]))
        compared, wrong = compared + rows, wrong + bad
        progress.show(number + 1, compared)
    took = time.perf_counter() - begun
    print(f"{name:28} {compared:7d} rows compared, {wrong} differ  ({took:.0f} s)", flush=True)
    return wrong == 0


def main() -> int:
    """Check everything; the exit code tells whether all bits were equal."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--schedules", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--short", action="store_true", help="texts of 200 rows, a minute in all")
    parser.add_argument("--costs", action="store_true", help="only what invariance costs")
    names = (*ENGINES, *TYPES, *K_TYPES, *PACKED)
    parser.add_argument(
        "--only", nargs="+", choices=names, metavar="NAME", help=f"of {', '.join(names)}"
    )
    parser.add_argument(
        "--torch-layers", type=int, default=6, help="how many of the model's layers with torch"
    )
    options = parser.parse_args()
    file = GgufFile(options.model)
    if options.costs:
        show_costs(file)
        return 0
    lengths = (200, 130) if options.short else (2000, 700)
    print(f"seed {options.seed}, {options.schedules} schedules each", flush=True)
    good = []
    for name in options.only or names:
        if name in ENGINES:
            whole = file.shape.layers
            layers = min(whole, options.torch_layers) if name == "torch" else whole
            make = model_engine(name, file, layers)
            title = f"{name}, {layers} layers and head"
        else:
            make, title = fixed_engine(file.shape, name, Residual.FP16), f"ggml {name}"
        good.append(check(title, make, lengths, options.schedules, options.seed))
    if not options.only:
        show_costs(file)
    return 0 if all(good) else 1


if __name__ == "__main__":
    raise SystemExit(main())
