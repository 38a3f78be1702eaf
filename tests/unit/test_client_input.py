"""What a program may hand to a client."""

from hearthring.client.api import AsyncClient
from hearthring.protocol.identity import Identity
from hearthring.protocol.invitation import Invitation


async def test_one_invitation_may_stand_alone() -> None:
    invitation = f"hearthring://127.0.0.1:9/{Identity.new().node_id}"
    async with AsyncClient(invitation) as alone, AsyncClient([invitation]) as listed:
        assert alone.config.join == listed.config.join == (Invitation.parse(invitation),)
