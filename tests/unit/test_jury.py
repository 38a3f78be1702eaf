"""Who judges: owners by key and network, the draw, and what ties a snapshot to its session."""

from collections import Counter
from dataclasses import replace

import pytest

from hearthring.protocol.errors import BadProof
from hearthring.protocol.records import NodeRecord
from hearthring.shards.store import ModelEntry
from hearthring.verify.beacon import beacon, commitment
from hearthring.verify.candidates import (
    MOST,
    Candidate,
    candidate,
    network,
    owners,
    snapshot,
    snapshot_hash,
)
from hearthring.verify.consistency import contradiction
from hearthring.verify.jury import jury, jury_of
from hearthring.verify.proof import read, sign
from tests.memory_ring import memory_swarm


def record(node: str, address: str = "10.0.0.1:1", **fields: object) -> NodeRecord:
    return NodeRecord(node, "m", ((0, 1),), (address,), 0.0, **fields)  # type: ignore[arg-type]


def test_networks_are_those_of_public_addresses() -> None:
    assert network("8.8.8.8:1") == network("8.8.8.200:9") == "8.8.8.0/24"
    assert network("[2600:1f00:1:2::1]:1") == "2600:1f00:1::/48"
    for private in ("192.168.1.4:1", "127.0.0.1:1", "10.1.2.3:4", "[fd00::1]:1", "nonsense"):
        assert network(private) == ""
    assert network("Example.org:1") == "example.org"


def test_owners_share_a_key_or_a_public_network() -> None:
    found = [
        candidate(record("a", "8.8.8.1:1")),
        candidate(record("b", "8.8.8.2:1", owner="key")),
        candidate(record("c", "9.9.9.9:1", owner="key")),
        candidate(record("d", "9.9.8.9:1")),
        candidate(record("e", "8.8.8.1:1", swarm="a private one")),
        candidate(record("f")),
        candidate(record("g")),
    ]
    assert owners(found) == {"a": "a", "b": "a", "c": "a", "d": "d", "e": "e", "f": "f", "g": "g"}


def test_a_jury_has_one_of_each_owner_and_none_of_the_route() -> None:
    found = [
        *(Candidate(f"sybil{n}", "one key") for n in range(40)),
        *(Candidate(f"node{n}") for n in range(4)),
        Candidate("stage", "its key"),
        Candidate("its other node", "its key"),
    ]
    first = Counter(jury(bytes([n]), found, ["stage"])[0].owner or "-" for n in range(200))
    drawn = jury(b"x", found, ["stage"])
    assert len(drawn) == 5
    assert sum(one.owner == "one key" for one in drawn) == 1
    assert all(one.owner != "its key" for one in drawn)
    # Forty nodes of one owner are drawn as often as one node of another: a fifth of the time.
    assert 20 < first["one key"] < 65
    assert drawn == jury(b"x", found[::-1], ["stage"])
    assert jury(b"", found, [one.node for one in found]) == ()


def test_nodes_of_the_routes_class_come_first() -> None:
    found = [Candidate(f"n{n}", fingerprint="same" if n % 4 == 0 else "other") for n in range(20)]
    for chance in (b"a", b"b", b"c"):
        kinds = [one.fingerprint for one in jury(chance, found, (), "same")]
        assert kinds == ["same"] * 5 + ["other"] * 15


def test_a_snapshot_is_bounded_and_keeps_the_route() -> None:
    records = [record(f"n{n:04}") for n in range(2 * MOST)]
    route = ["n0001", "n0400"]
    found = snapshot(records, route, b"session")
    assert len(found) == MOST
    assert list(found) == sorted(found)
    assert set(route) <= {one.node for one in found}
    assert snapshot(records, route, b"another") != found
    assert snapshot_hash(found) != snapshot_hash(found[:-1])
    assert snapshot_hash([Candidate("a", "b")]) != snapshot_hash([Candidate("a", "", "b")])


def test_the_commitment_covers_nonce_and_snapshot() -> None:
    one, two = [Candidate("a")], [Candidate("b")]
    hashes = {commitment(n, c) for n in (b"x", b"y") for c in ((), one, two)}
    assert len(hashes) == 6


async def test_a_proof_carries_the_snapshot_that_its_receipts_bind(tiny: ModelEntry) -> None:
    async with memory_swarm(tiny, (0, 2, 4)) as swarm:
        await swarm.node((0, 4))
        client = swarm.client()
        proof = (await client.generate(prompt_ids=[5, 6, 7], max_tokens=3)).proof
        again = (await client.generate(prompt_ids=[5, 6, 7], max_tokens=3)).proof
        who = client.transport().identity
    assert read(proof._file) == proof
    route = {stage.node for stage in proof.stages}
    everybody = {node.node_id for node in swarm.nodes}
    assert {one.node for one in proof.candidates} == everybody
    assert {one.node for one in jury_of(proof)} == everybody - route
    assert beacon(proof) != beacon(again)
    assert contradiction(proof, 4) is None

    friend = (*proof.candidates, Candidate("12D3KooZ"))
    for candidates in (friend, proof.candidates[1:], ()):
        packed = sign(replace(proof, _file=b"", candidates=candidates), who)
        verdict = contradiction(packed, 4)
        assert verdict is not None
        assert "nonce_hash" in verdict.reason
    with pytest.raises(BadProof, match="order"):
        sign(replace(proof, _file=b"", candidates=proof.candidates[::-1]), who)
    assert [one["node"] for one in proof.as_json()["candidates"]] == sorted(everybody)
