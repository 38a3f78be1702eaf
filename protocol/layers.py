"""Questions and answers about the parts of a model on a peer's disk, and their bytes.

One question, one answer, any number of times on a ``Layers`` stream. ``encode_*`` and ``decode_*``
are inverse to each other; decoding checks counts and lengths as ``protocol/wire.py`` does. Whether
the bytes are the right ones only their hashes tell.
"""

from dataclasses import dataclass

from hearthring.proto import ring_pb2 as pb
from hearthring.protocol.checks import count, exactly, parse
from hearthring.protocol.errors import Malformed
from hearthring.protocol.limits import LIMITS


@dataclass(frozen=True, slots=True)
class ManifestQuery:
    """Ask for a model's manifest."""


@dataclass(frozen=True, slots=True)
class HoldingsQuery:
    """Ask which parts a node can send."""


@dataclass(frozen=True, slots=True)
class OutlineQuery:
    """Ask for a part's size and the hashes of its pieces."""

    part: str


@dataclass(frozen=True, slots=True)
class PieceQuery:
    """Ask for one piece of a part: ``limits.piece_bytes`` bytes, or what is left at its end."""

    part: str
    index: int


@dataclass(frozen=True, slots=True)
class ManifestReply:
    """Canonical JSON whose SHA-256 is the model id, if it is honest."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Holdings:
    """The parts a node can send."""

    parts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Outline:
    """A part's size and the SHA-256 of each piece, as one node has it."""

    size: int
    hashes: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Piece:
    """The bytes of one piece."""

    data: bytes


LayersAsk = ManifestQuery | HoldingsQuery | OutlineQuery | PieceQuery
LayersAnswer = ManifestReply | Holdings | Outline | Piece


def encode_layers_query(model_id: str, ask: LayersAsk) -> bytes:
    """A question about the parts of a model."""
    match ask:
        case ManifestQuery():
            query = pb.LayersQuery(model_id=model_id, manifest=True)
        case HoldingsQuery():
            query = pb.LayersQuery(model_id=model_id, holdings=True)
        case OutlineQuery(part):
            query = pb.LayersQuery(model_id=model_id, outline=part)
        case PieceQuery(part, index):
            piece = pb.PieceQuery(part=part, index=index)
            query = pb.LayersQuery(model_id=model_id, piece=piece)
    return query.SerializeToString()


def decode_layers_query(data: bytes) -> tuple[str, LayersAsk]:
    """``(model id, question)`` about the parts of a model."""
    query = parse(pb.LayersQuery, data)
    count("layers.model_id", query.model_id, LIMITS.name_chars)
    match query.WhichOneof("ask"):
        case "manifest":
            return query.model_id, ManifestQuery()
        case "holdings":
            return query.model_id, HoldingsQuery()
        case "outline":
            count("layers.outline", query.outline, LIMITS.name_chars)
            return query.model_id, OutlineQuery(query.outline)
        case "piece":
            count("layers.piece.part", query.piece.part, LIMITS.name_chars)
            return query.model_id, PieceQuery(query.piece.part, query.piece.index)
    raise Malformed("no known question", field="layers")


def encode_layers_reply(answer: LayersAnswer) -> bytes:
    """An answer about the parts of a model."""
    match answer:
        case ManifestReply(data):
            reply = pb.LayersReply(manifest=data)
        case Holdings(parts):
            reply = pb.LayersReply(holdings=pb.Holdings(parts=parts))
        case Outline(size, hashes):
            reply = pb.LayersReply(outline=pb.Outline(size=size, hashes=hashes))
        case Piece(data):
            reply = pb.LayersReply(piece=data)
    return reply.SerializeToString()


def decode_layers_reply(data: bytes) -> LayersAnswer:
    """An answer about the parts of a model."""
    reply = parse(pb.LayersReply, data)
    match reply.WhichOneof("answer"):
        case "manifest":
            count("layers.manifest", reply.manifest, LIMITS.manifest_bytes)
            return ManifestReply(reply.manifest)
        case "holdings":
            count("layers.holdings", reply.holdings.parts, LIMITS.parts)
            for part in reply.holdings.parts:
                count("layers.holdings", part, LIMITS.name_chars)
            return Holdings(tuple(reply.holdings.parts))
        case "outline":
            return _read_outline(reply.outline)
        case "piece":
            count("layers.piece", reply.piece, LIMITS.piece_bytes)
            return Piece(reply.piece)
    raise Malformed("no known answer", field="layers")


def _read_outline(outline: pb.Outline) -> Outline:
    count("outline.hashes", outline.hashes, LIMITS.pieces_per_part)
    if not outline.size or len(outline.hashes) != -(-outline.size // LIMITS.piece_bytes):
        raise Malformed("as many hashes as pieces are needed", field="outline.hashes")
    for digest in outline.hashes:
        exactly("outline.hashes", digest, 32)
    return Outline(outline.size, tuple(outline.hashes))
