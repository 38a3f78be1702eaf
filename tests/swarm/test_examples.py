"""Every example runs, as its second line says."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.swarm.conftest import RunningNode

pytestmark = [pytest.mark.swarm, pytest.mark.model]
EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.py"))
SAYS = {
    "ask.py": "accepted: every row is bit for bit",
    "hidden_states.py": "after layer 30: cosine",
    "remember.py": "second: ",
    "sampling.py": "seed 2: ",
}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_example(path: Path, ring: list[RunningNode]) -> None:
    done = subprocess.run(
        [sys.executable, str(path), ring[0].invitation],
        cwd=path.parents[1],
        env={"PYTHONPATH": str(path.parents[1])} | dict(os.environ),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert SAYS[path.name] in done.stdout
