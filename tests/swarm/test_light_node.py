"""What a node with quantised weights must not carry along, seen from outside."""

from pathlib import Path

import pytest

from bench.memory import descendants
from hearthring import Client
from hearthring.shards.store import ModelEntry
from tests.swarm.conftest import running

pytestmark = [pytest.mark.swarm, pytest.mark.model]
ABSENT = ("libtorch", "/scipy/", "/transformers/", "/pandas/")


def private_megabytes(pid: int) -> float:
    """Memory of its own without files' pages: what no page cache gives back."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Private_Dirty")) / 1024


def test_neither_engine_nor_directory_loads_torch(smollm2: ModelEntry, tmp_path: Path) -> None:
    flags = ("--engine", "ggml", "--prompt", "low")
    with running(tmp_path, ("0:30",), *flags) as (node,), Client([node.invitation]) as client:
        answer = client.generate("Why is the sky blue?", max_tokens=8)
        pids = descendants(node.process.process.pid)
        assert len(pids) == 3  # the node, its directory, p2pd
        for pid in pids:
            maps = Path(f"/proc/{pid}/maps").read_text()
            assert [name for name in ABSENT if name in maps] == []
        assert private_megabytes(pids[0]) < 150
        assert sum(map(private_megabytes, pids)) < 650
    assert answer.token_ids
