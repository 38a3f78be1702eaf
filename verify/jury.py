"""Drawing verifiers: in an order that the beacon decides, one of each owner, none of the route's.

Pure. Who is drawn first is asked first; whoever doesn't answer is followed by the next.
"""

from collections.abc import Collection, Sequence
from hashlib import sha256

from hearthring.verify.beacon import beacon
from hearthring.verify.candidates import Candidate, owners
from hearthring.verify.proof import Proof


def jury(
    chance: bytes,
    candidates: Sequence[Candidate],
    route: Collection[str],
    fingerprint: str = "",
) -> tuple[Candidate, ...]:
    """Every eligible verifier, in the order drawn.

    Owners of a stage of the route are out, with all their nodes. Owners are drawn, then one node of
    each, so that many nodes are no more likely than one. Nodes of the class ``fingerprint`` come
    before all others: they alone can compare bits.
    """
    owner = owners(candidates)
    judged = {owner.get(node, node) for node in route}
    seats: dict[str, list[Candidate]] = {}
    for one in candidates:
        if owner[one.node] not in judged and one.node not in route:
            seats.setdefault(owner[one.node], []).append(one)

    def lot(name: str) -> bytes:
        return sha256(b"hearthring/jury/1" + chance + name.encode()).digest()

    def other(one: Candidate) -> bool:
        return bool(fingerprint) and one.fingerprint != fingerprint

    chosen = {
        name: min(nodes, key=lambda one: (other(one), lot(one.node)))
        for name, nodes in seats.items()
    }
    order = sorted(chosen, key=lambda name: (other(chosen[name]), lot(f"owner {name}")))
    return tuple(chosen[name] for name in order)


def jury_of(proof: Proof, fingerprint: str = "") -> tuple[Candidate, ...]:
    """The verifiers that a proof's own beacon draws from its own snapshot."""
    route = frozenset(stage.node for stage in proof.stages)
    return jury(beacon(proof), proof.candidates, route, fingerprint)
