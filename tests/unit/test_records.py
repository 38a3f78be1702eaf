"""Announcements: what a node signs, and who believes it."""

from dataclasses import fields, replace
from typing import Any

import pytest

from hearthring.proto import record_pb2
from hearthring.protocol import records
from hearthring.protocol.errors import BadSignature, Malformed, TooLarge
from hearthring.protocol.identity import Identity
from hearthring.protocol.limits import LIMITS
from hearthring.protocol.records import NodeRecord, owner_claim, read, read_all, sign

WHO, OTHER, OWNER = Identity.new(), Identity.new(), Identity.new()
MODEL = "ab" * 32
FULL = NodeRecord(
    node=WHO.node_id,
    model_id=MODEL,
    windows=((0, 4), (8, 9)),
    addresses=("127.0.0.1:9", "[::1]:9"),
    expires=1_700_000_000.125,
    sequence=7,
    leaving=True,
    model_name="tiny",
    engine="torch",
    residual="fp16",
    numerics="torch-2/fp16",
    fingerprint="cd" * 32,
    step_seconds=0.25,
    row_seconds=0.5,
    prompt_step_seconds=0.125,
    prompt_row_seconds=0.375,
    prompt_points=((1, 0.5), (64, 24.125)),
    free_rows=11,
    sessions=3,
    swarm="home",
    owner=OWNER.node_id,
    owner_signature=OWNER.sign(owner_claim(WHO.node_id)),
    relay_addresses=("relay",),
    link_up=1e6,
    link_down=2.5e6,
    audit_seconds=600,
    version=1,
)
OTHER_VALUES: dict[str, Any] = {
    "node": OTHER.node_id,
    "model_id": "ba" * 32,
    "windows": [record_pb2.Window(start=0, end=5)],
    "addresses": ["127.0.0.1:10"],
    "expires_ms": 1,
    "sequence": 8,
    "leaving": False,
    "model_name": "huge",
    "engine": "ggml",
    "residual": "fp32",
    "numerics": "x",
    "fingerprint": "dc" * 32,
    "step_seconds": 0.0,
    "row_seconds": 0.0,
    "prompt_step_seconds": 0.0,
    "prompt_row_seconds": 0.0,
    "prompt_points": [record_pb2.StepPoint(rows=1, seconds=0.25)],
    "free_rows": 1 << 20,
    "sessions": 0,
    "swarm": "open",
    "owner": "",
    "owner_signature": b"",
    "relay_addresses": [],
    "link_up": 0.0,
    "link_down": 1.0,
    "audit_seconds": 60,
    "version": 2,
}


def record(who: Identity = WHO, **changes: Any) -> NodeRecord:
    plain = NodeRecord(who.node_id, MODEL, ((0, 2),), ("127.0.0.1:9",), expires=100.0)
    return replace(plain, **changes)


def forged(body: record_pb2.NodeRecord, who: Identity = WHO) -> bytes:
    """A record of any content, truly signed: what a hostile node may announce."""
    data = body.SerializeToString()
    signature = who.sign(records._CONTEXT + data)
    return record_pb2.SignedRecord(body=data, signature=signature).SerializeToString()


def body_of(offer: NodeRecord) -> record_pb2.NodeRecord:
    signed = record_pb2.SignedRecord.FromString(sign(offer, WHO))
    return record_pb2.NodeRecord.FromString(signed.body)


def test_a_record_comes_back_the_same() -> None:
    for offer in (FULL, record()):
        assert read(sign(offer, WHO)) == offer
    assert all(getattr(FULL, f.name) for f in fields(FULL)), "an empty field shows nothing"


@pytest.mark.parametrize("field", OTHER_VALUES)
def test_no_field_can_be_changed_by_anybody_else(field: str) -> None:
    signed = record_pb2.SignedRecord.FromString(sign(FULL, WHO))
    body = record_pb2.NodeRecord.FromString(signed.body)
    body.ClearField(field)  # type: ignore[arg-type]
    body.MergeFrom(record_pb2.NodeRecord(**{field: OTHER_VALUES[field]}))
    assert body.SerializeToString() != signed.body
    signed.body = body.SerializeToString()
    with pytest.raises(BadSignature, match=r"signature|not signed"):
        read(signed.SerializeToString())


def test_every_field_is_covered_by_the_test_above() -> None:
    assert set(OTHER_VALUES) == {field.name for field in record_pb2.NodeRecord.DESCRIPTOR.fields}


def test_another_signer_is_refused() -> None:
    with pytest.raises(BadSignature):
        read(forged(body_of(record()), OTHER))
    with pytest.raises(AssertionError):
        sign(record(), OTHER)


def test_bytes_that_are_no_record_are_named() -> None:
    whole = sign(record(), WHO)
    for data in (b"\xff", whole[:-1], b"", b"\x0a\x01\xff"):
        with pytest.raises((Malformed, BadSignature)):
            read(data)


