"""Wherever liars stand in a ring, alone or as neighbours in one plot: whom a replay names, whom
cells do, after the answer and while it is made."""

from collections.abc import Callable
from pathlib import Path

import pytest

from hearthring.client.api import AsyncClient
from hearthring.client.replay import EngineReplayer
from hearthring.node.config import NodeHooks
from hearthring.protocol.tensors import Residual
from hearthring.shards.store import ModelEntry, ModelStore
from hearthring.verify.audit import audit
from hearthring.verify.consistency import contradiction
from hearthring.verify.proof import Proof
from hearthring.verify.verdict import Guilty, Outcome, Strength, Verdict
from tests.liar import hooks_for, session
from tests.memory_ring import MemorySwarm, memory_swarm
from tests.plot import Plot, conspirators
from tests.tiny import write_tiny_gguf

LAYERS = 6
RINGS = [(*range(stages), LAYERS) for stages in range(2, LAYERS + 1)]
PROMPT = {"prompt_ids": list(range(10, 50)), "max_tokens": 3}
FAULTS = ("noise:0.02", "flip-sign", "skip-layer", "other-weights:7")
FOR_REPLAYS = ("scale:1.01", "replay")
"""Replays of old rows and single rows: cells look at some rows only."""


def stages_of(cuts: tuple[int, ...]) -> str:
    return f"{len(cuts) - 1} stages"


@pytest.fixture
def six(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModelEntry:
    """A tiny model of six layers in a store of its own."""
    monkeypatch.setenv("HEARTHRING_MODELS", str(tmp_path / "models"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    return ModelStore().find(str(write_tiny_gguf(tmp_path / "six.gguf", layers=LAYERS)))


@pytest.fixture
def judge(six: ModelEntry) -> Callable[[Proof], Verdict]:
    """An audit with own weights, opened once."""
    replayer = EngineReplayer(six.open(), Residual.FP32, 1)
    return lambda proof: contradiction(proof, LAYERS) or audit(proof, LAYERS, replayer)


def named(swarm: MemorySwarm, cuts: tuple[int, ...], place: int) -> Guilty:
    """A node by what an audit says of it."""
    return Guilty(swarm.nodes[place].node_id, cuts[place], cuts[place + 1])


async def asked(client: AsyncClient) -> Proof:
    return (await client.generate(**PROMPT)).proof  # type: ignore[arg-type]


def lying(
    cuts: tuple[int, ...], place: int, faults: tuple[str, ...] = FAULTS
) -> dict[int, NodeHooks]:
    """A liar at a place, whose fault is another one in every ring."""
    fault = faults[(place + len(cuts)) % len(faults)]
    return {place: hooks_for(fault, (cuts[place], cuts[place + 1]))}


def plotting(place: int) -> dict[int, NodeHooks]:
    """A plot of the node at a place with the next one."""
    pair = conspirators(Plot())
    return {place + at: NodeHooks(session=session(one)) for at, one in enumerate(pair)}


@pytest.mark.parametrize("cuts", RINGS, ids=stages_of)
async def test_a_liar_is_named_at_every_position(
    six: ModelEntry, judge: Callable[[Proof], Verdict], cuts: tuple[int, ...]
) -> None:
    """By a replay and by cells."""
    for place in range(len(cuts) - 1):
        async with memory_swarm(six, cuts, hooks=lying(cuts, place)) as swarm:
            client = swarm.client()
            proof, liar = await asked(client), named(swarm, cuts, place)
            verdict = judge(proof)
            assert (verdict.strength, verdict.guilty) == (Strength.BITS, (liar,))
            verdict = await client.audit(proof, depth="cells")
            assert verdict.outcome is Outcome.REJECTED
            assert verdict.guilty == (liar,)


@pytest.mark.parametrize("fault", FOR_REPLAYS)
async def test_a_replay_names_who_did_what_cells_may_miss(
    six: ModelEntry, judge: Callable[[Proof], Verdict], fault: str
) -> None:
    cuts = RINGS[1]
    for place in range(len(cuts) - 1):
        async with memory_swarm(six, cuts, hooks=lying(cuts, place, (fault,))) as swarm:
            verdict = judge(await asked(swarm.client()))
            assert verdict.guilty == (named(swarm, cuts, place),)


# -- neighbours that cover for each other --------------------------------------------------------


@pytest.mark.parametrize("cuts", RINGS, ids=stages_of)
async def test_neighbours_that_cover_for_each_other_are_named(
    six: ModelEntry, judge: Callable[[Proof], Verdict], cuts: tuple[int, ...]
) -> None:
    """One of the two is guilty wherever they stand, and nobody else ever is: by cells, neither."""
    for place in range(len(cuts) - 2):
        async with memory_swarm(six, cuts, hooks=plotting(place)) as swarm:
            client = swarm.client()
            proof, second = await asked(client), named(swarm, cuts, place + 1)
            verdict = judge(proof)
            assert verdict.outcome is Outcome.REJECTED
            assert verdict.guilty == (second,)
            verdict = await client.audit(proof, depth="cells")
            assert verdict.outcome is Outcome.REJECTED
            assert verdict.guilty
            assert set(verdict.guilty) <= {named(swarm, cuts, place), second}


async def test_of_two_liars_side_by_side_the_first_is_named(
    six: ModelEntry, judge: Callable[[Proof], Verdict]
) -> None:
    cuts = RINGS[-1]
    for place in (0, len(cuts) - 3):
        hooks = lying(cuts, place, ("noise:0.02",)) | lying(cuts, place + 1, ("flip-sign",))
        async with memory_swarm(six, cuts, hooks=hooks) as swarm:
            verdict = judge(await asked(swarm.client()))
            assert verdict.guilty == (named(swarm, cuts, place),)


# -- while the answer is made --------------------------------------------------------------------


@pytest.mark.parametrize("cuts", RINGS[:4:3], ids=stages_of)
async def test_spot_checks_evict_a_liar_at_every_position(
    six: ModelEntry, cuts: tuple[int, ...]
) -> None:
    """It is left, a node of all layers takes its place, and the answer is the honest one."""
    asked = PROMPT | {"max_tokens": 12}
    async with memory_swarm(six, (0, LAYERS), Residual.FP16) as swarm:
        honest = await swarm.client().generate(**asked)  # type: ignore[arg-type]
    for place in range(len(cuts) - 1):
        async with memory_swarm(six, cuts, Residual.FP16, lying(cuts, place)) as swarm:
            await swarm.node((0, LAYERS), Residual.FP16, row_seconds=1.0)
            client = swarm.client()
            answer = await client.generate(**asked, spot_check=1.0)  # type: ignore[arg-type]
            assert answer.token_ids == honest.token_ids
            assert answer.caught == (swarm.nodes[place].node_id,)
