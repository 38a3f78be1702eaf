"""The swarm's rule for DHT entries: where a record stands, and what may stand there.

A record stands under one key per layer, with its node's id as the subkey; ``accepts`` is the rule
every node applies to what it is asked to hold and to what it reads, so that nobody can write under
another's subkey. The later expiry wins, and it is part of what is signed.
"""

import functools
import hashlib
import math

from hearthring.protocol import records
from hearthring.protocol.limits import LIMITS

CLOCK_SLACK = 6.0
"""Two clocks may each be 3 s off the swarm's; a record one node holds must pass at every other."""


def layer_key(model_id: str, layer: int) -> bytes:
    """The DHT key of a layer; the DHT itself only ever sees its SHA-1."""
    return f"hearthring/1/{model_id}/{layer}".encode()


@functools.lru_cache(maxsize=16_384)
def _key_hash(model_id: str, layer: int) -> bytes:
    return hashlib.sha1(layer_key(model_id, layer), usedforsecurity=False).digest()


def _unwrap(value: bytes) -> bytes:
    """The bytes inside msgpack's ``bin``, in its shortest form; nothing if it isn't that."""
    if value[:1] == b"\xc4" and len(value) == 2 + int.from_bytes(value[1:2]):
        return value[2:]
    if value[:1] == b"\xc5" and len(value) == 3 + int.from_bytes(value[1:3]) > 3 + 255:
        return value[3:]
    return b""


def accepts(key: bytes, subkey: bytes, value: bytes, expires: float, now: float) -> bool:
    """Whether a DHT entry is what its node signed, where it may stand. Never raises.

    It must not differ between releases, since a reader drops a whole replica over one bad entry:
    versions are judged after reading, and so is expiry.
    """
    if not (isinstance(value, bytes) and isinstance(expires, float) and math.isfinite(expires)):
        return False
    record = records.read_or_none(_unwrap(value))
    return (
        record is not None
        and subkey == b"\xd9" + bytes([len(record.node)]) + record.node.encode()
        and expires == record.expires <= now + LIMITS.record_life_cap + CLOCK_SLACK
        and any(_key_hash(record.model_id, layer) == key for layer in record.layers)
    )
