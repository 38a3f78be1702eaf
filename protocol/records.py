"""What a node announces: one signed record that expires by itself."""

import functools
import math
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import pairwise

from google.protobuf.message import DecodeError

from hearthring.proto import record_pb2
from hearthring.protocol import identity
from hearthring.protocol.errors import HearthringError, Malformed, TooLarge
from hearthring.protocol.limits import LIMITS

PROTOCOL_VERSION = 1
_CONTEXT = b"hearthring/record/1"


@dataclass(frozen=True, slots=True)
class NodeRecord:
    """One node's offer of one model.

    No two of ``windows`` share a layer, so a record whose windows do is refused.
    ``step_seconds`` and ``row_seconds`` fit the time of a step through the whole window,
    ``t(m) = step_seconds + m * row_seconds``, for generated rows; those that begin with ``prompt_``
    are for prompt rows. ``prompt_points`` are measured ``(rows, seconds)`` of these, rows
    ascending: kernels for many rows make no straight line. ``link_up`` and ``link_down`` are the
    node's own link in bytes a second, 0 if unknown. ``audit_seconds``: for how long after a session
    it opens what it sent. ``expires`` is wall-clock seconds.
    """

    node: str
    model_id: str
    windows: tuple[tuple[int, int], ...]
    addresses: tuple[str, ...]
    expires: float
    sequence: int = 0
    leaving: bool = False
    model_name: str = ""
    engine: str = ""
    residual: str = ""
    numerics: str = ""
    fingerprint: str = ""
    step_seconds: float = 0.0
    row_seconds: float = 0.0
    prompt_step_seconds: float = 0.0
    prompt_row_seconds: float = 0.0
    prompt_points: tuple[tuple[int, float], ...] = ()
    free_rows: int = 0
    sessions: int = 0
    swarm: str = "open"
    owner: str = ""
    owner_signature: bytes = b""
    relay_addresses: tuple[str, ...] = ()
    link_up: float = 0.0
    link_down: float = 0.0
    audit_seconds: int = 0
    version: int = PROTOCOL_VERSION

    @property
    def layers(self) -> frozenset[int]:
        """Every layer in the windows."""
        return frozenset(layer for start, end in self.windows for layer in range(start, end))

    def withdrawn(self) -> "NodeRecord":
        """The record that ends this one; it outlives it, since a directory keeps the later one."""
        return replace(self, leaving=True, sequence=self.sequence + 1, expires=self.expires + 1.0)


def sign(record: NodeRecord, who: identity.Identity) -> bytes:
    """The record as bytes that only ``who`` could have made."""
    assert record.node == who.node_id
    message = record_pb2.NodeRecord(
        **{name: getattr(record, name) for name in _SAME},
        expires_ms=round(record.expires * 1000),
        windows=[record_pb2.Window(start=start, end=end) for start, end in record.windows],
        addresses=record.addresses,
        relay_addresses=record.relay_addresses,
        prompt_points=[record_pb2.StepPoint(rows=n, seconds=t) for n, t in record.prompt_points],
    )
    body = message.SerializeToString(deterministic=True)
    return record_pb2.SignedRecord(
        body=body, signature=who.sign(_CONTEXT + body)
    ).SerializeToString()


def read(data: bytes) -> NodeRecord:
    """Check size, signature and fields of a record. Expiry is judged by the reader, by its clock.

    Raises ``TooLarge``, ``Malformed`` or ``BadSignature``.
    """
    if len(data) > LIMITS.record_bytes:
        raise TooLarge(f"{len(data)} bytes", field="record")
    try:
        signed = record_pb2.SignedRecord.FromString(data)
        body = record_pb2.NodeRecord.FromString(signed.body)
    except DecodeError:
        raise Malformed("doesn't decode", field="record") from None
    identity.verify(body.node, _CONTEXT + signed.body, signed.signature)
    windows = tuple((window.start, window.end) for window in body.windows)
    if not windows or any(not start < end <= 4096 for start, end in windows) or len(windows) > 64:
        raise Malformed("no valid window", field="record.windows")
    if any(before[1] > after[0] for before, after in pairwise(sorted(windows))):
        raise Malformed("windows overlap", field="record.windows")
    if not all(0 <= getattr(body, name) < math.inf for name in _SECONDS):
        raise Malformed("not a time", field="record.seconds")
    if not all(0 <= speed < math.inf for speed in (body.link_up, body.link_down)):
        raise Malformed("not a speed", field="record.link")
    points = tuple((point.rows, point.seconds) for point in body.prompt_points)
    if len(points) > LIMITS.points_per_record:
        raise TooLarge("too many points", field="record.prompt_points")
    if not all(rows and 0 < seconds < math.inf for rows, seconds in points):
        raise Malformed("not a time", field="record.prompt_points")
    if any(low[0] >= high[0] for low, high in pairwise(points)):
        raise Malformed("rows don't ascend", field="record.prompt_points")
    if len(body.addresses) > LIMITS.addresses_per_record:
        raise TooLarge("too many addresses", field="record.addresses")
    if body.owner:
        identity.verify(body.owner, owner_claim(body.node), body.owner_signature)
    return NodeRecord(
        **{name: getattr(body, name) for name in _SAME},
        windows=windows,
        addresses=tuple(body.addresses),
        relay_addresses=tuple(body.relay_addresses),
        prompt_points=points,
        expires=body.expires_ms / 1000,
    )


def read_all(datas: Iterable[bytes], model_id: str, now: float | None = None) -> list[NodeRecord]:
    """The valid, live records of a model, one per node: the newest. Bad ones are left out."""
    now = time.time() if now is None else now
    return [r for r in newest(datas, model_id) if not r.leaving and r.expires > now]


def newest(datas: Iterable[bytes], model_id: str) -> list[NodeRecord]:
    """The newest valid record of each node of a model, dead or alive. Bad ones are left out."""
    found: dict[str, NodeRecord] = {}
    for data in datas:
        record = read_or_none(data)
        if record is None or record.model_id != model_id:
            continue
        known = found.get(record.node)
        if known is None or known.sequence < record.sequence:
            found[record.node] = record
    return list(found.values())


@functools.lru_cache(maxsize=LIMITS.records_per_reply)
def read_or_none(data: bytes) -> NodeRecord | None:
    """The record, or None. Remembered, since a signature costs 0.1 ms: the same bytes come again
    with every look into the directory, and once per layer and replica."""
    try:
        return read(data)
    except HearthringError:
        return None


def owner_claim(node_id: str) -> bytes:
    """What an owner key signs to claim a node."""
    return b"hearthring/owner/1" + node_id.encode()


_SECONDS = ("step_seconds", "row_seconds", "prompt_step_seconds", "prompt_row_seconds")
_SAME = (
    *_SECONDS,
    "version",
    "node",
    "swarm",
    "owner",
    "owner_signature",
    "sequence",
    "leaving",
    "model_id",
    "model_name",
    "engine",
    "residual",
    "numerics",
    "fingerprint",
    "free_rows",
    "sessions",
    "link_up",
    "link_down",
    "audit_seconds",
)
