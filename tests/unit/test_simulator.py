"""The simulated ring against closed forms, and what clients do to each other in it."""

from itertools import pairwise

import pytest

from bench.predict import acceptance_of, gain, measured_ring, policy_named
from bench.simulator import PLAIN, Policy, simulate
from bench.simulator.clock import Clock
from bench.simulator.truth import Truth
from hearthring.client.cost import Hop, Ring, chain, pipeline, plain
from hearthring.client.trees import best_shapes
from hearthring.shards.timings import Fit


def home(hop: float = 0.01, growth: float = 0.1, stages: int = 4, **more: float) -> Ring:
    fit = Fit(0.02 * (1 - growth), 0.02 * growth)
    return Ring((fit,) * stages, (Hop(hop),) * (stages + 1), **more)  # type: ignore[arg-type]


UNEQUAL = Ring(
    (Fit(0.01, 0.001), Fit(0.04, 0.004), Fit(0.002, 0.0)),
    (Hop(0.001, 0.002), Hop(0.03), Hop(0.0, 0.001), Hop(0.02, 0.003)),
    ends=Fit(0.006, 0.002),
    draft=0.003,
)


@pytest.mark.parametrize("ring", [home(draft=0.005), UNEQUAL], ids=["equal", "unequal"])
@pytest.mark.parametrize("drafted", [1, 4, 8])
def test_chains_keep_their_closed_form(ring: Ring, drafted: int) -> None:
    found = simulate(ring, [0.7], Policy(drafted + 1), 15_000).rate
    assert found == pytest.approx(chain(ring, [0.7], drafted).rate, rel=0.02)


def test_without_a_draft_every_token_takes_a_trip() -> None:
    for ring in (home(), UNEQUAL, home(stages=64)):
        written = simulate(ring, [0.9], PLAIN, 20)
        assert written.known == pytest.approx([ring.trip(1) * n for n in range(1, 21)])
        assert written.rows == 1


def test_trees_bring_what_the_programme_says() -> None:
    """Likeliest first is the best tree, and its tokens a trip are those of its value."""
    acceptance, rows = (0.5, 0.2, 0.1), 10
    ring = home(growth=0.0)
    value = best_shapes(acceptance, rows, rows).values[rows, rows]
    found = simulate(ring, acceptance, Policy(rows + 1), 15_000).rate * ring.trip(1)
    assert found == pytest.approx(1 + value, rel=0.02)


@pytest.mark.parametrize("hop", [0.002, 0.05])
@pytest.mark.parametrize("acceptance", [0.5, 0.85])
def test_steps_that_follow_come_close_to_the_model(hop: float, acceptance: float) -> None:
    for rows, flights in ((1, 4), (2, 12), (4, 3)):
        ring = home(hop, draft=0.002)
        found = simulate(ring, [acceptance], Policy(rows, flights), 2_500).rate
        assert found == pytest.approx(pipeline(ring, [acceptance], rows, flights).rate, rel=0.12)


def test_shared_processors_limit_what_runs_at_once() -> None:
    alone, shared = home(0.0), home(0.0, processors=2)
    assert simulate(shared, [], PLAIN, 50).rate == pytest.approx(plain(alone).rate)
    policy, tokens = Policy(1, 8), 2_000
    free = simulate(alone, [0.95], policy, tokens).rate
    tight = simulate(shared, [0.95], policy, tokens)
    assert tight.rate < 0.7 * free
    # Two processors do two stages' work: no more rows than that in a second.
    assert tight.rate * tight.rows <= 2 / 0.08 * 1.001
    assert tight.rate == pytest.approx(pipeline(shared, [0.95], 1, 8).rate, rel=0.12)


def test_many_clients_fill_the_ring() -> None:
    ring = home(stages=4)
    few = simulate(ring, [], PLAIN, 30, clients=2)
    assert few.rate == pytest.approx(2 / ring.trip(1), rel=0.05)
    many = simulate(ring, [], PLAIN, 10, clients=200)
    assert many.rate == pytest.approx(1 / ring.turn(1), rel=0.02)
    assert many.busy > 0.95
    assert many.slowest > 0.8 * many.rate / 200
    batched = simulate(ring, [], PLAIN, 10, clients=200, batch=16)
    assert batched.rate == pytest.approx(16 / ring.turn(16), rel=0.05)


