"""Questions and answers of audits, and their bytes: openings of records, verdicts on proofs.

``encode_*`` and ``decode_*`` are inverse to each other; decoding checks counts and lengths as
``protocol/wire.py`` does. What a proof, a grant or a verdict says is read where it is used.
"""

from dataclasses import dataclass

from hearthring.proto import verify_pb2 as pb
from hearthring.protocol.checks import count, exactly, parse
from hearthring.protocol.errors import Malformed
from hearthring.protocol.limits import LIMITS
from hearthring.protocol.messages import SignedVerdict

_SMALL = 4096


@dataclass(frozen=True, slots=True)
class Grant:
    """A grant's exact bytes and their signature; ``verify.grants`` reads them."""

    body: bytes
    signature: bytes


@dataclass(frozen=True, slots=True)
class RowsQuery:
    """Ask a stage for the rows it sent in a session, out of the window that begins at ``start``;
    without a grant, as the session's client."""

    session: bytes
    start: int
    grant: Grant | None = None


@dataclass(frozen=True, slots=True)
class OpenedRows:
    """Committed rows from position ``first`` on, as they were sent; after ``last`` none follow."""

    first: int
    states: bytes
    last: bool


@dataclass(frozen=True, slots=True)
class Opener:
    """A stage whose record may be asked for, and the grant to show it."""

    node: str
    address: str
    grant: Grant


@dataclass(frozen=True, slots=True)
class VerifyQuery:
    """Ask for a verdict on a proof file, as a whole (-1) or on one stage by its place."""

    proof: bytes
    place: int = -1
    openers: tuple[Opener, ...] = ()


@dataclass(frozen=True, slots=True)
class Working:
    """The verifier is at work, or has so many jobs to do before."""

    ahead: int


VerifyUp = RowsQuery | VerifyQuery
VerifyDown = OpenedRows | SignedVerdict | Working


def encode_verify_up(frame: VerifyUp) -> bytes:
    """A question."""
    match frame:
        case RowsQuery(session, start, grant):
            given = _grant(grant) if grant else None
            query = pb.RowsQuery(session=session, start=start, grant=given)
            up = pb.VerifyUp(rows=query)
        case VerifyQuery(proof, place, openers):
            listed = [
                pb.Opener(node=o.node, address=o.address, grant=_grant(o.grant)) for o in openers
            ]
            up = pb.VerifyUp(verify=pb.VerifyQuery(proof=proof, place=place + 1, openers=listed))
    return up.SerializeToString()


def decode_verify_up(data: bytes) -> VerifyUp:
    """A question."""
    frame = parse(pb.VerifyUp, data)
    match frame.WhichOneof("frame"):
        case "rows":
            rows = frame.rows
            exactly("rows.session", rows.session, 16)
            given = _read_grant(rows.grant) if rows.HasField("grant") else None
            return RowsQuery(rows.session, rows.start, given)
        case "verify":
            query = frame.verify
            count("verify.place", range(query.place), LIMITS.hops)
            count("verify.openers", query.openers, 2)
            for opener in query.openers:
                count("verify.opener", opener.node, LIMITS.name_chars)
                count("verify.opener", opener.address, LIMITS.name_chars)
            openers = (Opener(o.node, o.address, _read_grant(o.grant)) for o in query.openers)
            return VerifyQuery(query.proof, query.place - 1, tuple(openers))
    raise Malformed("no known question", field="verify")


def encode_verify_down(frame: VerifyDown) -> bytes:
    """An answer."""
    match frame:
        case OpenedRows(first, states, last):
            down = pb.VerifyDown(rows=pb.OpenedRows(first=first, states=states, last=last))
        case SignedVerdict(body, signature):
            down = pb.VerifyDown(verdict=pb.SignedVerdict(body=body, signature=signature))
        case Working(ahead):
            down = pb.VerifyDown(working=pb.Working(ahead=ahead))
    return down.SerializeToString()


def decode_verify_down(data: bytes) -> VerifyDown:
    """An answer."""
    frame = parse(pb.VerifyDown, data)
    match frame.WhichOneof("frame"):
        case "rows":
            return OpenedRows(frame.rows.first, frame.rows.states, frame.rows.last)
        case "verdict":
            count("verdict.body", frame.verdict.body, LIMITS.piece_bytes)
            count("verdict.signature", frame.verdict.signature, _SMALL)
            return SignedVerdict(frame.verdict.body, frame.verdict.signature)
        case "working":
            return Working(frame.working.ahead)
    raise Malformed("no known answer", field="verify")


def _grant(grant: Grant) -> pb.Grant:
    return pb.Grant(body=grant.body, signature=grant.signature)


def _read_grant(grant: pb.Grant) -> Grant:
    count("grant.body", grant.body, _SMALL)
    count("grant.signature", grant.signature, _SMALL)
    return Grant(grant.body, grant.signature)