def test_a_record_over_the_limit_is_refused_before_it_is_read() -> None:
    roomy = record(model_name="x" * (LIMITS.record_bytes - len(sign(record(), WHO)) - 3))
    assert len(sign(roomy, WHO)) == LIMITS.record_bytes
    assert read(sign(roomy, WHO)) == roomy
    with pytest.raises(TooLarge, match="record: 4097 bytes"):
        read(sign(replace(roomy, model_name=roomy.model_name + "x"), WHO))
    with pytest.raises(TooLarge):
        read(b"\xff" * (LIMITS.record_bytes + 1))


@pytest.mark.parametrize(
    ("changes", "error", "field"),
    [
        ({"windows": ()}, Malformed, "record.windows"),
        ({"windows": ((2, 2),)}, Malformed, "record.windows"),
        ({"windows": ((3, 2),)}, Malformed, "record.windows"),
        ({"windows": ((0, 4097),)}, Malformed, "record.windows"),
        ({"windows": ((0, 1), (5, 4))}, Malformed, "record.windows"),
        ({"windows": ((0, 1),) * 65}, Malformed, "record.windows"),
        ({"addresses": ("a:1",) * 9}, TooLarge, "record.addresses"),
        ({"step_seconds": float("nan")}, Malformed, "record.seconds"),
        ({"row_seconds": float("inf")}, Malformed, "record.seconds"),
        ({"row_seconds": -1.0}, Malformed, "record.seconds"),
        ({"prompt_points": ((1, float("nan")),)}, Malformed, "record.prompt_points"),
        ({"prompt_points": ((1, 0.0),)}, Malformed, "record.prompt_points"),
        ({"prompt_points": ((0, 0.5), (1, 0.5))}, Malformed, "record.prompt_points"),
        ({"prompt_points": ((2, 0.5), (2, 0.5))}, Malformed, "record.prompt_points"),
        (
            {"prompt_points": tuple((n, 0.5) for n in range(1, 18))},
            TooLarge,
            "record.prompt_points",
        ),
        ({"link_up": float("inf")}, Malformed, "record.link"),
        ({"link_down": -1.0}, Malformed, "record.link"),
    ],
)
def test_what_no_node_can_mean_is_refused_though_signed(
    changes: dict[str, Any], error: type[Exception], field: str
) -> None:
    with pytest.raises(error) as caught:
        read(sign(record(**changes), WHO))
    assert caught.value.field == field  # type: ignore[attr-defined]


def test_only_the_owner_can_claim_to_be_it() -> None:
    assert read(sign(FULL, WHO)).owner == OWNER.node_id
    for claim in (
        b"",
        OTHER.sign(owner_claim(WHO.node_id)),
        OWNER.sign(owner_claim(OTHER.node_id)),  # another node's
        OWNER.sign(WHO.node_id.encode()),  # signed for something else
    ):
        with pytest.raises(BadSignature, match=OWNER.node_id):
            read(sign(replace(FULL, owner_signature=claim), WHO))
    with pytest.raises(Malformed):
        read(sign(replace(FULL, owner="me"), WHO))


def test_a_reader_takes_the_newest_live_records_of_its_model() -> None:
    datas = [
        sign(record(sequence=2, expires=60.0), WHO),
        sign(record(sequence=3, expires=70.0), WHO),
        sign(record(sequence=1, expires=90.0), WHO),
        sign(record(OTHER, expires=50.0), OTHER),
        sign(record(OWNER, model_id="cd" * 32), OWNER),
        b"garbage",
    ]
    for order in (datas, datas[::-1]):
        found = read_all(order, MODEL, now=49.0)
        assert {(r.node, r.sequence) for r in found} == {(WHO.node_id, 3), (OTHER.node_id, 0)}
        assert [r.node for r in read_all(order, MODEL, now=50.0)] == [WHO.node_id]
    assert read_all(datas, MODEL, now=70.0) == []
    assert read_all([], MODEL) == []


def test_a_withdrawn_record_hides_the_node_at_once_and_outlives_it() -> None:
    offer = record(sequence=4)
    gone = offer.withdrawn()
    assert gone.expires > offer.expires
    for order in ([offer, gone], [gone, offer]):
        assert read_all([sign(r, WHO) for r in order], MODEL, now=0.0) == []
    back = record(sequence=gone.sequence + 1)
    assert read_all([sign(r, WHO) for r in (gone, back)], MODEL, now=0.0) == [back]


def test_layers_are_those_of_all_windows() -> None:
    assert record(windows=((1, 3), (3, 4), (8, 9))).layers == {1, 2, 3, 8}


@pytest.mark.parametrize("windows", [((0, 8), (4, 12)), ((4, 12), (0, 8)), ((0, 2), (0, 2))])
def test_no_record_has_a_layer_twice(windows: tuple[tuple[int, int], ...]) -> None:
    with pytest.raises(Malformed, match="overlap") as caught:
        read(sign(record(windows=windows), WHO))
    assert caught.value.field == "record.windows"


def test_windows_that_meet_are_in_any_order() -> None:
    for windows in (((0, 4), (4, 8)), ((4, 8), (0, 4))):
        assert read(sign(record(windows=windows), WHO)).windows == windows
