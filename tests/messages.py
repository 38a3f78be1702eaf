"""Any message of each kind, within the limits: ``(encode, decode, strategy)`` by name."""

from hypothesis import strategies as st

from hearthring.protocol import cells, layers, verifying, wire
from hearthring.protocol.limits import LIMITS
from hearthring.protocol.messages import (
    Cancel,
    DirectoryReply,
    Evidence,
    EvidenceQuery,
    Finish,
    Hello,
    HopTime,
    Open,
    Opened,
    Probe,
    Progress,
    Receipt,
    Replay,
    Reroute,
    Rerouted,
    Row,
    SignedRows,
    SignedVerdict,
    StatusReply,
    Step,
    StepTime,
    Tap,
)

U32 = st.integers(0, 2**32 - 1)
IDS = st.lists(U32, max_size=6).map(tuple)
NAMES = st.text(st.characters(codec="utf-8"), max_size=20)
BYTES = st.binary(max_size=40)
HASHES = st.binary(min_size=32, max_size=32)
SESSIONS = st.binary(min_size=16, max_size=16)
SECONDS = U32.map(lambda microseconds: microseconds / 1e6)


@st.composite
def rows(draw):
    id_ = draw(st.integers(1, 2**32 - 1))
    return Row(id_, draw(st.integers(0, id_ - 1)), draw(U32), draw(st.sampled_from([1, 2])))


@st.composite
def signed_rows(draw):
    ids = draw(IDS)
    hashes = draw(st.lists(HASHES, min_size=len(ids), max_size=len(ids)).map(tuple))
    return SignedRows(draw(U32), draw(U32), ids, hashes, draw(BYTES))


HELLOS = st.builds(Hello, U32, NAMES, NAMES, BYTES, BYTES)
STEPS = st.builds(
    Step,
    SESSIONS,
    U32,
    U32,
    st.lists(rows(), max_size=6).map(tuple),
    BYTES,
    IDS,
    IDS,
    IDS,
    st.booleans(),
    BYTES,
    st.lists(st.builds(HopTime, SECONDS, SECONDS), max_size=4).map(tuple),
)
OPENS = st.builds(
    Open,
    *(SESSIONS, U32, NAMES, U32, U32, NAMES, NAMES, NAMES, NAMES, NAMES, U32, HASHES, NAMES, IDS),
    cells=st.booleans(),
)
EVIDENCE = st.builds(Evidence, st.lists(signed_rows(), max_size=4).map(tuple))
UPS = (
    OPENS
    | st.builds(Cancel, IDS)
    | st.builds(Finish, U32, IDS)
    | st.just(EvidenceQuery())
    | st.builds(Reroute, U32, NAMES, NAMES, NAMES, NAMES, IDS, IDS, U32)
    | st.builds(Replay, U32, IDS, NAMES, NAMES)
    | st.builds(Probe, U32)
)
DOWNS = (
    st.builds(Opened, NAMES, U32)
    | STEPS
    | st.builds(Tap, U32, U32, IDS, BYTES)
    | st.builds(Receipt, BYTES, BYTES)
    | EVIDENCE
    | st.builds(Rerouted, U32, U32, BYTES, BYTES)
    | st.builds(Progress, U32, U32, U32)
)
STEP_TIMES = st.builds(
    StepTime,
    st.sampled_from([1, 2]),
    st.integers(1, 1 << 20),
    st.floats(0, exclude_min=True, allow_infinity=False),
)
STATUSES = st.builds(
    StatusReply,
    *(NAMES, BYTES, st.lists(NAMES, max_size=4).map(tuple), U32),
    *(st.floats(0, allow_infinity=False), U32),
    st.lists(STEP_TIMES, max_size=4).map(tuple),
)
REPLIES = st.builds(DirectoryReply, NAMES, st.lists(BYTES, max_size=4).map(tuple))

ASKS = (
    st.just(layers.ManifestQuery())
    | st.just(layers.HoldingsQuery())
    | st.builds(layers.OutlineQuery, NAMES)
    | st.builds(layers.PieceQuery, NAMES, U32)
)
OUTLINES = st.lists(HASHES, min_size=1, max_size=4).map(
    lambda hashes: layers.Outline(len(hashes) * LIMITS.piece_bytes - 7, tuple(hashes))
)
ANSWERS = (
    st.builds(layers.ManifestReply, BYTES)
    | st.builds(layers.Holdings, st.lists(NAMES, max_size=4).map(tuple))
    | OUTLINES
    | st.builds(layers.Piece, BYTES)
)

GRANTS = st.builds(verifying.Grant, BYTES, BYTES)
OPENERS = st.lists(st.builds(verifying.Opener, NAMES, NAMES, GRANTS), max_size=2).map(tuple)
VERIFY_UPS = st.builds(verifying.RowsQuery, SESSIONS, U32, st.none() | GRANTS) | st.builds(
    verifying.VerifyQuery, BYTES, st.integers(-1, 200), OPENERS
)
VERIFY_DOWNS = (
    st.builds(verifying.OpenedRows, U32, BYTES, st.booleans())
    | st.builds(SignedVerdict, BYTES, BYTES)
    | st.builds(verifying.Working, U32)
)

SHOWN = st.none() | st.builds(verifying.Grant, st.binary(min_size=1, max_size=40), BYTES)
CELL_QUERIES = st.builds(cells.CommitmentQuery, SESSIONS, U32, st.booleans()) | st.builds(
    cells.CellsOpen, SESSIONS, U32, st.lists(st.tuples(U32, U32), max_size=6).map(tuple), SHOWN
)
SOME_HASHES = st.lists(HASHES, max_size=5).map(tuple)
COLUMNS = st.builds(
    cells.OpenedColumn,
    *(U32, U32, SOME_HASHES, HASHES | st.just(b""), BYTES, HASHES | st.just(b""), BYTES),
    *(HASHES | st.just(b""), SOME_HASHES, IDS, BYTES, st.booleans()),
)
CELL_REPLIES = st.builds(cells.Commitment, BYTES, BYTES) | COLUMNS

KINDS = {
    "cells query": (cells.encode_cells_query, cells.decode_cells_query, CELL_QUERIES),
    "cells reply": (cells.encode_cells_reply, cells.decode_cells_reply, CELL_REPLIES),
    "verify up": (verifying.encode_verify_up, verifying.decode_verify_up, VERIFY_UPS),
    "verify down": (verifying.encode_verify_down, verifying.decode_verify_down, VERIFY_DOWNS),
    "layers query": (
        lambda message: layers.encode_layers_query(*message),
        layers.decode_layers_query,
        st.tuples(NAMES, ASKS),
    ),
    "layers reply": (layers.encode_layers_reply, layers.decode_layers_reply, ANSWERS),
    "hello": (wire.encode_hello, wire.decode_hello, HELLOS),
    "step": (wire.encode_step, wire.decode_step, STEPS),
    "up": (wire.encode_up, wire.decode_up, UPS),
    "down": (wire.encode_down, wire.decode_down, DOWNS),
    "evidence": (wire.encode_evidence, wire.decode_evidence, EVIDENCE),
    "status": (wire.encode_status, wire.decode_status, STATUSES),
    "query": (wire.encode_query, wire.decode_query, NAMES),
    "records": (wire.encode_records, wire.decode_records, REPLIES),
}
