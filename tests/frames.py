"""Frames of every kind of message, to be mutated: the bytes and who decodes them."""

from collections.abc import Callable

from hearthring.protocol import records
from hearthring.protocol.identity import Identity
from hearthring.protocol.layers import (
    Holdings,
    ManifestReply,
    Outline,
    OutlineQuery,
    Piece,
    PieceQuery,
)
from hearthring.protocol.messages import (
    GENERATED,
    Cancel,
    DirectoryReply,
    Evidence,
    EvidenceQuery,
    Finish,
    Hello,
    HopTime,
    Open,
    Opened,
    Receipt,
    Row,
    SignedRows,
    StatusReply,
    Step,
    Tap,
)
from hearthring.protocol.records import NodeRecord
from hearthring.verify import receipts
from tests.messages import KINDS

WHO = Identity.new()
STEP = Step(
    b"s" * 16,
    0,
    7,
    (Row(8, 3, 3, GENERATED), Row(300, 8, 4, GENERATED)),
    bytes(range(64)),
    (1, 2, 3),
    (5,),
    (300,),
    True,
    b"x" * 64,
    (HopTime(0.001, 0.002),),
    4,
)
WISH = Open(
    *(b"s" * 16, 0, "ab" * 32, 0, 4, "fp32", "cd" * 32, WHO.node_id, WHO.node_id, "127.0.0.1:9"),
    *(100, b"n" * 32, "ef" * 32, (1, 2)),
)
EVIDENCE = Evidence((SignedRows(0, 1, (1, 2), (b"h" * 32, b"i" * 32), b"x" * 64),) * 3)
RECORD = NodeRecord(WHO.node_id, "ab" * 32, ((0, 4),), ("127.0.0.1:9",), 1e9, residual="fp16")
RECEIPT = receipts.sign(
    receipts.ReceiptBody(
        *(WHO.node_id, WHO.node_id, b"s" * 16, 0, b"n" * 32, "ab" * 32, 0, 4, "fp32", "torch"),
        *("cd" * 32, WHO.node_id, "ef" * 32, WHO.node_id, 40),
        *((b"a" * 32, b"b" * 32), (b"c" * 32, b"d" * 32), (b"e" * 258,)),
    ),
    WHO,
)
MESSAGES = {
    "hello": [Hello(1, WHO.node_id, "open", b"x" * 64, b"m" * 32)],
    "step": [STEP, Step(b"s" * 16, 0, 1)],
    "up": [WISH, Cancel((1, 300)), Finish(9, (1, 300)), EvidenceQuery()],
    "down": [Opened("torch", 9), STEP, Tap(1, 2, (3,), b"1234"), RECEIPT, EVIDENCE],
    "evidence": [EVIDENCE],
    "status": [StatusReply(WHO.node_id, b"record", ("/ip4/1.2.3.4/tcp/5",), 3, 1.5, 1)],
    "query": ["ab" * 32],
    "layers query": [("ab" * 32, OutlineQuery("layer7")), ("ab" * 32, PieceQuery("head", 9))],
    "layers reply": [
        ManifestReply(b'{"format":2}'),
        Holdings(("tokenizer", "layer7")),
        Outline(3 << 20, (b"h" * 32,) * 3),
        Piece(bytes(range(64))),
    ],
    "records": [DirectoryReply("ab" * 32, (records.sign(RECORD, WHO), b"", b"x"))],
}
Decode = Callable[[bytes], object]


def read_receipt(data: bytes) -> object:
    """A receipt of any body, and of a body that is truly signed."""
    return receipts.read(Receipt(data, WHO.sign(receipts._CONTEXT + data)))


CORPUS: dict[str, tuple[list[bytes], Decode]] = {
    kind: ([KINDS[kind][0](message) for message in messages], KINDS[kind][1])
    for kind, messages in MESSAGES.items()
} | {
    "record": ([records.sign(RECORD, WHO)], records.read),
    "receipt": ([RECEIPT.body], read_receipt),
}
