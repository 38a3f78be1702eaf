"""Questions and answers about a stage's inside: what the ``Cells`` stream carries.

Decoding checks counts and lengths against ``limits`` and raises ``Malformed`` or ``TooLarge``; what
an opening proves is checked by ``verify/opening.py``.
"""

from dataclasses import dataclass

from hearthring.proto import cells_pb2 as pb
from hearthring.protocol.checks import count, exactly, parse
from hearthring.protocol.errors import Malformed
from hearthring.protocol.limits import LIMITS
from hearthring.protocol.verifying import Grant

_CHUNK, _HASH, _SESSION, _PATH = 32, 32, 16, 16


@dataclass(frozen=True, slots=True)
class CommitmentQuery:
    """What is committed so far in an open session, at the window that begins at ``start``?

    In full chunks; with ``whole`` in the last one, too.
    """

    session: bytes
    start: int
    whole: bool = False


@dataclass(frozen=True, slots=True)
class CellsOpen:
    """Open these cells, ``(layer, position)`` each, of a session's window."""

    session: bytes
    start: int
    cells: tuple[tuple[int, int], ...]
    grant: Grant | None = None


@dataclass(frozen=True, slots=True)
class Commitment:
    """A receipt's exact bytes over the full chunks so far, and their signature."""

    body: bytes
    signature: bytes


@dataclass(frozen=True, slots=True)
class OpenedColumn:
    """The cells of one layer in one chunk, as far as they are needed.

    ``boundary`` is the layer + 1, or where the stage begins: there, only ``hashes``, ``positions``
    and ``rows`` mean anything. Either ``hashes`` or their SHA-256 ``residuals``, either ``k`` and
    ``v`` or theirs. ``rows`` holds the residuals at ``positions``, one after the other.
    """

    boundary: int
    first: int
    hashes: tuple[bytes, ...] = ()
    residuals: bytes = b""
    k: bytes = b""
    k_hash: bytes = b""
    v: bytes = b""
    v_hash: bytes = b""
    path: tuple[bytes, ...] = ()
    positions: tuple[int, ...] = ()
    rows: bytes = b""
    last: bool = False


CellsQuery = CommitmentQuery | CellsOpen
CellsReply = Commitment | OpenedColumn


def encode_cells_query(query: CellsQuery) -> bytes:
    """A question."""
    match query:
        case CommitmentQuery(session, start, whole):
            question = pb.CommitmentQuery(session=session, start=start, whole=whole)
            asked = pb.CellsQuery(commitment=question)
        case CellsOpen(session, start, cells, grant):
            wanted = pb.CellsOpen(
                session=session,
                start=start,
                cells=[pb.Cell(layer=layer, position=position) for layer, position in cells],
                grant=grant.body if grant else b"",
                grant_signature=grant.signature if grant else b"",
            )
            asked = pb.CellsQuery(open=wanted)
    return asked.SerializeToString()


def decode_cells_query(data: bytes) -> CellsQuery:
    """A peer's question."""
    asked = parse(pb.CellsQuery, data)
    match asked.WhichOneof("ask"):
        case "commitment":
            exactly("cells.session", asked.commitment.session, _SESSION)
            about = asked.commitment
            return CommitmentQuery(about.session, about.start, about.whole)
        case "open":
            wanted = asked.open
            exactly("cells.session", wanted.session, _SESSION)
            count("cells.cells", wanted.cells, LIMITS.cells)
            cells = tuple((cell.layer, cell.position) for cell in wanted.cells)
            grant = Grant(wanted.grant, wanted.grant_signature) if wanted.grant else None
            return CellsOpen(wanted.session, wanted.start, cells, grant)
    raise Malformed("no known question", field="cells")


def encode_cells_reply(reply: CellsReply) -> bytes:
    """An answer."""
    match reply:
        case Commitment(body, signature):
            said = pb.CellsReply(commitment=pb.Commitment(body=body, signature=signature))
        case OpenedColumn():
            same = {name: getattr(reply, name) for name in OpenedColumn.__slots__}
            said = pb.CellsReply(column=pb.OpenedColumn(**same))
    return said.SerializeToString()


def decode_cells_reply(data: bytes) -> CellsReply:
    """A stage's answer."""
    said = parse(pb.CellsReply, data)
    match said.WhichOneof("answer"):
        case "commitment":
            return Commitment(said.commitment.body, said.commitment.signature)
        case "column":
            return _column(said.column)
    raise Malformed("no known answer", field="cells")


def _column(column: pb.OpenedColumn) -> OpenedColumn:
    count("column.hashes", column.hashes, _CHUNK)
    count("column.positions", column.positions, _CHUNK)
    count("column.path", column.path, _PATH)
    for name in ("hashes", "path"):
        for digest in getattr(column, name):
            exactly(f"column.{name}", digest, _HASH)
    for name in ("residuals", "k_hash", "v_hash"):
        if digest := getattr(column, name):
            exactly(f"column.{name}", digest, _HASH)
    fields = {name: getattr(column, name) for name in OpenedColumn.__slots__}
    for name in ("hashes", "path", "positions"):
        fields[name] = tuple(fields[name])
    return OpenedColumn(**fields)
