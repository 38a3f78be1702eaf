"""Answers that are checked while they come: liars are evicted, and what they said is said anew."""

import pytest

from hearthring.client.ring import RingSession
from hearthring.node.config import NodeHooks
from hearthring.protocol.errors import BadOption
from hearthring.protocol.tensors import Residual
from hearthring.shards.store import ModelEntry
from hearthring.verify.evidence_store import Reputation
from tests.liar import hooks_for
from tests.memory_ring import MemorySwarm, memory_swarm

PROMPT_IDS = list(range(10, 50))
OPTIONS = {"prompt_ids": PROMPT_IDS, "max_tokens": 70, "temperature": 0.8, "seed": 3}
CUTS = (0, 2, 4)


async def plain(tiny: ModelEntry) -> list[int]:
    async with memory_swarm(tiny, CUTS, Residual.FP16) as swarm:
        answer = await swarm.client().generate(**OPTIONS)
        assert answer.verified is None
        return answer.token_ids


async def with_spare(swarm: MemorySwarm, place: int, hooks: NodeHooks) -> str:
    """A node that lies, which is chosen first, and an honest one of the same layers."""
    window = (CUTS[place], CUTS[place + 1])
    liar = await swarm.node(window, Residual.FP16, hooks, row_seconds=0.0001)
    for other in range(2):
        await swarm.node((CUTS[other], CUTS[other + 1]), Residual.FP16, row_seconds=0.01)
    return liar.node_id


async def test_an_honest_answer_is_verified_to_its_end(tiny: ModelEntry) -> None:
    expected = await plain(tiny)
    async with memory_swarm(tiny, CUTS, Residual.FP16) as swarm:
        answer = await swarm.client().generate(**OPTIONS, spot_check=1.0)
        assert answer.token_ids == expected
        assert answer.verified == len(expected)
        assert answer.caught == ()
        with pytest.raises(BadOption):
            await swarm.client().generate(**OPTIONS, spot_check=1.5)


@pytest.mark.parametrize("place", [0, 1])
async def test_a_liar_in_a_short_answer_is_caught_when_it_has_ended(
    tiny: ModelEntry, place: int
) -> None:
    """Its rows fill no chunk, so that nothing is looked at before."""
    short = OPTIONS | {"prompt_ids": PROMPT_IDS[:6], "max_tokens": 12}
    async with memory_swarm(tiny, CUTS, Residual.FP16) as swarm:
        expected = (await swarm.client().generate(**short)).token_ids
    hooks = hooks_for("scale:1.2", (CUTS[place], CUTS[place + 1]))
    async with memory_swarm(tiny, (0,), Residual.FP16) as swarm:
        liar = await with_spare(swarm, place, hooks)
        answer = await swarm.client().generate(**short, spot_check=1.0)
        assert answer.caught == (liar,)
        assert (answer.token_ids, answer.verified) == (expected, len(expected))


@pytest.mark.parametrize("place", [0, 1])
async def test_a_liar_is_evicted_and_the_answer_is_the_honest_one(
    tiny: ModelEntry, place: int
) -> None:
    expected = await plain(tiny)
    hooks = hooks_for("scale:1.2", (CUTS[place], CUTS[place + 1]))
    async with memory_swarm(tiny, (0,), Residual.FP16) as swarm:
        liar = await with_spare(swarm, place, hooks)
        client = swarm.client()
        client.swarm.reputation = memory = Reputation()
        answer = await client.generate(**OPTIONS, spot_check=1.0)
        assert answer.caught == (liar,)
        assert [item.node for item in memory.evidence() if item.bad] == [liar]
        assert memory(liar) == 0.0
        assert liar not in [stage.node for stage in answer.route]
        assert answer.token_ids == expected
        assert answer.verified
        assert answer.proof.rows == len(PROMPT_IDS) + len(expected) - 1


@pytest.mark.parametrize(("place", "turns"), [(0, 97), (1, 65)])
async def test_a_liar_that_turns_in_the_middle_is_caught(
    tiny: ModelEntry, monkeypatch: pytest.MonkeyPatch, place: int, turns: int
) -> None:
    """Its rows are true up to a position in the fourth chunk, or the third; both are full. So early
    in a chunk that cells drawn from it, however few, are hardly ever all true."""
    longer = OPTIONS | {"max_tokens": 100, "seed": 4}
    async with memory_swarm(tiny, CUTS, Residual.FP16) as swarm:
        expected = (await swarm.client().generate(**longer)).token_ids
    assert len(PROMPT_IDS) + len(expected) > 129, "its fourth chunk is full"
    roll_back, backs = RingSession.roll_back, list[int]()

    def told(self: RingSession, to: int, *why: str) -> None:
        backs.append(to)
        roll_back(self, to, *why)

    monkeypatch.setattr(RingSession, "roll_back", told)
    hooks = hooks_for(f"scale:1.2@{turns}", (CUTS[place], CUTS[place + 1]))
    async with memory_swarm(tiny, (0,), Residual.FP16) as swarm:
        liar = await with_spare(swarm, place, hooks)
        answer = await swarm.client().generate(**longer, spot_check=1.0)
        route = [stage.node for stage in answer.route]
        assert answer.timings.reroutes[-1].nodes == (liar,)
    assert len(backs) == 1
    assert -1 <= backs[0] < turns, "nothing that is false stays"
    assert answer.caught == (liar,)
    assert liar not in route
    assert answer.token_ids == expected
    assert answer.verified
