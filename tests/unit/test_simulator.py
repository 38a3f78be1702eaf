"""The simulated ring against closed forms, and what clients do to each other in it."""

from functools import partial
from itertools import pairwise

import pytest

from bench.predict import foretold, gain, measured_ring, run
from bench.simulator import PLAIN, Policy, simulate
from bench.simulator.clock import Clock
from bench.simulator.cores import Cores, Thread
from bench.simulator.truth import Truth
from bench.simulator.work import NOTHING, Points, Work
from hearthring.client.cost import Hop, Ring, chain, pipeline, plain
from hearthring.client.pace import Fixed
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


TOLLS = {
    "hop": 0.01,
    "engines": [[(0, 0.001), (1, at), (5, 4 * at)] for at in (0.004, 0.003, 0.004, 0.003)],
    "stage": [(0, 0.001), (1, 0.002), (5, 0.003)],
    "client": [(0, 0.001), (1, 0.002), (5, 0.004)],
    "wire": [(0, 0.0002), (1, 0.0004), (5, 0.0004)],
    "ends": [(1, 0.003), (5, 0.009)],
    "trip": [(1, 0.014 + 0.05 + 0.006)],
    "note": 0.0001,
}
"""Beyond engines and links a trip of one row waits 6 ms, of 12 that processors work."""


def test_predictions_start_from_what_was_measured() -> None:
    ring, work = measured_ring(TOLLS, 2)
    assert work.path == pytest.approx(0.5)
    assert [hop.latency for hop in ring.hops] == pytest.approx([0.01] * 5)
    assert (ring.processors, work.empty) == (2, 0.001)
    slow = measured_ring(TOLLS | {"trip": [(1, 0.014 + 0.05 + 0.022)]}, 2)
    assert slow[1].path == 1.0
    assert [hop.latency for hop in slow[0].hops] == pytest.approx([0.012] * 5)


def test_cells_are_run_again_as_they_were() -> None:
    """Text, draft and pace of the run: plain by its tolls, guesses with the luck that they had."""
    ring, work = measured_ring(TOLLS, 2)
    text = {"prompt": list(range(10)), "answer": list(range(10, 42))}
    plain, worked = run(ring, work, text, None, Fixed())
    assert plain == pytest.approx(1 / (0.014 + 0.05 + 0.006 + 0.003), rel=0.02)
    # Engines, messages and head of 31 steps: nothing is done twice or left out.
    assert worked == pytest.approx(31 * (0.014 + 0.012 + 0.003))
    gains = [gain(ring, work, f"a={alpha}", [text], "chain of 4")[0] for alpha in (0.0, 0.7, 1.0)]
    assert gains[0] < 0.7 < 1.2 < gains[1] < gains[2]
    assert gain(ring, work, "chat", [text], "tree of 6")[0] == pytest.approx(1.0, abs=0.02)
    ways = {"chain of 4": {"ratio": 1.5, "processor_s": 0.9}}
    case = {"tolls": TOLLS, "texts": [text], "plain_tokens_per_s": 12.0, "ways": ways}
    lines = list(foretold({"10 ms": {"a=0.7": case}}, 2))
    assert [line.way for line in lines] == ["plain", "chain of 4"]
    assert lines[1].simulated == pytest.approx(gains[1])
    assert lines[1].best >= lines[1].simulated
    assert lines[1].work == pytest.approx(0.9 / gain(ring, work, "a=0.7", [text], "chain of 4")[1])


def test_cores_are_shared_by_what_is_at_work() -> None:
    """Three on two: two thirds of the speed each, until the short ones are done."""
    for count, ends in ((2, {"a": 1.5, "b": 1.5, "c": 2.5}), (None, {"a": 1, "b": 1, "c": 2})):
        clock, done = Clock(), dict[str, float]()
        cores = Cores(clock, count)

        def end(name: str, clock: Clock = clock, done: dict[str, float] = done) -> None:
            done[name] = clock.now

        for name, seconds in (("a", 1.0), ("b", 1.0), ("c", 2.0)):
            cores.do(seconds, partial(end, name))
        clock.run(lambda done=done: len(done) == 3)
        assert done == pytest.approx(ends)
        assert cores.worked == pytest.approx(4.0)


