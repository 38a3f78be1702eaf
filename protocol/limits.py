"""Every bound a peer must keep, in one place.

Values are checked before anything is allocated. Times are seconds, sizes bytes.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one process. The defaults suit a home: few peers, small machines."""

    message_bytes: int = 4 << 20
    rows_per_step: int = 256
    """Rows in one step; a prompt is cut into chunks no longer than this."""
    width: int = 32_768
    """Channels of a residual row."""
    sessions_per_peer: int = 4
    sessions: int = 32
    streams_per_peer: int = 16
    streams: int = 64
    session_rows: int = 32_768
    """KV rows one session may ask for."""
    kv_bytes_per_peer: int = 2 << 30
    records_per_layer: int = 256
    """Records a reader keeps per layer: identities are cheap to make."""
    addresses_per_record: int = 8
    record_bytes: int = 4096
    record_life: float = 24.0
    """A record is announced for this long, so a killed node is gone within it."""
    record_life_cap: float = 600.0
    proof_bytes: int = 64 << 20
    name_chars: int = 200
    connect: float = 5.0
    hello: float = 5.0
    """Time a caller has for its first, signed message."""
    step: float = 60.0
    """Time a step may take round the whole ring."""
    idle: float = 120.0
    """A session without a step for this long loses its lease."""
    write: float = 20.0
    """Time a slow reader may block one write."""
    receipt: float = 10.0
    """Time a stage has to sign at the end of a session."""


LIMITS = Limits()
