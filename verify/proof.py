"""Output proofs: one file that says what was answered, by whom, and how to check it.

Layout: ``hearthring proof\\n`` (17 bytes), format version (1 byte), length of the body (4 bytes,
big-endian), the body (protobuf ``ProofBody``), the client's ed25519 signature over everything
before it, and the token ids (4 bytes each, big-endian), or nothing where the text is hidden. Not a
byte may differ: the signature covers the body, and the body has the hashes of the ids.

Reading and checking a proof takes neither torch nor the model.
"""

import os
import struct
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError

from hearthring.proto import proof_pb2
from hearthring.protocol import identity
from hearthring.protocol.checks import count, exactly
from hearthring.protocol.errors import BadProof, HearthringError
from hearthring.protocol.limits import LIMITS
from hearthring.protocol.messages import GENERATED, PROMPT, Evidence, Receipt
from hearthring.protocol.wire import decode_evidence, encode_evidence
from hearthring.verify import receipts
from hearthring.verify.candidates import MOST, Candidate
from hearthring.verify.hiding import TextHash, pack_ids, text_hash, unpack_ids
from hearthring.verify.merkle import HASH_BYTES
from hearthring.verify.proof_view import as_json, slots

FORMAT = 2
"""Format 1 kept the text within the body, and named fewer things under the signature."""
_STEPS = "penalty,temperature,top-k,top-p,min-p"
SAMPLING_RULE = f"{_STEPS},gumbel-philox4x32-10"
"""The default: it can be replayed from logits and seed alone."""
DRAFTED_RULES = {
    name: f"{_STEPS},{name}-philox4x32-10" for name in ("leviathan", "specinfer", "sequoia")
}
"""Rules whose tokens depend on what was drafted for them, too: a replay can say which tokens they
could have given, and no more."""
_MAGIC = b"hearthring proof\n"
_CONTEXT = b"hearthring/proof/2"
_HEAD = len(_MAGIC) + 1 + 4
_SIGNATURE = 64


@dataclass(frozen=True, slots=True)
class ProofSampling:
    """How tokens were chosen, as the proof keeps it."""

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    seed: int = 0


@dataclass(frozen=True, slots=True)
class StageProof:
    """One stage of the route: its receipt, or none if it withheld it.

    ``received`` is there only where the receipts of this stage and the one before disagree: what
    the one before had signed.
    """

    node: str
    start: int
    end: int
    receipt: Receipt | None
    received: Evidence | None = None


