"""The campaign's short form: a handful of each fault, the seed in the test's name.

The whole of it is ``python -m bench.failover``.
"""

import subprocess
import sys
from pathlib import Path

import pytest

from bench import failover
from bench.homelab import why_not
from tests.chaos import campaign as faults
from tests.chaos.campaign import TOKENS, Campaign, Phase, Run, draw_faults

pytestmark = [pytest.mark.chaos, pytest.mark.swarm]


@pytest.mark.parametrize("seed", [1])
async def test_kills_and_freezes_cost_no_token(seed: int) -> None:
    async def both(campaign: Campaign) -> None:
        await faults.kills(campaign, 4, seed)
        await faults.stops(campaign, 2, seed, most=3.0)

    report = await failover.run("tiny", both)
    print(report)
    assert report["wrong"] == report["lost"] == 0, report
    assert report["faults"] > 3
    assert report["reroutes"] > 0


@pytest.mark.skipif(bool(why_not()), reason=f"no emulated home: {why_not()}")
def test_silent_links_cost_no_token() -> None:
    """In a process of its own: it moves into one of the home's machines."""
    words = ["--kills", "0", "--stops", "0", "--drains", "0", "--partitions", "2", "--most", "3"]
    command = [sys.executable, "-m", "bench.failover", *words]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    print(done.stdout, done.stderr)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_seed_gives_the_same_faults_over_all_phases() -> None:
    drawn = draw_faults(30, 7, (1.0, 20.0))
    assert drawn == draw_faults(30, 7, (1.0, 20.0)) != draw_faults(30, 8, (1.0, 20.0))
    assert {fault.phase for fault in drawn} == set(Phase)
    assert all(0 <= f.when < 1 and 0 <= f.victim < 1 and 1 <= f.seconds <= 20 for f in drawn)


def test_the_longest_wait_is_between_tokens() -> None:
    run = Run(arrivals=[5.0, 5.1, 7.1, 7.2])
    assert run.pause == pytest.approx(2.0)
    assert Run().pause == 0.0
    assert Run().recovery is None
    assert TOKENS == 64
