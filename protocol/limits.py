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
    hops: int = 256
    """Stages that one step may pass."""
    width: int = 32_768
    """Channels of a residual row."""
    steps_in_flight: int = 64
    """Steps of one session that may wait at a stage."""
    orders: int = 1024
    """Orders of one client that may wait until a stage can follow them."""
    outbox: int = 256
    """Frames that may wait for one client."""
    link: int = 256
    """Messages that may wait for one next stage."""
    unused: int = 64
    """Links that stay open to next stages, and connections to nodes, beside those that somebody
    uses: the next session may want them. Clients choose where a stage connects to."""
    backlog_bytes: int = 64 << 20
    """What may wait for one reader: frames for a client or from it, messages for a stage, or steps
    of one session for their turn. A client has 16 prompt steps under way, of a message at most."""
    opening_bytes: int = 64 << 20
    """Residual rows that one opening of cells may show."""
    sessions_per_peer: int = 16
    sessions: int = 64
    streams_per_peer: int = 48
    streams: int = 256
    session_rows: int = 32_768
    """KV rows one session may ask for."""
    signed_rows: int = 64
    """Rows, for each KV row of a session, in the signed steps that a stage keeps as evidence: of a
    step of guesses one row may stay, and nobody guesses more at once."""
    kv_bytes_per_peer: int = 2 << 30
    records_per_layer: int = 256
    """Records a reader keeps per layer: identities are cheap to make."""
    records_per_reply: int = 16_384
    addresses_per_record: int = 8
    points_per_record: int = 16
    """Measured step times."""
    record_bytes: int = 4096
    record_life: float = 24.0
    """A record is announced for this long, so a killed node is gone within it."""
    record_life_cap: float = 600.0
    proof_bytes: int = 64 << 20
    piece_bytes: int = 1 << 20
    """A part of a model travels in pieces of this size; the last may be shorter."""
    pieces_per_part: int = 1 << 16
    text_part_bytes: int = 64 << 20
    """Tokenizer or chat template: the parts whose size no manifest tells."""
    manifest_bytes: int = 1 << 20
    parts: int = 2048
    """Parts one node may say it has."""
    name_chars: int = 200
    reason_chars: int = 500
    """Of a verdict's words."""
    audit_window: float = 600.0
    """Time after a session for which a stage keeps what it sent, for audits."""
    archive_bytes: int = 256 << 20
    """What a stage keeps of ended sessions; beyond it the oldest of whoever has most go first."""
    openings: int = 16
    """Askers to whom a stage opens one session."""
    cells: int = 4096
    """Cells that one question may name."""
    opening: float = 10.0
    """Time a stage has to open what it recorded."""
    verify: float = 600.0
    """Time a verifier has for one verdict."""
    verify_rows: int = 8192
    """Rows of a proof that a node replays for others."""
    verify_jobs: int = 4
    """Proofs that may wait at a verifier, one of each peer."""
    connect: float = 5.0
    hello: float = 5.0
    """Time a caller has for its first, signed message."""
    step: float = 60.0
    """Time a step may take round the whole ring."""
    recovery: float = 15.0
    """Time that rows may take to be sent again, beyond a client's patience with lost stages."""
    drain: float = 10.0
    """Time a leaving node gives its clients to go on elsewhere."""
    idle: float = 120.0
    """A session without a step or a probe for this long loses its lease."""
    write: float = 20.0
    """Time a slow reader may block one write."""
    goodbye: float = 5.0
    """Time a peer has to take the error that its stream ends with."""
    piece: float = 30.0
    """Time a peer has for one piece of a part."""
    part: float = 60.0
    """Time without a single new piece after which a fetch gives up."""
    receipt: float = 10.0
    """Time a stage has to sign at the end of a session."""


LIMITS = Limits()
