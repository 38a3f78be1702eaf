"""Peers agree on the highest version both speak, and nobody talks them down."""

from collections.abc import AsyncIterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hearthring.protocol.errors import BadSignature, HearthringError, Malformed, VersionMismatch
from hearthring.protocol.grpc_transport import GrpcTransport
from hearthring.protocol.identity import Identity
from hearthring.protocol.messages import Hello
from hearthring.protocol.transport import Method, Stream
from hearthring.protocol.versions import SPOKEN, Versions

RANGES = st.tuples(st.integers(1, 9), st.integers(1, 9)).map(lambda n: Versions(min(n), max(n)))


@given(RANGES, RANGES)
def test_the_highest_common_version_is_chosen_by_both_alike(one: Versions, two: Versions) -> None:
    both = set(range(one.oldest, one.newest + 1)) & set(range(two.oldest, two.newest + 1))
    if both:
        assert one.common(two) == two.common(one) == max(both)
        return
    for mine, theirs in ((one, two), (two, one)):
        with pytest.raises(VersionMismatch, match="update the older side"):
            mine.common(theirs)


@given(RANGES)
def test_a_range_is_read_as_it_was_written(versions: Versions) -> None:
    assert Versions.parse(str(versions)) == versions


@pytest.mark.parametrize("text", ["", "1", "2-1", "0-1", "1-", "-1", "1-1\n", "1-9999999", "٣-٤"])
def test_what_is_no_range_is_refused(text: str) -> None:
    with pytest.raises(Malformed):
        Versions.parse(text)


class Caller(GrpcTransport):
    """Takes the offer for another one, as if somebody between had changed it."""

    seen = ""

    def _hello(self, nonce: bytes, leaf: bytes, offer: str) -> Hello:
        return super()._hello(nonce, leaf, self.seen or offer)


async def greet(stream: Stream) -> None:
    await stream.send(b"x")


@pytest.fixture
async def pair() -> AsyncIterator[tuple[GrpcTransport, Caller]]:
    server, caller = GrpcTransport(Identity.new()), Caller(Identity.new())
    yield server, caller
    await caller.close()
    await server.close()


async def asked(server: GrpcTransport, caller: Caller) -> bytes | None:
    address = await server.serve("127.0.0.1:0", {Method.STATUS: greet})
    stream = await caller.dial(address, server.identity.node_id, Method.STATUS)
    return await stream.receive()


async def test_a_newer_peer_speaks_the_older_ones_version(
    pair: tuple[GrpcTransport, Caller],
) -> None:
    server, caller = pair
    server._versions, caller._versions = Versions(1, 5), Versions(2, 3)
    assert await asked(server, caller) == b"x"


async def test_peers_without_a_common_version_say_so(pair: tuple[GrpcTransport, Caller]) -> None:
    server, caller = pair
    server._versions, caller._versions = Versions(3, 4), SPOKEN
    with pytest.raises(VersionMismatch, match=r"3-4.*1-1"):
        await asked(server, caller)


async def test_a_version_that_was_not_offered_is_refused(
    pair: tuple[GrpcTransport, Caller],
) -> None:
    server, caller = pair
    server._versions, caller._versions, caller.seen = Versions(2, 3), Versions(1, 1), "1-1"
    with pytest.raises(VersionMismatch, match="this node speaks 2-3"):
        await asked(server, caller)


async def test_an_offer_that_was_changed_on_the_way_is_noticed(
    pair: tuple[GrpcTransport, Caller],
) -> None:
    server, caller = pair
    server._versions, caller._versions, caller.seen = Versions(1, 3), Versions(1, 3), "1-2"
    with pytest.raises(BadSignature):
        await asked(server, caller)


async def test_an_offer_that_is_none_is_an_error_by_name(
    pair: tuple[GrpcTransport, Caller],
) -> None:
    server, caller = pair
    caller.seen = "everything"
    with pytest.raises(HearthringError, match="not a range"):
        await asked(server, caller)