@dataclass(frozen=True, slots=True)
class Proof:
    """Everything that was promised about one answer.

    ``token_ids``: prompt, then answer; empty where the text is hidden, and then ``text`` says how
    many there are. Tokens before position ``class_from`` were chosen by stages of another numerics
    class, since lost: the stages of the proof have run all rows, but didn't make these choices.
    """

    client: str
    session: bytes
    nonce: bytes
    model_id: str
    model_name: str
    residual: str
    numerics: str
    fingerprint: str
    token_ids: tuple[int, ...]
    prompt_tokens: int
    sampling: ProofSampling
    stages: tuple[StageProof, ...]
    in_roots: tuple[bytes, ...]
    out_roots: tuple[bytes, ...]
    digests: tuple[bytes, ...]
    row_ids: tuple[int, ...] = ()
    class_from: int = 0
    candidates: tuple[Candidate, ...] = ()
    received: Evidence | None = None
    created_ms: int = field(default_factory=lambda: time.time_ns() // 1_000_000)
    sampling_rule: str = SAMPLING_RULE
    text: TextHash | None = None
    _file: bytes = field(default=b"", compare=False, repr=False)

    @property
    def is_hidden(self) -> bool:
        """Whether only hashes of the ids are here."""
        return self.text is not None

    @property
    def text_hash(self) -> TextHash:
        """How many ids there are, and their hashes."""
        return self.text or text_hash(self.token_ids, self.prompt_tokens)

    @property
    def rows(self) -> int:
        """Rows that went through the ring: every token but the last of an answer."""
        tokens = self.text.tokens if self.text is not None else len(self.token_ids)
        return tokens - (tokens > self.prompt_tokens)

    @property
    def kinds(self) -> tuple[int, ...]:
        """Kind of each row."""
        generated = self.rows - self.prompt_tokens
        return (PROMPT,) * self.prompt_tokens + (GENERATED,) * generated

    @property
    def file(self) -> bytes:
        """The proof file, as it was signed."""
        return self._file

    @property
    def file_hash(self) -> bytes:
        """SHA-256 of the file to the end of its signature: how verdicts name it, hidden or not."""
        return sha256(_signed(self._file)).digest()

    def hidden(self) -> "Proof":
        """The proof without its text, under the same signature."""
        return read(_signed(self._file))

    def reveal(self, token_ids: Sequence[int]) -> "Proof":
        """The proof with its text. Raises ``BadProof`` for other ids than those signed."""
        try:
            return read(_signed(self._file) + pack_ids(tuple(token_ids)))
        except struct.error:
            raise BadProof("these are no token ids", field="proof.token_ids") from None

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the proof file, whole or not at all. Raises ``OSError``."""
        target = Path(path)
        with tempfile.NamedTemporaryFile(dir=target.parent, prefix=".proof-", delete=False) as file:
            try:
                file.write(self._file)
                file.flush()
                os.replace(file.name, target)
            except BaseException:
                os.unlink(file.name)
                raise
        return target

    @staticmethod
    def load(path: str | os.PathLike[str]) -> "Proof":
        """Read a proof file. Raises ``BadProof``; ``OSError`` when there is no such file."""
        with Path(path).open("rb") as file:
            return read(file.read(LIMITS.proof_bytes + 1))

    def as_json(self) -> dict[str, Any]:
        """A view for people and other programs; the file itself stays the truth."""
        return as_json(self, FORMAT)


def sign(proof: Proof, who: identity.Identity) -> Proof:
    """The proof with its file bytes, signed by the client it names."""
    assert proof.client == who.node_id
    text = proof.text_hash
    body = proof_pb2.ProofBody(
        version=FORMAT,
        sampling=proof_pb2.ProofSampling(**slots(proof.sampling)),
        stages=[_stage(stage) for stage in proof.stages],
        candidates=[proof_pb2.Candidate(**slots(one)) for one in proof.candidates],
        received=encode_evidence(proof.received) if proof.received else b"",
        **{name: getattr(text, name) for name in TextHash.__slots__},
        **{name: getattr(proof, name) for name in _SAME},
    ).SerializeToString(deterministic=True)
    data = _MAGIC + bytes([FORMAT]) + struct.pack(">I", len(body)) + body
    data += who.sign(_CONTEXT + data) + pack_ids(proof.token_ids)
    if len(data) > LIMITS.proof_bytes:
        raise BadProof(f"{len(data)} bytes are too many", field="proof")
    return read(data)


def read(data: bytes) -> Proof:
    """A proof from a file's bytes, with every signature in it checked.

    Raises ``BadProof`` for anything that isn't exactly what a client signed, with its whole text or
    with none.
    """
    if len(data) > LIMITS.proof_bytes:
        raise BadProof("larger than any proof", field="proof")
    signed = _signed(data)
    try:
        body = proof_pb2.ProofBody.FromString(signed[_HEAD:-_SIGNATURE])
        count("proof.stages", body.stages, LIMITS.hops)
        identity.verify(body.client, _CONTEXT + signed[:-_SIGNATURE], signed[-_SIGNATURE:])
        stages = tuple(_read_stage(stage) for stage in body.stages)
        received = decode_evidence(body.received) if body.received else None
        candidates = _read_candidates(body.candidates)
        for name in ("prompt_hash", "answer_hash"):
            exactly(f"proof.{name}", getattr(body, name), HASH_BYTES)
    except DecodeError:
        raise BadProof("altered: the body doesn't decode", field="proof") from None
    except HearthringError as error:
        raise BadProof(f"altered, or forged: {error}", field="proof") from None
    if body.version != FORMAT:
        raise BadProof(f"a body of format {body.version}", field="proof.version")
    if not 0 < body.prompt_tokens <= body.tokens:
        raise BadProof("no prompt, or a longer one than all tokens", field="proof.prompt_tokens")
    if body.class_from and not body.prompt_tokens < body.class_from <= body.tokens:
        raise BadProof("not a token of the answer", field="proof.class_from")
    text = TextHash(body.tokens, body.prompt_hash, body.answer_hash)
    ids = data[len(signed) :]
    values = {name: getattr(body, name) for name in _SAME}
    for name in ("in_roots", "out_roots", "digests", "row_ids"):
        values[name] = tuple(values[name])
    return Proof(
        **values,
        token_ids=unpack_ids(ids, text, body.prompt_tokens) if ids else (),
        text=None if ids else text,
        sampling=ProofSampling(**{n: getattr(body.sampling, n) for n in ProofSampling.__slots__}),
        stages=stages,
        candidates=candidates,
        received=received,
        _file=data,
    )


def _signed(data: bytes) -> bytes:
    """The file up to the end of its signature. Raises ``BadProof``."""
    if not data.startswith(_MAGIC) or len(data) < _HEAD + _SIGNATURE:
        raise BadProof("not a hearthring proof, or cut off", field="proof")
    if (said := data[len(_MAGIC)]) != FORMAT:
        age = "an earlier" if said < FORMAT else "a later"
        raise BadProof(
            f"format {said} is that of {age} release, this one reads format {FORMAT}",
            field="proof.version",
            mend="audit it with the release that wrote it, or ask again",
        )
    (length,) = struct.unpack(">I", data[_HEAD - 4 : _HEAD])
    if len(data) < _HEAD + length + _SIGNATURE:
        raise BadProof("cut off", field="proof")
    return data[: _HEAD + length + _SIGNATURE]


def _stage(stage: StageProof) -> proof_pb2.StageProof:
    return proof_pb2.StageProof(
        node=stage.node,
        start=stage.start,
        end=stage.end,
        receipt=stage.receipt.body if stage.receipt else b"",
        signature=stage.receipt.signature if stage.receipt else b"",
        received=encode_evidence(stage.received) if stage.received else b"",
    )


def _read_stage(stage: proof_pb2.StageProof) -> StageProof:
    receipt = Receipt(stage.receipt, stage.signature) if stage.receipt else None
    if receipt is not None and receipts.read(receipt).node != stage.node:
        raise BadProof("a receipt of another node", field="proof.stages")
    received = decode_evidence(stage.received) if stage.received else None
    return StageProof(stage.node, stage.start, stage.end, receipt, received)


def _read_candidates(listed: Sequence[proof_pb2.Candidate]) -> tuple[Candidate, ...]:
    """The candidates as they were hashed: in order of their ids, none twice."""
    count("proof.candidates", listed, MOST)
    found = tuple(Candidate(c.node, c.owner, c.fingerprint, tuple(c.networks)) for c in listed)
    nodes = [one.node for one in found]
    if nodes != sorted(set(nodes)):
        raise BadProof("not in the order of their ids", field="proof.candidates")
    return found


_SAME = (
    "client",
    "session",
    "nonce",
    "model_id",
    "model_name",
    "residual",
    "numerics",
    "fingerprint",
    "prompt_tokens",
    "sampling_rule",
    "in_roots",
    "out_roots",
    "digests",
    "row_ids",
    "class_from",
    "created_ms",
)
