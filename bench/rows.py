"""Texts whose rows go through an engine in any company, and must come back with the same bits.

Of every row the residual is compared, of generated rows the logits too: computed row by row in the
plain run, together with whatever else is in a batch later.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from hearthring.protocol.tensors import F32, Residual, pack, unpack
from hearthring.shards.ends import Ends
from hearthring.shards.engine import Engine, Kind, KvCache, Segment
from hearthring.shards.fingerprint import uniform
from hearthring.shards.slots import ROOT, SlotMap

Make = Callable[[int], tuple[Engine, Ends | None]]
"""An engine with this many threads, and the head behind it if its window has one."""


@dataclass
class Text:
    """Rows of one session: states in, and what a plain run made of them."""

    states: F32
    prompt: int
    plain: list[bytes] = field(default_factory=list)
    logits: list[bytes] = field(default_factory=list)
    """Hashes; empty for prompt rows, and for all without a head."""


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

    def logits(self, out: F32, ends: Ends | None) -> list[bytes]:
        """Hashes of the text's rows' logits, which are computed with those of all others."""
        if ends is None or self.segment.rows[0].kind is Kind.PROMPT:
            return [b""] * len(self.own)
        made = ends.logits(ends.norm(out))
        return [hashlib.sha256(made[row].tobytes()).digest() for row, _ in self.own]

    def settle(self, out: F32, logits: list[bytes]) -> int:
        """Commit, drop the wrong branches, and count rows with other bits than in the plain run."""
        session, text = self.session, self.session.text
        session.slots.commit(self.chain)
        session.slots.drop(session.stray)
        session.stray.clear()
        session.tip, session.done = self.chain[-1], session.done + len(self.chain)
        return sum(
            out[row].tobytes() != text.plain[at] or found != text.logits[at]
            for (row, at), found in zip(self.own, logits, strict=True)
        )


def make_text(make: Make, length: int, prompt: int, residual: Residual, seed: int) -> Text:
    """A text with its plain run: prompt in chunks of 64, then row by row, one thread."""
    engine, ends = make(1)
    wide = uniform(seed, (length, engine.width))
    text = Text(unpack(pack(wide, residual), length, engine.width, residual), prompt)
    session = Session(text, length, SlotMap(length), engine.new_cache(length))
    draw = np.random.default_rng(0)
    text.plain, text.logits = [b""] * length, [b""] * length
    while session.done < length:
        left = prompt - session.done
        kind = Kind.PROMPT if left > 0 else Kind.GENERATED
        batch = session.place(min(64, left) if left > 0 else 1, kind, 0, draw)
        out, _ = engine.forward((batch.segment,), batch.states)
        logits = batch.logits(out, ends)
        for (row, at), found in zip(batch.own, logits, strict=True):
            text.plain[at], text.logits[at] = out[row].tobytes(), found
        batch.settle(out, logits)
    return text
