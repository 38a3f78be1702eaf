"""The campaign's short form: a handful of each fault.

The whole of it is ``python -m bench.failover``.
"""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.chaos, pytest.mark.swarm]


def test_kills_freezes_and_silent_links_cost_no_token() -> None:
    """In a process of its own: it moves into one of the emulated home's machines."""
    command = [sys.executable, "-m", "bench.failover", "--short"]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, capture_output=True, text=True, cwd=root, timeout=600)
    print(done.stdout, done.stderr)
    assert done.returncode == 0, done.stdout + done.stderr
    figures = dict(line.split(None, 1) for line in done.stdout.splitlines() if line[:2] == "  ")
    assert int(figures["faults"]) > 3
    assert int(figures["reroutes"]) > 3
    if left := [line for line in done.stdout.splitlines() if ": left out: " in line]:
        pytest.skip("; ".join(left))
