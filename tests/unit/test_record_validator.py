"""The rule by which nodes judge DHT entries, on entries made by hand."""

import asyncio
import hashlib
import math
import time
from dataclasses import replace
from typing import Any

import pytest
from hivemind.dht.routing import DHTID
from hivemind.dht.validation import DHTRecord
from hivemind.utils.serializer import MSGPackSerializer

from hearthring.protocol import directory, entries, ports, records
from hearthring.protocol.errors import Malformed, TooLarge
from hearthring.protocol.frames import Frame, encode_frame, read_frame
from hearthring.protocol.identity import Identity
from hearthring.protocol.limits import LIMITS

MODEL = "ab" * 32
WHO = Identity.new()
OTHER = Identity.new()
pack = MSGPackSerializer.dumps


def record(who: Identity = WHO, life: float = 24.0, **fields: Any) -> records.NodeRecord:
    return records.NodeRecord(
        node=who.node_id,
        model_id=MODEL,
        windows=((2, 4), (8, 9)),
        addresses=("127.0.0.1:9",),
        expires=round(time.time() + life, 3),
        **fields,
    )


def entry(
    offer: records.NodeRecord, who: Identity = WHO, layer: int = 2, **other: Any
) -> DHTRecord:
    key = DHTID.generate(entries.layer_key(MODEL, layer)).to_bytes()
    made = DHTRecord(key, pack(who.node_id), pack(records.sign(offer, who)), offer.expires)
    return replace(made, **other)


def valid(made: DHTRecord) -> bool:
    return bool(directory.Validator().validate(made))


@pytest.mark.parametrize("layer", [2, 3, 8])
def test_accepts_a_node_s_own_record_under_its_layers(layer: int) -> None:
    assert valid(entry(record(), layer=layer))


def test_accepts_short_and_long_records_and_a_version_it_does_not_know() -> None:
    assert valid(entry(record(version=99)))
    assert valid(entry(record(model_name="x" * 150, engine="y" * 150, numerics="z" * 2000)))


def test_an_expired_record_is_no_forgery() -> None:
    # A reader drops a replica's whole dictionary over one entry that isn't valid.
    assert valid(entry(record(life=-5.0)))


@pytest.mark.parametrize("layer", [0, 1, 4, 7, 9])
def test_refuses_a_layer_outside_the_windows(layer: int) -> None:
    assert not valid(entry(record(), layer=layer))


def test_refuses_another_s_subkey() -> None:
    assert not valid(entry(record(), subkey=pack(OTHER.node_id)))
    assert not valid(entry(record(OTHER), OTHER, subkey=pack(WHO.node_id)))


def test_refuses_without_a_subkey() -> None:
    assert not valid(entry(record(), subkey=pack(None)))
    assert not valid(entry(record(), subkey=b""))


def test_refuses_any_altered_byte_that_is_signed() -> None:
    good = entry(record())
    signed = records.sign(record(), WHO)
    assert valid(good)
    for place in range(0, len(signed), 7):
        altered = bytearray(signed)
        altered[place] ^= 0x10
        assert not valid(replace(good, value=pack(bytes(altered))))


def test_refuses_another_expiry_than_the_signed_one() -> None:
    offer = record()
    assert not valid(entry(offer, expiration_time=offer.expires + 60))
    assert not valid(entry(offer, expiration_time=offer.expires - 0.001))


def test_caps_the_life_with_room_for_clocks() -> None:
    assert valid(entry(record(life=LIMITS.record_life_cap + 3)))
    assert not valid(entry(record(life=LIMITS.record_life_cap + entries.CLOCK_SLACK + 3)))


@pytest.mark.parametrize(
    "value", [b"", b"\xc0", b"\xc4", b"\xc5\x00", b"\xc6\x00\x00\x00\x01x", 7, "s"]
)
def test_never_raises(value: Any) -> None:
    assert not valid(entry(record(), value=value))


