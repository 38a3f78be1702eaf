"""What every exact engine keeps to: a row's bits don't hang on how it is batched, cut or placed."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from hearthring.protocol.tensors import F32
from hearthring.shards.engine import Window
from tests.sessions import GENERATED, PROMPT, Session

Outputs = dict[int, bytes]


def reference(
    engine: Any, states: F32, prompt: int = 150, total: int = 170, window: Window | None = None
) -> Outputs:
    """One prompt in one step, then one generated row at a time."""
    session = Session(engine, states, window=window)
    session.chain(1, prompt)
    session.chain(prompt, total, GENERATED, 1)
    return session.out


def check_cuts(engine: Any, states: F32, step: int) -> None:
    """A prompt in steps of so many rows, and generated rows three at a time."""
    session = Session(engine, states)
    session.chain(1, 150, PROMPT, step)
    session.chain(150, 170, GENERATED, 3)
    assert session.out == reference(engine, states)


def check_windows(part: Callable[[int, int], Any], layers: int, states: F32) -> None:
    """Engines of two windows, one behind the other, are that of both."""
    whole = reference(part(0, layers), states)
    for cut in range(1, layers):
        first = reference(part(0, cut), states)
        assert reference(part(cut, layers), between(first, states)) == whole


def between(outputs: Outputs, states: F32) -> F32:
    """Outputs as the next window's states."""
    found = np.zeros_like(states)
    for row, data in outputs.items():
        found[row] = np.frombuffer(data, np.float32)
    return found


def check_tree(engine: Any, states: F32, prompt: int) -> None:
    """A tree of eight rows behind a prompt equals each of its branches alone."""
    at = prompt + 1
    parents = [prompt, prompt, at, at, at + 1, at + 2, at + 5, prompt]
    tree = Session(engine, states)
    tree.chain(1, at)
    tree.run(*((at + i, parent, GENERATED) for i, parent in enumerate(parents)))
    for leaf in range(at, at + len(parents)):
        path = [leaf]
        while path[0] >= at:
            path.insert(0, parents[path[0] - at])
        alone = Session(engine, states)
        alone.chain(1, at)
        for parent, row in pairwise(path):
            alone.run((row, parent, GENERATED))
        assert {i: tree.out[i] for i in alone.out} == alone.out


def check_company(engine: Any, states: Sequence[F32], capacities: Sequence[int]) -> None:
    """Sessions in one batch, in every order, are each as if it were alone."""
    sessions = [Session(engine, *one) for one in zip(states, capacities, strict=True)]
    steps = [[(i, i - 1, PROMPT) for i in range(1, 150)]]
    steps += [[(i, i - 1, GENERATED)] for i in range(150, 170)]
    for number, step in enumerate(steps):
        turn = number % len(sessions)
        order = sessions[turn:] + sessions[:turn]
        segments = tuple(session.place(step) for session in order)
        ids = [row[0] for row in step]
        out, _ = engine.forward(segments, np.concatenate([s.states[ids] for s in order]))
        for session, part in zip(order, np.split(out, len(order)), strict=True):
            session.keep(step, part)
    for session in sessions:
        assert session.out == reference(engine, session.states)


def check_dropped(engine: Any, states: F32, noise: F32) -> None:
    """Each row of a text of 119 is the last of four siblings; the others are dropped with a child
    each, in a cache so full that it is compacted."""
    plain = Session(engine, states)
    plain.chain(1, 100)
    plain.chain(100, 120, GENERATED, 1)
    session, kept = Session(engine, noise.copy(), capacity=125), list[bytes]()
    parent, fresh = 0, 1
    for row in range(1, 120):
        kind = PROMPT if row < 100 else GENERATED
        ids = list(range(fresh, fresh + 6))
        session.states[ids[3]] = states[row]
        parents = [parent] * 4 + ids[:2]
        session.run(*((i, p, kind) for i, p in zip(ids, parents, strict=True)))
        session.slots.commit([ids[3]])
        session.slots.drop([*ids[:3], ids[4]])
        kept.append(session.out[ids[3]])
        parent, fresh = ids[3], fresh + 6
    assert kept == list(plain.out.values())
    assert session.moves


def check_threads(make: Callable[[int], Any], states: F32) -> None:
    """A prompt, generated rows, a tree of eight rows behind them, and the fingerprint, on one, two
    and three threads."""
    found = []
    for threads in (1, 2, 3):
        engine = make(threads)
        session = Session(engine, states)
        session.chain(1, 150)
        session.chain(150, 154, GENERATED, 1)
        parents = (153, 153, 154, 154, 155, 156, 159, 153)
        session.run(*((154 + i, parent, GENERATED) for i, parent in enumerate(parents)))
        found.append((session.out, engine.numerics.fingerprint))
    for other in found[1:]:
        assert [row for row, bits in other[0].items() if bits != found[0][0][row]] == []
        assert other[1] == found[0][1]
