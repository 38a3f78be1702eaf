"""What must hold in any ring: steps that follow each other never write a token later.

The invariants of distributed speculative inference (Timor et al., ICLR 2025, theorems 1 and 2),
token by token. They suppose links that aren't full, stages that stop when they are told to, and a
processor for whoever is at work. Where processors are few none of that holds: what is guessed takes
them from what is certain. There, one step at a time goes on as before, and guessing costs at most
the factor by which those at work outnumber the processors.
"""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.simulator import PLAIN, UNLIMITED, Outcome, Policy, simulate
from hearthring.client.cost import Hop, Ring
from hearthring.shards.timings import Fit

TOKENS = 40
TIMES = st.floats(0.01, 0.1)
ACCEPTANCES = st.lists(st.floats(0.0, 0.95), min_size=1, max_size=1)


@st.composite
def rings(draw: st.DrawFn, growing: bool) -> Ring:
    """One to six unequal stages and hops; with ``growing``, rows of a step cost on top."""
    stages = draw(st.lists(TIMES, min_size=1, max_size=6))
    hops = draw(st.lists(st.floats(0.0, 0.05), min_size=len(stages) + 1, max_size=len(stages) + 1))
    # Cancellations go the first hop's way and must not come after what follows them.
    hops[0] = max(hops)
    rows = [draw(st.floats(0.0, 0.02)) if growing else 0.0 for _ in stages]
    ends = Fit(draw(st.floats(0.0, 0.01)), 0.0)
    return Ring(
        tuple(Fit(step, row) for step, row in zip(stages, rows, strict=True)),
        tuple(Hop(hop) for hop in hops),
        ends=ends,
        draft=draw(st.floats(0.0, 0.05)),
    )


def no_later(ahead: Outcome, behind: Outcome) -> bool:
    return all(a <= b + 1e-9 for a, b in zip(ahead.known, behind.known, strict=False))


@settings(max_examples=60, deadline=None)
@given(rings(growing=True), ACCEPTANCES, st.integers(2, 9), st.integers(2, 40), st.integers(0, 999))
def test_steps_that_follow_never_come_later_than_waiting_ones(
    ring: Ring, acceptance: list[float], rows: int, flights: int, seed: int
) -> None:
    """The same chains, the next ones sent before the first is back: whatever a row costs."""
    waiting = simulate(ring, acceptance, Policy(rows), TOKENS, seed=seed)
    following = simulate(
        ring, acceptance, Policy(rows, flights), TOKENS, seed=seed, interruptible=True
    )
    assert no_later(following, waiting)


@settings(max_examples=60, deadline=None)
@given(
    rings(growing=False), ACCEPTANCES, st.integers(1, 8), st.integers(1, 20), st.integers(0, 999)
)
def test_what_leaves_at_once_never_comes_later_than_without_a_draft(
    ring: Ring, acceptance: list[float], rows: int, flights: int, seed: int
) -> None:
    """Where a step costs the same for any rows, as the theorem supposes."""
    plain = simulate(ring, acceptance, PLAIN, TOKENS, seed=seed)
    policy = Policy(rows, flights, head=1)
    ahead = simulate(ring, acceptance, policy, TOKENS, seed=seed, interruptible=True)
    assert no_later(ahead, plain)


@settings(max_examples=60, deadline=None)
@given(rings(growing=False), ACCEPTANCES, st.integers(1, 4), st.integers(1, 3), st.integers(0, 999))
def test_small_steps_at_once_never_come_later_than_large_ones(
    ring: Ring, acceptance: list[float], rows: int, times: int, seed: int
) -> None:
    """Given stages that keep up: a step is through the slowest one while the next is drafted."""
    slowest = max(*(stage.step for stage in ring.stages), ring.ends.step)
    slow = Ring(ring.stages, ring.hops, ends=ring.ends, draft=max(ring.draft, slowest / rows))
    waiting = simulate(slow, acceptance, Policy(rows * times + 1), TOKENS, seed=seed)
    policy = Policy(rows, UNLIMITED, head=1)
    ahead = simulate(slow, acceptance, policy, TOKENS, seed=seed, interruptible=True)
    assert no_later(ahead, waiting)


@settings(max_examples=60, deadline=None)
@given(rings(growing=True), ACCEPTANCES, st.integers(1, 9), st.integers(1, 3), st.integers(0, 999))
def test_one_step_at_a_time_needs_one_processor(
    ring: Ring, acceptance: list[float], rows: int, processors: int, seed: int
) -> None:
    many = simulate(ring, acceptance, Policy(rows), TOKENS, seed=seed)
    few = simulate(
        replace(ring, processors=processors), acceptance, Policy(rows), TOKENS, seed=seed
    )
    assert few.known == pytest.approx(many.known)


@settings(max_examples=60, deadline=None)
@given(
    rings(growing=False),
    ACCEPTANCES,
    st.integers(1, 8),
    st.integers(2, 20),
    st.integers(1, 3),
    st.integers(0, 999),
)
def test_with_few_processors_guessing_loses_no_more_than_what_it_takes_from_them(
    ring: Ring, acceptance: list[float], rows: int, flights: int, processors: int, seed: int
) -> None:
    """Every stage and the client's head may be at work at once, each with its share."""
    plain = simulate(ring, acceptance, PLAIN, TOKENS, seed=seed)
    few, policy = replace(ring, processors=processors), Policy(rows, flights, head=1)
    ahead = simulate(few, acceptance, policy, TOKENS, seed=seed, interruptible=True)
    factor = max(1.0, (len(ring.stages) + 1) / processors)
    assert all(a <= b * factor + 1e-9 for a, b in zip(ahead.known, plain.known, strict=False))


def test_with_few_processors_guessing_may_be_slower_than_none() -> None:
    """The reason why the factor above can't be left out: bad guesses on one processor."""
    ring = Ring((Fit(0.02, 0.0),) * 4, (Hop(0.0),) * 5, processors=1)
    plain = simulate(ring, [0.1], PLAIN, TOKENS)
    ahead = simulate(ring, [0.1], Policy(1, 8, head=1), TOKENS, interruptible=True)
    assert ahead.rate < 0.6 * plain.rate
