"""Who has no key of a private swarm, or another one, is told so, and how to mend it."""

from collections.abc import AsyncIterator

import pytest

from hearthring import AsyncClient
from hearthring.protocol.errors import BadInvitation, SeedUnreachable, WrongSwarm
from hearthring.protocol.grpc_transport import GrpcTransport
from hearthring.protocol.identity import Identity
from hearthring.protocol.invitation import Invitation, split_address
from hearthring.protocol.transport import Method, Stream
from hearthring.shards.store import ModelEntry
from tests.unit.test_transport import echo

KEY, OTHER = b"k" * 32, b"j" * 32


@pytest.fixture
async def private() -> AsyncIterator[Invitation]:
    """A node of a private swarm that answers whoever gets in."""
    server = GrpcTransport(Identity.new(), KEY)
    handlers = {Method.STATUS: echo, Method.DIRECTORY: echo}
    host, port = split_address(await server.serve("127.0.0.1:0", handlers))
    yield Invitation(host, port, server.identity.node_id, KEY)
    await server.close()


async def write(stream: Stream) -> None:
    """Until a refusal crosses what is written."""
    while True:
        await stream.send(b"x")


async def test_members_get_in(private: Invitation) -> None:
    member = GrpcTransport(Identity.new(), KEY)
    stream = await member.dial(private.address, private.node_id, Method.STATUS)
    await stream.send(b"x")
    assert await stream.receive()
    await member.close()


@pytest.mark.parametrize("writes", [False, True])
@pytest.mark.parametrize(
    ("key", "named", "says"),
    [
        (None, None, "private, and no key was given"),
        (OTHER, None, "private, and the key that was given isn't its"),
        (OTHER, KEY, "private, and the key that was given isn't its"),
    ],
)
async def test_others_are_refused_by_name_whatever_they_do_meanwhile(
    private: Invitation, key: bytes | None, named: bytes | None, says: str, writes: bool
) -> None:
    """Also one that names the swarm without knowing its key, and one that asks at once."""
    stranger = GrpcTransport(Identity.new(), key)
    stranger._swarm = GrpcTransport(Identity.new(), named)._swarm if named else stranger._swarm
    for _ in range(10):
        stream = await stranger.dial(private.address, private.node_id, Method.STATUS)
        with pytest.raises(WrongSwarm, match=says) as caught:
            await (write(stream) if writes else stream.receive())
        assert "--swarm-key" in caught.value.mend
    await stranger.close()


async def test_a_key_in_an_open_swarm_is_one_too_many() -> None:
    server, caller = GrpcTransport(Identity.new()), GrpcTransport(Identity.new(), KEY)
    address = await server.serve("127.0.0.1:0", {Method.STATUS: echo})
    stream = await caller.dial(address, server.identity.node_id, Method.STATUS)
    with pytest.raises(WrongSwarm, match="this swarm is open"):
        await stream.receive()
    await caller.close()
    await server.close()


@pytest.mark.parametrize("key", [None, OTHER])
async def test_a_client_is_told_how_to_get_in(
    private: Invitation, key: bytes | None, tiny: ModelEntry
) -> None:
    seed = Invitation(private.host, private.port, private.node_id, key)
    for model in (str(tiny.path), None):  # what is here needs the directory alone
        async with AsyncClient([seed], model) as client:
            with pytest.raises(SeedUnreachable, match="this swarm is private") as caught:
                await client.records()
        assert private.address in caught.value.message
        assert "?key= included" in caught.value.mend


def test_keys_of_several_swarms_are_refused_at_once() -> None:
    who = Identity.new().node_id
    seeds = [Invitation("127.0.0.1", 9, who, key) for key in (KEY, None, OTHER)]
    with pytest.raises(BadInvitation, match="several swarms' keys"):
        AsyncClient(seeds)
