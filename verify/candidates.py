"""Who may judge a proof: the nodes that a client knew before its session began, and their owners.

Nodes of one owner count as one. In an open swarm an owner is whoever holds an owner key *or* a
public network (/24, /48 for IPv6), since identities there cost nothing; in a private swarm, and for
private addresses, the owner key alone, else the node itself.
"""

import ipaddress
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256

from hearthring.protocol.errors import HearthringError
from hearthring.protocol.invitation import split_address
from hearthring.protocol.records import NodeRecord

MOST = 256
"""Candidates in one proof: a swarm of any size has verifiers enough among so many."""
_OPEN = "open"


@dataclass(frozen=True, slots=True, order=True)
class Candidate:
    """A node as its record described it. ``networks`` are those that count for owners."""

    node: str
    owner: str = ""
    fingerprint: str = ""
    networks: tuple[str, ...] = ()


def candidate(record: NodeRecord) -> Candidate:
    """What matters of a record for judging."""
    networks = {network(address) for address in record.addresses} if record.swarm == _OPEN else ()
    found = tuple(sorted(filter(None, networks)))
    return Candidate(record.node, record.owner, record.fingerprint, found)


def network(address: str) -> str:
    """The public network of ``HOST:PORT``, or nothing for a private one. A name stands for itself:
    it hides no network from anyone who has to dial it, but looking it up is not for here."""
    try:
        host, _ = split_address(address, "address")
        ip = ipaddress.ip_address(host)
    except HearthringError:
        return ""
    except ValueError:
        return host.lower()
    if not ip.is_global:
        return ""
    return str(ipaddress.ip_network((ip, 24 if ip.version == 4 else 48), strict=False))


def snapshot(
    records: Iterable[NodeRecord], route: Collection[str], session: bytes
) -> tuple[Candidate, ...]:
    """The candidates of a session, in the order of their ids; at most ``MOST``.

    The nodes of the route are always among them, for the sake of their owners. Of the others chance
    decides, which the session's id stands for.
    """
    known = {record.node: candidate(record) for record in records}

    def place(node: str) -> tuple[bool, bytes]:
        return node not in route, sha256(session + node.encode()).digest()

    chosen = sorted(known, key=place)[:MOST]
    return tuple(sorted(known[node] for node in chosen))


def snapshot_hash(candidates: Sequence[Candidate]) -> bytes:
    """SHA-256 of a snapshot; equal only for equal candidates in equal order."""
    lines = (
        "\t".join((c.node, c.owner, c.fingerprint, *c.networks)).encode() + b"\n"
        for c in candidates
    )
    return sha256(b"hearthring/snapshot/1\n" + b"".join(lines)).digest()


def owners(candidates: Iterable[Candidate]) -> dict[str, str]:
    """Node to owner; an owner goes by the least id of its nodes.

    Ties reach on: who shares a key with one node and a network with another owns all three.
    """
    parent: dict[str, str] = {}

    def find(name: str) -> str:
        while parent.setdefault(name, name) != name:
            parent[name] = parent[parent[name]]
            name = parent[name]
        return name

    nodes = []
    for one in candidates:
        nodes.append(one.node)
        marks = [f"key {one.owner}"] if one.owner else []
        for mark in (*marks, *(f"network {name}" for name in one.networks)):
            parent[find(mark)] = find(one.node)
    least: dict[str, str] = {}
    for node in sorted(nodes):
        least.setdefault(find(node), node)
    return {node: least[find(node)] for node in nodes}