def test_work_that_is_stopped_leaves_its_share_to_others() -> None:
    clock, done = Clock(), list[float]()
    cores = Cores(clock, 1)
    job = cores.do(1.0, lambda: done.append(-1.0))
    cores.do(1.0, lambda: done.append(clock.now))
    clock.at(1.0, lambda: cores.stop(job))
    clock.run(lambda: bool(done))
    assert done == pytest.approx([1.5])
    assert cores.worked == pytest.approx(1.5)


def test_a_thread_does_one_thing_after_the_other() -> None:
    clock, done = Clock(), list[tuple[str, float]]()
    thread = Thread(clock, Cores(clock, None))
    for name, seconds in (("a", 1.0), ("b", 0.0), ("c", 2.0)):
        thread.do(lambda seconds=seconds: seconds, lambda name=name: done.append((name, clock.now)))
    clock.run(lambda: len(done) == 3)
    assert done == [("a", 1.0), ("b", 1.0), ("c", 3.0)]
    assert thread.busy == pytest.approx(3.0)


def test_messages_take_processors_too() -> None:
    """A trip is longer by what it waits for; the rest matters only where cores are few."""
    ring, one = home(), home(processors=1)
    work = Work(Fit(0.003, 0.001), Fit(0.004, 0.002), Fit(0.001, 0.0), path=0.75)
    extra = 0.75 * (4 * 0.004 + 0.006 + 5 * 0.001)
    alone = simulate(ring, [], PLAIN, 20, work=work)
    assert alone.known[-1] == pytest.approx(20 * (ring.trip(1) + extra))
    assert simulate(one, [], PLAIN, 20, work=work).known[-1] > alone.known[-1] * 1.01
    busy = [simulate(r, [0.9], Policy(1, 8), 400, work=work).rate for r in (ring, one)]
    seconds = 4 * (0.02 + 0.004) + 0.006 + 5 * 0.001
    assert busy[1] < 1 / seconds < busy[0]


def test_empty_steps_and_notes_cost_what_they_cost() -> None:
    ring = home(0.002, processors=2)
    for work in (Work(empty=0.01), Work(note=0.01)):
        dear, free = (simulate(ring, [0.5], Policy(1, 8), 400, work=w) for w in (work, NOTHING))
        assert dear.rate < free.rate * 0.95


def test_a_text_that_ends_isnt_guessed_beyond() -> None:
    ring = home(0.01)
    short = simulate(ring, [0.8], Policy(8), 3, luck=[True] * 9, ends=True)
    assert short.known == pytest.approx([ring.trip(3)] * 3)
    beyond = simulate(ring, [0.8], Policy(8), 3, luck=[True] * 9)
    assert beyond.known == pytest.approx([ring.trip(8)] * 8)


def test_luck_is_as_it_was() -> None:
    """Positions 1 and 2 are guessed right, 3 isn't: three tokens of a trip, and on from there."""
    ring, luck = home(0.01), [True, True, True, False, True, True, True, True]
    written = simulate(ring, [0.8], Policy(4), 5, luck=luck)
    assert written.known == pytest.approx([ring.trip(4)] * 3 + [2 * ring.trip(4)] * 4)


def test_points_are_joined_by_lines() -> None:
    points = Points(((1, 2.0), (3, 6.0), (4, 5.0)))
    assert [points.seconds(rows) for rows in (0, 1, 2, 3, 4, 6)] == [0.0, 2.0, 4.0, 6.0, 5.0, 3.0]
    assert Points(((2, 1.0),)).seconds(9) == 1.0
