"""The function names of PrimeIntellect's ``toploc``, over the digests of this package.

Whoever calls ``toploc`` can call this instead: same arguments, same bytes, no compiled code.
Activations are what a model gave: the prompt's states first (any shape), then one vector per
decoded token, as a list or, without a prompt, as one array ``[tokens, width]``. They may be torch
tensors on any device (bfloat16, float16, float32) or numpy arrays: float32 is rounded to bf16,
float16 is taken by its raw 16 bits as upstream takes it, and uint16 stands for bf16 patterns.

What differs from upstream, because there it is wrong:

- an error is raised; upstream hands out null proofs, one more of them than there are chunks where
  the batch size divides the number of decoded tokens;
- there must be exactly one proof per chunk, of exactly ``2 + 2·topk`` bytes (``2 + 2·size`` for a
  chunk of fewer values); upstream passes over missing ones and an odd byte at the end, and divides
  by the modulus of a null proof;
- a polynomial is evaluated at the place modulo its modulus, by every way that leads there;
- signs count, the median of an even number of errors is the mean of the middle two, and of equal
  magnitudes the lowest index is taken.
"""

import sys
from base64 import b64decode, b64encode
from binascii import Error as Base64Error
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import file_digest
from pathlib import Path
from typing import Any, Self

import numpy as np

from hearthring.protocol.errors import BadProof, BadShape, NonFinite
from hearthring.protocol.tensors import bf16_bits
from hearthring.verify import digest
from hearthring.verify.digest import I64, PRIME, U16

Activations = Any
"""A list of arrays or tensors, or one array or tensor ``[tokens, width]``."""


@dataclass(frozen=True, slots=True)
class VerificationResult:
    """How far one proof is from one chunk: see ``digest.Deviation``."""

    exp_mismatches: int
    mant_err_mean: float
    mant_err_median: float


@dataclass(frozen=True, slots=True)
class ProofPoly:
    """One proof: coefficients over GF(65497) in ascending powers, and the modulus of the places."""

    coeffs: list[int]
    modulus: int

    def __call__(self, x: int) -> int:
        """The bit pattern at place ``x``. Raises ``BadProof`` for a null proof."""
        if self.modulus < 1:
            raise BadProof("a null proof says nothing", field="digest")
        return evaluate_polynomial(self.coeffs, x % self.modulus)

    def __len__(self) -> int:
        """How many points it goes through."""
        return len(self.coeffs)

    @classmethod
    def from_points(cls, x: Sequence[int], y: Sequence[int]) -> Self:
        """Through patterns ``y`` at places ``x``, in any order.

        Raises ``BadShape`` unless there are as many of both and at least one, ``BadProof`` for two
        patterns at one place.
        """
        points = _points(x, y)
        return cls.from_bytes(digest.from_points([points])[0])

    @classmethod
    def from_points_tensor(cls, x: Any, y: Any) -> Self:
        """As ``from_points``, from tensors or arrays; ``y`` as floats or as patterns."""
        values = y if _is_whole(y) else _bits(y)
        return cls.from_points([int(i) for i in x], [int(v) for v in values])

    def to_bytes(self) -> bytes:
        """``2 + 2·len`` bytes. Raises ``BadProof`` for numbers that don't fit."""
        words = np.array([self.modulus, *self.coeffs], np.int64)
        if words.min() < 0 or words.max() > 0xFFFF:
            raise BadProof("a coefficient or modulus of more than 16 bits", field="digest")
        return words.astype(">u2").tobytes()

    def to_base64(self) -> str:
        """``to_bytes`` as text."""
        return b64encode(self.to_bytes()).decode()

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Of exactly this format. Raises ``BadProof``, for a null proof too."""
        if len(data) < 4 or len(data) % 2:
            raise BadProof(f"{len(data)} bytes are no proof", field="digest")
        words = np.frombuffer(data, ">u2").astype(np.int64)
        if not len(words) - 1 <= words[0] <= PRIME or words[1:].max() >= PRIME:
            raise BadProof("modulus or coefficients out of range", field="digest")
        return cls(words[1:].tolist(), int(words[0]))

    @classmethod
    def from_base64(cls, text: str) -> Self:
        """As ``from_bytes``."""
        return cls.from_bytes(_decode(text))


def build_proofs(
    activations: Activations, decode_batching_size: int, topk: int, skip_prefill: bool = False
) -> list[ProofPoly]:
    """One proof for the prompt (unless it is skipped), one per batch of decoded tokens.

    Raises ``BadShape`` for an empty chunk, ``NonFinite`` for an infinity or a NaN.
    """
    built = build_proofs_bytes(activations, decode_batching_size, topk, skip_prefill)
    return [ProofPoly.from_bytes(proof) for proof in built]


def build_proofs_bytes(
    activations: Activations, decode_batching_size: int, topk: int, skip_prefill: bool = False
) -> list[bytes]:
    """``build_proofs``, as bytes."""
    return digest.digests(batch_activations(activations, decode_batching_size, skip_prefill), topk)


def build_proofs_base64(
    activations: Activations, decode_batching_size: int, topk: int, skip_prefill: bool = False
) -> list[str]:
    """``build_proofs``, as text."""
    built = build_proofs_bytes(activations, decode_batching_size, topk, skip_prefill)
    return [b64encode(proof).decode() for proof in built]


def verify_proofs(
    activations: Activations,
    proofs: Sequence[ProofPoly],
    decode_batching_size: int,
    topk: int,
    skip_prefill: bool = False,
) -> list[VerificationResult]:
    """How far each proof is from one's own activations, chunk by chunk.

    Raises ``BadProof`` unless there is one proof of the format per chunk, and as ``build_proofs``.
    """
    data = [proof.to_bytes() for proof in proofs]
    return verify_proofs_bytes(activations, data, decode_batching_size, topk, skip_prefill)


def verify_proofs_bytes(
    activations: Activations,
    proofs: Sequence[bytes],
    decode_batching_size: int,
    topk: int,
    skip_prefill: bool = False,
) -> list[VerificationResult]:
    """``verify_proofs`` of proofs in bytes."""
    chunks = batch_activations(activations, decode_batching_size, skip_prefill)
    if not chunks and not proofs:
        return []
    return [
        VerificationResult(int(found.exp_mismatches), found.mantissa_mean, found.mantissa_median)
        for found in digest.compare_all(proofs, chunks, topk).chunks
    ]


def verify_proofs_base64(
    activations: Activations,
    proofs: Sequence[str],
    decode_batching_size: int,
    topk: int,
    skip_prefill: bool = False,
) -> list[VerificationResult]:
    """``verify_proofs`` of proofs in text."""
    data = [_decode(proof) for proof in proofs]
    return verify_proofs_bytes(activations, data, decode_batching_size, topk, skip_prefill)


def batch_activations(
    activations: Activations, decode_batching_size: int, skip_prefill: bool = False
) -> list[U16]:
    """The chunks that proofs are of: 16-bit patterns, flat."""
    if decode_batching_size < 1:
        raise BadShape(f"batches of {decode_batching_size}", field="decode_batching_size")
    parts = [_bits(part).reshape(-1) for part in activations]
    prompt, decoded = ([], parts) if skip_prefill else (parts[:1], parts[1:])
    starts = range(0, len(decoded), decode_batching_size)
    return prompt + [np.concatenate(decoded[at : at + decode_batching_size]) for at in starts]


def find_injective_modulus(x: Sequence[int]) -> int:
    """The largest modulus up to 65497 that keeps places apart. Raises as ``from_points``."""
    places, _ = _points(x, [0] * len(x))
    return digest.modulus_of(places)


def compute_newton_coefficients(x: Sequence[int], y: Sequence[int]) -> list[int]:
    """The polynomial through these points, in ascending powers.

    Raises as ``ProofPoly.from_points``, and ``BadShape`` for a place that isn't below 65497.
    """
    places, patterns = _points(x, y)
    if places.max() >= PRIME:
        raise BadShape("a place that isn't below the prime", field="points")
    return ProofPoly.from_bytes(digest.from_points([(places, patterns)])[0]).coeffs


def evaluate_polynomial(coefficients: Sequence[int], x: int) -> int:
    """The value at ``x``, by Horner's rule."""
    value = 0
    for coefficient in reversed(coefficients):
        value = (value * x + coefficient) % PRIME
    return value


