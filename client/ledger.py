"""The client's half of a proof: hashes of what it sent and received, and who signed for them."""

from dataclasses import dataclass, field

from hearthring.protocol.messages import SignedRows


@dataclass(slots=True)
class Ledger:
    """Hashes of what was sent and received, by row id, and the last stage's signatures."""

    sent: dict[int, bytes] = field(default_factory=dict)
    received: dict[int, bytes] = field(default_factory=dict)
    signed: list[SignedRows] = field(default_factory=list)
