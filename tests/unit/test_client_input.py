"""What a program may hand to a client."""

from pathlib import Path
from typing import Any

import pytest

from hearthring.client.api import AsyncClient
from hearthring.protocol.errors import BadOption, BadProof
from hearthring.protocol.identity import Identity
from hearthring.protocol.invitation import Invitation
from hearthring.shards.store import ModelEntry
from hearthring.verify.verdict import Outcome
from tests.memory_ring import memory_swarm


async def test_one_invitation_may_stand_alone() -> None:
    invitation = f"hearthring://127.0.0.1:9/{Identity.new().node_id}"
    async with AsyncClient(invitation) as alone, AsyncClient([invitation]) as listed:
        assert alone.config.join == listed.config.join == (Invitation.parse(invitation),)


async def test_a_proof_may_be_a_file(tiny: ModelEntry, tmp_path: Path) -> None:
    async with memory_swarm(tiny, (0, 2, 4)) as swarm:
        client = swarm.client()
        answer = await client.generate("hi", max_tokens=3)
        path = answer.proof.save(tmp_path / "hi.proof")
        for proof in (answer.proof, path, str(path)):
            assert (await client.audit(proof)).outcome is Outcome.ACCEPTED
        path.write_bytes(path.read_bytes()[:-1])
        with pytest.raises(BadProof):
            await client.audit(path)


@pytest.mark.parametrize(
    ("proof", "says"),
    [
        ("nonsuch.proof", "proof: nonsuch.proof: no such file"),
        ("/", "proof: /: is a directory"),
        ("a\0b", "null byte"),
        (None, "NoneType is no proof"),
        (b"bytes", "bytes is no proof"),
        (3, "int is no proof"),
    ],
)
async def test_what_is_no_proof_is_named(proof: Any, says: str) -> None:
    async with AsyncClient() as client:
        with pytest.raises(BadOption, match=says):
            await client.audit(proof)


@pytest.mark.parametrize("verifiers", [0, 2, -1, "3", 1.0, True, 1001])
async def test_so_many_verifiers_can_not_vote(
    verifiers: Any, tiny: ModelEntry, tmp_path: Path
) -> None:
    async with memory_swarm(tiny, (0, 4)) as swarm:
        client = swarm.client()
        proof = (await client.generate("hi", max_tokens=2)).proof
        with pytest.raises(BadOption, match="can't vote"):
            await client.audit(proof, verifiers=verifiers)