def get_fp_parts(values: Any) -> tuple[list[int], list[int]]:
    """Exponents and mantissas of float32 (8 and 23 bits) or of bf16 (8 and 7 bits)."""
    wide = "float32" in str(values.dtype)
    bits = np.asarray(values, np.float32).view(np.uint32) if wide else _bits(values)
    flat, mantissa = bits.reshape(-1).astype(np.int64), 23 if wide else 7
    return (flat >> mantissa & 0xFF).tolist(), (flat & (1 << mantissa) - 1).tolist()


def sha256sum(filename: str | Path) -> str:
    """SHA-256 of a file, in hex."""
    with Path(filename).open("rb") as file:
        return file_digest(file, "sha256").hexdigest()


def _points(x: Sequence[int], y: Sequence[int]) -> tuple[I64, U16]:
    if len(x) != len(y) or not len(x):
        raise BadShape(f"{len(x)} places and {len(y)} values", field="points")
    places, values = np.array(x, np.int64), np.array(y, np.int64)
    if places.min() < 0 or values.min() < 0 or values.max() > 0xFFFF:
        raise BadShape("a place below 0, or a value of more than 16 bits", field="points")
    if len(np.unique(places)) < len(places):
        raise BadProof("two values at one place", field="points")
    return places, values.astype(np.uint16)


def _is_whole(values: Any) -> bool:
    return "int" in str(values.dtype)


def _bits(values: Any) -> U16:
    """16-bit patterns of one array or tensor."""
    torch = sys.modules.get("torch")  # not imported for somebody who hands over no tensor
    if torch is not None and isinstance(values, torch.Tensor):
        values = values.detach().cpu().contiguous()
        if values.dtype is torch.bfloat16:
            values = values.view(torch.int16).numpy().view(np.uint16)
        else:
            values = values.numpy()
    array = np.ascontiguousarray(values)
    if array.dtype == np.uint16:
        return array
    if array.dtype not in (np.float16, np.float32):
        raise BadShape(f"values of {array.dtype}", field="activations")
    if not np.isfinite(array).all():
        raise NonFinite("an infinity or a NaN", field="activations")
    return bf16_bits(array) if array.dtype == np.float32 else array.view(np.uint16)


def _decode(text: str) -> bytes:
    try:
        return b64decode(text, validate=True)
    except (Base64Error, ValueError):
        raise BadProof("a proof that isn't base64", field="digest") from None
