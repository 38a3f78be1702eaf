"""The real model: whatever the schedule, a row has the same bits."""

import random

import numpy as np
import pytest

from hearthring.protocol.tensors import Residual
from hearthring.shards.engine import Kind, Segment
from hearthring.shards.slots import SlotMap
from hearthring.shards.torch_ends import TorchEnds
from hearthring.shards.torch_engine import TorchEngine
from tests.keeping_bits import check_threads

pytestmark = pytest.mark.model

LENGTHS = (1, 5, 31, 64, 65, 90, 130, 200)
GENERATED = 4


@pytest.fixture(scope="module")
def parts(smollm2):
    file = smollm2.open()
    engine = TorchEngine(file.dequantised, file.shape, 0, file.shape.layers, Residual.BF16)
    return engine, TorchEnds.open(file, Residual.BF16)


def run(engine, states, prompt, steps):
    """Output rows of a session whose rows are run in steps of these sizes."""
    slots, cache = SlotMap(len(states)), engine.new_cache(len(states))
    outs, done = [], 0
    for step in steps:
        rows = []
        for position in range(done, done + step):
            kind = Kind.PROMPT if position < prompt else Kind.GENERATED
            rows.append(slots.insert(position + 1, position, position, kind))
        out, _ = engine.forward((Segment(cache, tuple(rows)),), states[done : done + step])
        outs.append(out)
        done += step
    return np.concatenate(outs)


@pytest.mark.parametrize("length", LENGTHS)
def test_random_schedules_give_the_same_bits(parts, length):
    engine, ends = parts
    draw = random.Random(length)
    total = length + GENERATED
    states = ends.embed([draw.randrange(49_152) for _ in range(total)])
    plain = run(engine, states, length, [length] + [1] * GENERATED)
    steps = []
    while sum(steps) < total:
        steps.append(min(draw.choice((1, 8, 50, 64, 100)), total - sum(steps)))
    assert run(engine, states, length, steps).tobytes() == plain.tobytes()
    assert np.isfinite(ends.logits(ends.norm(plain[-1:]))).all()


def test_thread_count_changes_no_bit(smollm2):
    file, draw = smollm2.open(), random.Random(1)
    ids = [draw.randrange(49_152) for _ in range(162)]
    one, *others = (TorchEnds.open(file, threads=threads) for threads in (1, 2, 3))
    states = one.embed(ids)
    check_threads(
        lambda threads: TorchEngine(file.dequantised, file.shape, 0, 2, Residual.FP32, threads),
        states,
    )
    logits = one.logits(one.norm(states[:9]))
    for ends in others:
        assert np.array_equal(ends.logits(ends.norm(states[:9])), logits)
        assert ends.numerics == one.numerics
