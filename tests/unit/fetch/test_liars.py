"""Peers that send other bytes than the model's: nothing of theirs is ever loaded."""

import pytest

from hearthring.protocol.errors import ModelNotHere
from hearthring.shards.parts import size_of, window_parts
from tests.providers import PIECE, Bend, Swarm, flip, forge, grow


@pytest.mark.parametrize("bend", [flip, forge, grow])
async def test_bad_bytes_are_refused_and_their_sender_is_noted(swarm: Swarm, bend: Bend) -> None:
    liars = {await swarm.provider(bend), await swarm.provider(bend)}
    honest = await swarm.provider()
    parts = window_parts(0, 4)
    await swarm.fetch(parts)
    assert swarm.same(parts)
    assert swarm.refused.keys() == liars
    assert swarm.pieces(honest) >= sum(
        -(-(size_of(swarm.entry.manifest, part) or 0) // PIECE) for part in parts
    ) - sum(swarm.pieces(liar) for liar in liars)


@pytest.mark.parametrize("bend", [flip, forge, grow])
async def test_among_liars_alone_nothing_is_ever_loaded(swarm: Swarm, bend: Bend) -> None:
    liar = await swarm.provider(bend)
    with pytest.raises(ModelNotHere, match=liar[-8:]):
        await swarm.fetch(("layer0", "tokenizer"), patience=0.0)
    assert swarm.refused.keys() == {liar}
    assert not swarm.store.missing(swarm.store.here())
    assert "layer0" not in swarm.store.here()