def test_guesses_of_one_client_cost_the_others() -> None:
    ring = home(draft=0.0)
    alone = simulate(ring, [0.5], Policy(2, 8), 300)
    assert alone.rate > 1.5 * plain(ring).rate
    full = {
        policy: simulate(ring, [0.5], policy, 40, clients=20).rate
        for policy in (PLAIN, Policy(2), Policy(2, 8))
    }
    assert full[Policy(2, 8)] < full[Policy(2)]


def test_a_slow_link_makes_rows_dear() -> None:
    slow = Ring(home().stages, (Hop(0.01, 0.02),) * 5)
    for drafted in (2, 6):
        found = simulate(slow, [0.7], Policy(drafted + 1), 6_000).rate
        assert found == pytest.approx(chain(slow, [0.7], drafted).rate, rel=0.03)
    assert simulate(slow, [0.7], Policy(7), 1_000).rate < plain(slow).rate * 1.3


def test_cancelling_spares_rows() -> None:
    """A stage computes what was sent and not yet refuted; interrupting it spares time, not rows."""
    ring = home(0.002)
    busy = [
        simulate(ring, [0.5], Policy(2, 16), 1_000, interruptible=stops) for stops in (False, True)
    ]
    assert busy[0].rate < busy[1].rate
    assert busy[0].rows < 1 + 16


def test_a_text_is_one_whoever_writes_it() -> None:
    one, other = Truth([0.5, 0.2], 3), Truth([0.5, 0.2], 3)
    assert [one.rank(place) for place in range(99, -1, -1)][::-1] == [
        other.rank(place) for place in range(100)
    ]
    many = [one.rank(place) for place in range(4_000)]
    assert many.count(0) / 4_000 == pytest.approx(0.5, abs=0.03)
    assert many.count(-1) / 4_000 == pytest.approx(0.3, abs=0.03)


def test_time_goes_forward() -> None:
    clock, seen = Clock(), list[tuple[float, str]]()
    clock.at(2.0, lambda: seen.append((clock.now, "late")))
    clock.at(1.0, lambda: clock.at(0.5, lambda: seen.append((clock.now, "never before now"))))
    clock.at(2.0, lambda: seen.append((clock.now, "later")))
    clock.run(lambda: len(seen) == 3)
    assert seen == [(1.0, "never before now"), (2.0, "late"), (2.0, "later")]


def test_tokens_are_known_in_order() -> None:
    for policy in (PLAIN, Policy(4), Policy(3, 5), Policy(2, 9, head=1), Policy(9, 3)):
        written = simulate(UNEQUAL, [0.6, 0.2], policy, 200)
        assert len(written.known) >= 200
        assert all(before <= after for before, after in pairwise(written.known))
        assert written.rows >= 1 - 1e-9


def test_predictions_start_from_what_was_measured() -> None:
    """A run that behaved as the simulator is foretold: its plain rate, acceptance and gain."""
    case = {
        "plain_tokens_per_s": 10.0,
        "stage_ms": [8.0, 6.0, 4.0, 2.0],
        "ways": {"chain of 4": {"tokens_per_trip": 1 + 0.6 + 0.36 + 0.216 + 0.1296}},
    }
    ring = measured_ring(case, 10.0, 0.75, 2)
    assert plain(ring).rate == pytest.approx(10.0)
    assert acceptance_of("chat", case) == pytest.approx(0.6)
    assert acceptance_of("a=0.85", case) == 0.85
    assert policy_named("chain of 4") == Policy(5)
    assert policy_named("8 steps of 3") == Policy(3, 8, head=4)
    assert policy_named("controller") is None
    expected = chain(ring, [0.6], 4).rate / 10.0
    assert gain(ring, 0.6, 4_000, Policy(5)) == pytest.approx(expected, rel=0.03)
    assert gain(ring, 0.6, 500, PLAIN, Policy(5)) >= gain(ring, 0.6, 500, Policy(5))
