"""What a client measures in passing."""

import asyncio

import numpy as np
import pytest

from hearthring.client.flight import Result
from hearthring.client.measuring import MeasuringTransport, learn
from hearthring.client.peers import BULK_BYTES, PeerTable
from hearthring.client.route import Stage
from hearthring.protocol.errors import PeerUnreachable
from hearthring.protocol.memory import MemoryNetwork, MemoryTransport
from hearthring.protocol.messages import GENERATED, PROMPT, HopTime, Row
from hearthring.protocol.transport import Method, Stream


async def test_a_transport_that_measures_changes_nothing_else() -> None:
    network, peers = MemoryNetwork(), PeerTable()
    server = MemoryTransport(network)

    async def echo(stream: Stream) -> None:
        while (data := await stream.receive()) is not None:
            await stream.send(data)

    address = await server.serve("127.0.0.1:0", {Method.STATUS: echo})
    client = MeasuringTransport(MemoryTransport(network), peers)
    node = server.identity.node_id
    with pytest.raises(PeerUnreachable):
        await client.dial("127.0.0.1:99", node, Method.STATUS)
    for known in (0.0, 1.0):  # the first holds the handshakes, so it tells no round trip
        stream = await client.dial(address, node, Method.STATUS)
        assert stream.peer == node
        for data in (b"small", b"x" * BULK_BYTES):
            await stream.send(data)
            assert await stream.receive() == data
        await stream.close()
        table = dict(peers)
        assert (table[node].round_trip > 0) == bool(known)
        assert table[node].speed > 0
    await asyncio.gather(client.close(), server.close())


def test_the_pace_of_stages_comes_from_steps_of_one_generated_row() -> None:
    route = [
        Stage(name, f"{name}:1", at, at + 4, "fp16", "", "") for name, at in (("a", 0), ("b", 4))
    ]
    times = HopTime(0.1, 0.3), HopTime(0.0, 0.2)

    def result(rows: int, kind: int) -> Result:
        chain = tuple(Row(n + 1, n, n, kind) for n in range(rows))
        return Result(1, chain, np.zeros((rows, 4), np.float32), times)

    peers = PeerTable()
    learn(peers, route, [result(1, PROMPT), result(2, GENERATED), result(0, GENERATED)])
    assert len(peers) == 0
    learn(peers, route, [result(1, GENERATED)])
    assert {name: peer.pace for name, peer in peers} == pytest.approx({"a": 0.1, "b": 0.05})
    learn(peers, route[:1], [result(1, GENERATED)])  # times of another route
    assert dict(peers)["a"].pace == pytest.approx(0.1)
