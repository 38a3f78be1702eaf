"""The text of a proof, by its hash: what the client signs, so that the ids can be left out.

The signature covers two hashes, of the prompt's ids and of the answer's; the ids themselves follow
it. So anybody who holds a proof can take the text out, and anybody who knows the text can put it
back, and neither needs the client's key. A hidden text can't be read from the proof, but who
guesses it can tell that the guess is right: from these hashes, and with the weights from the roots.
"""

import struct
from dataclasses import dataclass
from hashlib import sha256

from hearthring.protocol.errors import BadProof

ID_BYTES = 4


@dataclass(frozen=True, slots=True)
class TextHash:
    """What stands for token ids: how many there are, and SHA-256 of the prompt's and the answer's.

    Each hash is over the ids as uint32, big-endian.
    """

    tokens: int
    prompt_hash: bytes
    answer_hash: bytes


def ids_hash(token_ids: tuple[int, ...]) -> bytes:
    """SHA-256 of ids, 32 bytes."""
    return sha256(pack_ids(token_ids)).digest()


def text_hash(token_ids: tuple[int, ...], prompt_tokens: int) -> TextHash:
    """What stands for these ids, of which the first ``prompt_tokens`` are the prompt."""
    prompt, answer = token_ids[:prompt_tokens], token_ids[prompt_tokens:]
    return TextHash(len(token_ids), ids_hash(prompt), ids_hash(answer))


def pack_ids(token_ids: tuple[int, ...]) -> bytes:
    """Ids as uint32, big-endian."""
    return struct.pack(f">{len(token_ids)}I", *token_ids)


def unpack_ids(data: bytes, expected: TextHash, prompt_tokens: int) -> tuple[int, ...]:
    """Ids from bytes. Raises ``BadProof`` unless they are those that were hashed."""
    if len(data) != expected.tokens * ID_BYTES:
        raise BadProof("cut off, or something was added", field="proof.token_ids")
    token_ids: tuple[int, ...] = struct.unpack(f">{expected.tokens}I", data)
    found = text_hash(token_ids, prompt_tokens)
    for part in ("prompt_hash", "answer_hash"):
        if getattr(found, part) != getattr(expected, part):
            raise BadProof("the ids are others than those that were signed", field=f"proof.{part}")
    return token_ids
