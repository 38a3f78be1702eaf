"""A process of the DHT without a validator, with forgeries or another time."""

import asyncio
import json
import sys
import time
from pathlib import Path
from typing import Any

from hearthring.protocol import entries, records
from hearthring.protocol.identity import Identity

MODEL = "ab" * 32
LAYERS = 30


def record(who: Identity, life: float = 24.0, **fields: Any) -> records.NodeRecord:
    """What a node announces of itself."""
    return records.NodeRecord(
        **{"windows": ((0, LAYERS),), "model_id": MODEL} | fields,
        node=who.node_id,
        addresses=("127.0.0.1:9",),
        expires=time.time() + life,
    )


async def attack(order: dict[str, Any]) -> None:
    """Do what ``order`` says, print the address, stay until stdin closes."""
    import hivemind.dht.protocol as protocol
    from hivemind.dht import DHTNode

    ahead = order.get("ahead", 0.0)
    protocol.get_dht_time = lambda: time.time() + ahead
    node = await DHTNode.create(
        initial_peers=order.get("peers"),
        identity_path=order["identity"],
        check_if_identity_free=False,
    )
    if "victim" in order:
        await forge(node, order)
    print(*await node.get_visible_maddrs(), flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await node.shutdown()


async def forge(node: Any, order: dict[str, Any]) -> None:
    """Store one honest record, and every forgery that comes to mind."""
    liar = Identity.load_or_create(Path(order["identity"]))
    victim, signed = order["victim"], bytes.fromhex(order["signed"])
    now = time.time()
    honest = record(liar, sequence=7)
    far = record(liar, life=6000.0, sequence=8)
    narrow = record(liar, life=30.0, sequence=9, windows=((40, 41),))
    later = record(liar, life=30.0, sequence=10)
    altered = signed[:20] + bytes([signed[20] ^ 1]) + signed[21:]
    for layer in (0, 7, LAYERS - 1):
        key = entries.layer_key(MODEL, layer)
        for value, subkey, expires in [
            (
                records.sign(honest, liar),
                liar.node_id,
                records.read(records.sign(honest, liar)).expires,
            ),
            (records.sign(far, liar), liar.node_id, round(far.expires, 3)),
            (records.sign(narrow, liar), liar.node_id, round(narrow.expires, 3)),
            (records.sign(later, liar), victim, round(later.expires, 3)),
            (records.sign(later, liar), liar.node_id, round(later.expires, 3) + 60),
            (altered, victim, now + 60),
            (signed, victim, now + 500),
            (signed, None, now + 500),
            (b"nonsense", victim, now + 500),
        ]:
            await node.store(key, value, expires, subkey=subkey)


if __name__ == "__main__":
    asyncio.run(attack(json.loads(sys.argv[1])))
