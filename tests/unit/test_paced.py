"""The client's own pace and draft in a simulated ring: they take what the closed forms say."""

import pytest

from bench.simulator import Policy, simulate
from bench.simulator.paced import PacedClient
from bench.spoken import Dialled
from hearthring.client.cost import Hop, Ring, chain
from hearthring.client.pace import Fixed
from hearthring.shards.timings import Fit

RING = Ring((Fit(0.004, 0.001),) * 4, (Hop(0.01),) * 5, ends=Fit(0.001, 0.0))
TEXT = list(range(3_000))


def seconds(ring: Ring, pace: Fixed, alpha: float, tokens: int, **draft: float) -> float:
    text = TEXT[: 10 + tokens]
    return PacedClient(ring, Dialled(text, alpha), pace, text, 10, **draft).run()


def test_a_plain_token_takes_a_trip() -> None:
    client = PacedClient(RING, None, Fixed(), TEXT[:60], 10)
    assert client.run() == pytest.approx(49 * RING.trip(1))
    account = client.speculation.account()
    assert (account.tokens, account.trips, account.guesses) == (50, 49, 0)


def test_a_chain_keeps_its_closed_form() -> None:
    for drafted in (1, 4, 8):
        found = 2_000 / seconds(RING, Fixed(drafted), 0.7, 2_000)
        assert found == pytest.approx(chain(RING, [0.7], drafted).rate, rel=0.07)


def test_steps_that_follow_bring_what_they_do_in_the_simulators_own_client() -> None:
    for rows, deep in ((2, 4), (3, 8)):
        found = 2_000 / seconds(RING, Fixed(rows, deep), 0.85, 2_000)
        own = simulate(RING, [0.85], Policy(rows, deep, head=rows + 1), 2_000).rate
        assert found == pytest.approx(own, rel=0.1)


def test_a_draft_takes_its_time() -> None:
    free, slow = (seconds(RING, Fixed(4), 1.0, 501, guess=each) for each in (0.0, 0.01))
    assert slow - free == pytest.approx(100 * 4 * 0.01, rel=0.02)


def test_what_stages_report_is_the_engines() -> None:
    said = list[float]()

    class Listening(Fixed):
        def back(self, trip: object) -> None:
            said.extend(time.compute + time.queue for time in trip.result.times)  # type: ignore[attr-defined]

    PacedClient(RING, None, Listening(), TEXT[:20], 10, beside=0.002).run()
    assert said == pytest.approx([0.003] * 36)  # of four stages, on nine trips
