"""Receipts: what a stage signs of a whole session, whatever happens to it afterwards."""

import re
from dataclasses import dataclass

from google.protobuf.message import DecodeError

from hearthring.proto import proof_pb2
from hearthring.protocol import identity
from hearthring.protocol.errors import BadReceipt, Malformed
from hearthring.protocol.messages import Receipt

VERSION = 2
READS = (1, 2)
"""Version 1 had no cells."""
_CONTEXT = b"hearthring/receipt/1"
_HASH = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class ReceiptBody:
    """One stage's account of one session.

    ``in_roots`` and ``out_roots`` are the Merkle roots of the committed rows' hashes, a root per 32
    positions; ``digests`` are the TOPLOC digests of the same chunks of the output. ``cell_roots``
    commit to every layer and position of the same chunks (``verify/cells.py``), with K and V stored
    as ``kv`` says; there are none where the client wanted none, or the engine can't.
    """

    node: str
    client: str
    session: bytes
    epoch: int
    nonce_hash: bytes
    model_id: str
    start: int
    end: int
    residual: str
    numerics: str
    fingerprint: str
    previous: str
    previous_fingerprint: str
    next: str
    rows: int
    in_roots: tuple[bytes, ...]
    out_roots: tuple[bytes, ...]
    digests: tuple[bytes, ...]
    cell_roots: tuple[bytes, ...] = ()
    kv: str = ""
    version: int = VERSION


def sign(body: ReceiptBody, who: identity.Identity) -> Receipt:
    """The receipt as its stage hands it out."""
    data = proof_pb2.ReceiptBody(
        **{name: getattr(body, name) for name in ReceiptBody.__slots__}
    ).SerializeToString(deterministic=True)
    return Receipt(data, who.sign(_CONTEXT + data))


def read(receipt: Receipt) -> ReceiptBody:
    """Check a receipt's signature and form.

    Raises ``BadSignature``, ``Malformed`` or ``BadReceipt``.
    """
    try:
        message = proof_pb2.ReceiptBody.FromString(receipt.body)
    except DecodeError:
        raise Malformed("doesn't decode", field="receipt") from None
    identity.verify(message.node, _CONTEXT + receipt.body, receipt.signature)
    if message.version not in READS:
        raise BadReceipt(f"version {message.version} isn't known here", field="receipt.version")
    fields = {name: getattr(message, name) for name in ReceiptBody.__slots__}
    for name in ("model_id", "fingerprint", "previous_fingerprint"):
        if not is_hash(fields[name]):
            raise BadReceipt("not a SHA-256 in hex", field=f"receipt.{name}")
    for name in ("in_roots", "out_roots", "digests", "cell_roots"):
        fields[name] = tuple(fields[name])
    return ReceiptBody(**fields)


def is_hash(text: str) -> bool:
    """Whether a text is a SHA-256 in hex, as models and numerics classes are named."""
    return _HASH.fullmatch(text) is not None