@pytest.mark.parametrize("expires", [math.nan, math.inf, -math.inf, 7, None, "soon"])
def test_never_raises_over_the_expiry(expires: Any) -> None:
    assert not valid(entry(record(), expiration_time=expires))


@pytest.mark.parametrize(
    "wrap", [lambda raw: b"\xc5" + len(raw).to_bytes(2) + raw, lambda raw: raw]
)
def test_refuses_other_encodings_of_the_value(wrap: Any) -> None:
    short = b"x" * 100
    assert entries._unwrap(pack(short)) == short
    assert entries._unwrap(wrap(short)) == b""


def test_the_key_is_what_hivemind_makes_of_it() -> None:
    key = entries.layer_key(MODEL, 5)
    assert DHTID.generate(key).to_bytes() == hashlib.sha1(key).digest()
    assert entries._key_hash(MODEL, 5) == hashlib.sha1(key).digest()


def test_a_refused_older_value_does_not_shorten_the_newer_one_s_life() -> None:
    storage, now = directory.Storage(), time.time()
    assert storage.store_subkey(1, "node", b"new", now + 20)
    assert not storage.store_subkey(1, "node", b"old", now + 10)
    assert storage.expiration_heap[0].expiration_time == now + 20
    assert storage.data[1].value.expiration_heap[0].expiration_time == now + 20
    assert storage.get(1).value.get("node").value == b"new"


def test_reading_the_storage_gives_a_copy() -> None:
    storage, now = directory.Storage(), time.time()
    storage.store_subkey(1, "node", b"mine", now + 20)
    storage.get(1).value.store("stranger", b"found", now + 30)
    assert storage.get(1).value.get("stranger") is None


def test_the_storage_is_bounded() -> None:
    storage, now = directory.Storage(), time.time()
    assert not storage.store(1, b"plain", now + 20)
    assert not storage.store_subkey(1, "node", b"far", now + LIMITS.record_life_cap + 1)
    assert not storage.store_subkey(1, "node", b"past", now - 1)
    for count in range(LIMITS.records_per_layer):
        assert storage.store_subkey(1, f"node {count}", b"small", now + 20)
    assert not storage.store_subkey(1, "one more", b"small", now + 20)
    assert storage.store_subkey(1, "node 0", b"again", now + 30)
    half = bytes(directory.KEY_BYTES // 2)
    assert storage.store_subkey(2, "a", half, now + 20)
    assert storage.store_subkey(2, "b", half, now + 20)
    assert not storage.store_subkey(2, "c", b"x", now + 20)
    assert storage.store_subkey(2, "a", half, now + 30)


def test_addresses_become_multiaddrs() -> None:
    assert ports.multiaddr("127.0.0.1", 7) == "/ip4/127.0.0.1/tcp/7"
    assert ports.multiaddr("::1", 7) == "/ip6/::1/tcp/7"
    assert ports.multiaddr("home.example", 7) == "/dns4/home.example/tcp/7"


async def _read(*pieces: bytes) -> list[Frame]:
    reader = asyncio.StreamReader()
    for piece in pieces:
        reader.feed_data(piece)
    reader.feed_eof()
    frames = []
    while frame := await read_frame(reader):
        frames.append(frame)
    return frames


async def test_frames_go_round() -> None:
    frames: list[Frame] = [{"id": 1, "op": "ping"}, {"id": 2, "text": "ü" * 1000}]
    whole = b"".join(map(encode_frame, frames))
    assert await _read(whole) == frames
    assert await _read(whole[:-1]) == frames[:1]


async def test_frames_are_bounded() -> None:
    with pytest.raises(TooLarge):
        encode_frame({"text": "x" * LIMITS.message_bytes})
    with pytest.raises(TooLarge):
        await _read((LIMITS.message_bytes + 1).to_bytes(4))
    for body in (b"{", b"[]", b"\xff"):
        with pytest.raises(Malformed):
            await _read(len(body).to_bytes(4) + body)
