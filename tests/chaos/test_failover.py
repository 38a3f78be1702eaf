"""The campaign's short form: a handful of each fault.

The whole of it is ``python -m bench.failover``.
"""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.chaos.campaign import TOKENS, Phase, Run, draw_faults

pytestmark = [pytest.mark.chaos, pytest.mark.swarm]


def test_kills_freezes_and_silent_links_cost_no_token() -> None:
    """In a process of its own: it moves into one of the emulated home's machines."""
    command = [sys.executable, "-m", "bench.failover", "--short"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    print(done.stdout, done.stderr)
    assert done.returncode == 0, done.stdout + done.stderr
    figures = dict(line.split(None, 1) for line in done.stdout.splitlines() if line[:2] == "  ")
    assert int(figures["faults"]) > 3
    assert int(figures["reroutes"]) > 3


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
