"""Messages become bytes and come back the same; every limit is refused by name."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hearthring.proto import ring_pb2 as pb
from hearthring.protocol import wire
from hearthring.protocol.errors import Malformed, ProtocolError, TooLarge, from_wire
from hearthring.protocol.limits import LIMITS
from hearthring.protocol.messages import (
    Cancel,
    DirectoryReply,
    Evidence,
    Finish,
    Hello,
    HopTime,
    Open,
    Opened,
    Row,
    SignedRows,
    StatusReply,
    Step,
    StepTime,
    Tap,
)
from tests.messages import KINDS

STEP = Step(bytes(16), 0, 1, (Row(1, 0, 0, 1),))
WISH = Open(bytes(16), 0, "m", 0, 1, "fp32", "f", "p", "n", "a", 1, bytes(32))
STATUS = StatusReply("", b"", (), 0, 0.0, 1)
SIGNED = SignedRows(0, 1, (1,), (bytes(32),), b"s")
LONG = "x" * (LIMITS.name_chars + 1)
ROWS = tuple(Row(n, 0, 0, 1) for n in range(1, LIMITS.rows_per_step + 2))
IDS = tuple(range(LIMITS.session_rows + 1))


@pytest.mark.parametrize("kind", KINDS)
@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(data=st.data())
def test_every_message_comes_back_the_same(kind: str, data: st.DataObject) -> None:
    encode, decode, messages = KINDS[kind]
    message = data.draw(messages)
    assert decode(encode(message)) == message


@pytest.mark.parametrize(
    ("kind", "message", "field"),
    [
        ("hello", Hello(1, LONG, "", b"", b""), "hello.caller"),
        ("hello", Hello(1, "", LONG, b"", b""), "hello.swarm"),
        ("step", replace(STEP, rows=ROWS), "step.rows"),
        ("step", replace(STEP, dead=IDS[: LIMITS.rows_per_step + 1]), "step.dead"),
        ("step", replace(STEP, commit=IDS), "step.commit"),
        ("step", replace(STEP, drop=IDS), "step.drop"),
        ("step", replace(STEP, times=(HopTime(0, 0),) * (LIMITS.hops + 1)), "step.times"),
        ("up", replace(WISH, model_id=LONG), "open.model_id"),
        ("up", replace(WISH, residual=LONG), "open.residual"),
        ("up", replace(WISH, fingerprint=LONG), "open.fingerprint"),
        ("up", replace(WISH, previous_fingerprint=LONG), "open.previous_fingerprint"),
        ("up", replace(WISH, previous=LONG), "open.previous"),
        ("up", replace(WISH, next=LONG), "open.next"),
        ("up", replace(WISH, next_address=LONG), "open.next_address"),
        ("up", replace(WISH, taps=(1,) * 65), "open.taps"),
        ("up", Cancel(IDS), "cancel.ids"),
        ("up", Finish(0, IDS), "finish.commit"),
        ("down", Opened(LONG, 0), "opened.numerics"),
        ("down", Tap(0, 0, IDS[: LIMITS.rows_per_step + 1], b""), "tap.ids"),
        ("down", replace(STEP, rows=ROWS), "step.rows"),
        ("status", StatusReply("", b"", ("",) * 65, 0, 0.0, 1), "status.dht_addresses"),
        ("status", replace(STATUS, timings=(StepTime(1, 1, 0.5),) * 65), "status.timings"),
        ("query", LONG, "query.model_id"),
        ("records", DirectoryReply(LONG, ()), "reply.model_id"),
        (
            "records",
            DirectoryReply("", (b"",) * (LIMITS.records_per_reply + 1)),
            "reply.records",
        ),
        ("evidence", Evidence((SIGNED,) * (LIMITS.session_rows + 1)), "evidence.received"),
    ],
)
def test_more_than_the_limit_is_too_large(kind: str, message: Any, field: str) -> None:
    encode, decode, _ = KINDS[kind]
    with pytest.raises(TooLarge, match="at most") as caught:
        decode(encode(message))
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("hello", Hello(1, LONG[1:], LONG[1:], b"", b"")),
        ("step", replace(STEP, rows=ROWS[1:], commit=IDS[1:], drop=IDS[1:])),
        ("step", replace(STEP, dead=IDS[: LIMITS.rows_per_step])),
        ("step", replace(STEP, times=(HopTime(0, 0),) * LIMITS.hops)),
        ("up", replace(WISH, previous=LONG[1:], taps=(1,) * 64)),
        ("up", Cancel(IDS[1:])),
        ("records", DirectoryReply(LONG[1:], (b"",) * LIMITS.records_per_reply)),
    ],
)
def test_the_limit_itself_is_allowed(kind: str, message: Any) -> None:
    encode, decode, _ = KINDS[kind]
    assert decode(encode(message)) == message


@pytest.mark.parametrize(
    ("kind", "message", "field"),
    [
        ("step", replace(STEP, session=bytes(15)), "step.session"),
        ("step", replace(STEP, session=b""), "step.session"),
        ("step", replace(STEP, rows=(Row(1, 0, 0, 0),)), "row.kind"),
        ("step", replace(STEP, rows=(Row(1, 0, 0, 3),)), "row.kind"),
        ("step", replace(STEP, rows=(Row(1, 1, 0, 1),)), "row.parent"),
        ("step", replace(STEP, rows=(Row(1, 2, 0, 1),)), "row.parent"),
        ("step", replace(STEP, rows=(Row(0, 0, 0, 1),)), "row.parent"),
        ("up", replace(WISH, session=bytes(17)), "open.session"),
        ("up", replace(WISH, nonce_hash=bytes(31)), "open.nonce_hash"),
        ("status", replace(STATUS, timings=(StepTime(1, 0, 0.5),)), "status.timings"),
        ("status", replace(STATUS, timings=(StepTime(3, 1, 0.5),)), "status.timings"),
        ("status", replace(STATUS, timings=(StepTime(2, 1, 0.0),)), "status.timings"),
        ("evidence", Evidence((replace(SIGNED, ids=(1, 2)),)), "evidence.ids"),
        ("evidence", Evidence((replace(SIGNED, hashes=()),)), "evidence.ids"),
        ("evidence", Evidence((replace(SIGNED, hashes=(bytes(31),)),)), "evidence.hashes"),
    ],
)
def test_what_can_not_be_meant_is_malformed(kind: str, message: Any, field: str) -> None:
    encode, decode, _ = KINDS[kind]
    with pytest.raises(Malformed) as caught:
        decode(encode(message))
    assert (type(caught.value), caught.value.field) == (Malformed, field)


@pytest.mark.parametrize("kind", KINDS)
def test_garbage_and_giants_are_named(kind: str) -> None:
    decode = KINDS[kind][1]
    for garbage in (b"\xff", b"\x0a\xff", b"\x0a\x05ab", b"\x0b" * 200):
        with pytest.raises(Malformed):
            decode(garbage)
    with pytest.raises(TooLarge, match=f"{LIMITS.message_bytes + 1} bytes"):
        decode(b"\xff" * (LIMITS.message_bytes + 1))


def test_a_frame_of_an_unknown_kind_is_malformed() -> None:
    for decode in (wire.decode_up, wire.decode_down):
        for data in (b"", b"\x7a\x00"):  # nothing, and field 15
            with pytest.raises(Malformed, match="no known frame"):
                decode(data)


def test_a_peers_error_is_one_line_for_a_terminal() -> None:
    error = from_wire("StageFailed", "done\n\x1b]0;x\x07", "a\tfield", "é \x9b31m\u2028")
    assert str(error) == "a field: done  ]0;x  (é  31m )"


def test_text_that_is_no_text_is_malformed() -> None:
    whole = pb.DirectoryQuery(model_id="xy").SerializeToString()
    with pytest.raises(ProtocolError, match="doesn't decode"):
        wire.decode_query(whole.replace(b"xy", b"\xc3\x28"))


def test_a_newer_peers_additions_are_passed_over() -> None:
    assert wire.decode_step(wire.encode_step(STEP) + b"\xfa\x7f\x02hi") == STEP  # field 2047
