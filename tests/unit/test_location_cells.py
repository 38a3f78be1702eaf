"""Wherever liars stand in a ring: whom cells name, after the answer and while it is made."""

from pathlib import Path

import pytest

from hearthring.node.config import NodeHooks
from hearthring.protocol.tensors import Residual
from hearthring.shards.store import ModelEntry, ModelStore
from hearthring.verify.verdict import Outcome
from tests.liar import hooks_for, session
from tests.memory_ring import memory_swarm
from tests.plot import Plot, conspirators
from tests.tiny import write_tiny_gguf

LAYERS = 6
RINGS = [(*range(0, stages), LAYERS) for stages in range(2, LAYERS + 1)]
PROMPT_IDS = list(range(10, 50))
FAULTS = ("noise:0.02", "flip-sign", "skip-layer", "other-weights:7")
"""Replays of old rows and single rows are for a replay: cells look at some rows only."""


@pytest.fixture
def six(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModelEntry:
    """A tiny model of six layers in a store of its own."""
    monkeypatch.setenv("HEARTHRING_MODELS", str(tmp_path / "models"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    return ModelStore().find(str(write_tiny_gguf(tmp_path / "six.gguf", layers=LAYERS)))


def lying(cuts: tuple[int, ...], place: int) -> dict[int, NodeHooks]:
    fault = FAULTS[(place + len(cuts)) % len(FAULTS)]
    return {place: hooks_for(fault, (cuts[place], cuts[place + 1]))}


@pytest.mark.parametrize("cuts", RINGS, ids=lambda cuts: f"{len(cuts) - 1} stages")
async def test_cells_name_a_liar_at_every_position(six: ModelEntry, cuts: tuple[int, ...]) -> None:
    for place in range(len(cuts) - 1):
        async with memory_swarm(six, cuts, hooks=lying(cuts, place)) as swarm:
            client = swarm.client()
            answer = await client.generate(prompt_ids=PROMPT_IDS, max_tokens=3)
            verdict = await client.audit(answer.proof, depth="cells")
            assert verdict.outcome is Outcome.REJECTED
            assert [g.node for g in verdict.guilty] == [swarm.nodes[place].node_id]


@pytest.mark.parametrize("cuts", RINGS[::2], ids=lambda cuts: f"{len(cuts) - 1} stages")
async def test_cells_name_neighbours_in_a_plot_and_nobody_else(
    six: ModelEntry, cuts: tuple[int, ...]
) -> None:
    for place in range(len(cuts) - 2):
        first, second = conspirators(Plot())
        hooks = {
            place: NodeHooks(session=session(first)),
            place + 1: NodeHooks(session=session(second)),
        }
        async with memory_swarm(six, cuts, hooks=hooks) as swarm:
            client = swarm.client()
            answer = await client.generate(prompt_ids=PROMPT_IDS, max_tokens=3)
            verdict = await client.audit(answer.proof, depth="cells")
            assert verdict.outcome is Outcome.REJECTED
            named = {g.node for g in verdict.guilty}
            assert named
            assert named <= {swarm.nodes[place].node_id, swarm.nodes[place + 1].node_id}


@pytest.mark.parametrize("cuts", RINGS[::2], ids=lambda cuts: f"{len(cuts) - 1} stages")
async def test_spot_checks_evict_a_liar_at_every_position(
    six: ModelEntry, cuts: tuple[int, ...]
) -> None:
    """It is left, a node of all layers takes its place, and the answer is the honest one."""
    asked = {"prompt_ids": PROMPT_IDS, "max_tokens": 12}
    async with memory_swarm(six, (0, LAYERS), Residual.FP16) as swarm:
        honest = await swarm.client().generate(**asked)  # type: ignore[arg-type]
    for place in range(len(cuts) - 1):
        async with memory_swarm(six, cuts, Residual.FP16, lying(cuts, place)) as swarm:
            await swarm.node((0, LAYERS), Residual.FP16, row_seconds=1.0)
            client = swarm.client()
            answer = await client.generate(**asked, spot_check=1.0)  # type: ignore[arg-type]
            assert answer.token_ids == honest.token_ids
            assert answer.caught == (swarm.nodes[place].node_id,)
