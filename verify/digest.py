"""Locality-sensitive digests of activations (TOPLOC): 258 bytes for a chunk of any size.

A digest is a polynomial over GF(65497) through the ``k`` largest values of a chunk: at the place of
each it takes the value's bf16 bit pattern. Whoever recomputes the chunk evaluates the polynomial at
the places of *their* largest values and counts how far the patterns are apart, so a digest bears
the rounding noise of another kernel, but not another model.

Source: TOPLOC, arXiv 2501.16007, and the byte format of PrimeIntellect-ai/toploc (MIT): modulus,
then ``k`` coefficients in ascending powers, each a big-endian uint16. The arithmetic here is our
own. Where upstream is lax this is strict: the modulus is applied to the places at verification
too, signs count, ties go to the lowest index, and a digest that isn't exactly of the format is
refused. Digests of one chunk may differ in bytes between implementations (ties); compare them with
``compare``, never with ``==``.

A chunk is an array of bf16 bit patterns (uint16) of any shape, row-major: index = row · width +
channel. A chunk with fewer than ``k`` values has a digest of all of them, so ``k`` always follows
from a digest's length and never from what its sender claims.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from hearthring.protocol.errors import BadProof, BadShape, NonFinite

U16 = NDArray[np.uint16]
U32 = NDArray[np.uint32]
I64 = NDArray[np.int64]

PRIME = 65497
TOP_K = 128
NO_MATCH = 2.0**64
"""Stands for a mantissa error where no exponent agreed, as upstream has it."""

_GENERATOR = 7
_INFINITY = 0x7F80
_BATCH = 32
"""Chunks interpolated together: enough to hide numpy's overhead, few enough for the cache."""


@dataclass(frozen=True, slots=True)
class Deviation:
    """How far a digest is from recomputed activations; all zero when nothing differs.

    ``exp_mismatches`` counts values (of at most ``k``) whose exponent or sign differs. Over the
    others, ``mantissa_mean`` and ``mantissa_median`` are the mean and median difference of the
    7-bit mantissas; ``NO_MATCH`` when there are no others.
    """

    exp_mismatches: float
    mantissa_mean: float
    mantissa_median: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """Deviations per chunk, and ``mean``: each figure averaged over the chunks of the request."""

    chunks: tuple[Deviation, ...]
    mean: Deviation


def digest(bits: U16, k: int = TOP_K) -> bytes:
    """Digest of one chunk: 2 + 2·min(k, size) bytes.

    Raises ``NonFinite`` for an infinity or a NaN, ``BadShape`` for an empty chunk or another type
    than uint16.
    """
    return digests([bits], k)[0]


def digests(chunks: Sequence[U16], k: int = TOP_K) -> list[bytes]:
    """Digests of many chunks, in order; many at once are several times faster. See ``digest``."""
    return from_points([top_points(chunk, k) for chunk in chunks])


def compare(proof: bytes, bits: U16, k: int = TOP_K) -> Deviation:
    """Deviation of the digest ``proof`` from the recomputed chunk ``bits``.

    Raises ``BadProof`` for a digest that isn't of the format or can't be one of such a chunk, and
    what ``digest`` raises for ``bits``.
    """
    return compare_all([proof], [bits], k).chunks[0]


def compare_all(proofs: Sequence[bytes], chunks: Sequence[U16], k: int = TOP_K) -> Comparison:
    """Deviations of the digests of a request from its recomputed chunks, and their mean.

    Raises ``BadProof`` unless there is exactly one digest per chunk, and as ``compare``.
    """
    if len(proofs) != len(chunks) or not chunks:
        raise BadProof(f"{len(proofs)} digests for {len(chunks)} chunks", field="digest")
    parsed = [_parse(proof, np.size(chunk), k) for proof, chunk in zip(proofs, chunks, strict=True)]
    points = [top_points(chunk, k) for chunk in chunks]
    found: dict[int, Deviation] = {}
    for batch in _batches([len(indices) for indices, _ in points]):
        places = [points[i][0] % parsed[i][0] for i in batch]
        coefficients = np.stack([parsed[i][1] for i in batch], 1)
        theirs = _evaluate(coefficients, np.stack(places, 1).astype(np.uint32))
        for column, i in enumerate(batch):
            found[i] = _deviation(theirs[:, column], points[i][1], places[column])
    deviations = tuple(found[i] for i in range(len(chunks)))
    mean = Deviation(
        float(np.mean([d.exp_mismatches for d in deviations])),
        float(np.mean([d.mantissa_mean for d in deviations])),
        float(np.mean([d.mantissa_median for d in deviations])),
    )
    return Comparison(deviations, mean)


def top_points(bits: U16, k: int = TOP_K) -> tuple[I64, U16]:
    """Indices (ascending) and patterns of the ``k`` largest magnitudes of a chunk.

    Among equal magnitudes the lowest index wins. Raises as ``digest``.
    """
    if bits.dtype != np.uint16 or not bits.size or k < 1:
        raise BadShape(f"{bits.size} values of {bits.dtype}, top {k}", field="chunk")
    flat = np.ascontiguousarray(bits).reshape(-1)
    magnitude = flat & 0x7FFF
    if magnitude.max() >= _INFINITY:
        raise NonFinite("an infinity or a NaN", field="chunk")
    k = min(k, flat.size)
    if flat.size < 16 * k:
        near = np.arange(flat.size)
    else:
        # The k-th largest of the maxima of any groups is at most the k-th largest of all values,
        # so only what reaches it needs sorting. Groups are contiguous because outlier channels
        # repeat in every row: grouped by channel, the bound would be far too low.
        groups = 8 * k
        maxima = magnitude[: flat.size // groups * groups].reshape(groups, -1).max(1)
        near = np.flatnonzero(magnitude >= np.partition(maxima, -k)[-k])
    heights = magnitude[near]
    cut = np.partition(heights, -k)[-k]
    above = near[heights > cut]
    level = near[heights == cut][: k - above.size]
    indices = np.sort(np.concatenate([above, level]))
    return indices, flat[indices]


def from_points(points: Sequence[tuple[I64, U16]]) -> list[bytes]:
    """Digests through given points, one (indices, patterns) pair each, in any order of points.

    Indices must differ. Raises ``BadProof`` when no modulus keeps them apart, which takes indices
    chosen for it.
    """
    out: dict[int, bytes] = {}
    for batch in _batches([len(indices) for indices, _ in points]):
        moduli = [modulus_of(points[i][0]) for i in batch]
        places = [points[i][0] % m for i, m in zip(batch, moduli, strict=True)]
        patterns = np.stack([points[i][1] for i in batch], 1)
        coefficients = _interpolate(np.stack(places, 1), patterns.astype(np.uint32))
        for column, (i, m) in enumerate(zip(batch, moduli, strict=True)):
            out[i] = m.to_bytes(2, "big") + coefficients[:, column].astype(">u2").tobytes()
    return [out[i] for i in range(len(points))]


def _batches(lengths: list[int]) -> Iterator[list[int]]:
    """Indices of equal length, at most ``_BATCH`` together."""
    for length in set(lengths):
        same = [i for i, other in enumerate(lengths) if other == length]
        for start in range(0, len(same), _BATCH):
            yield same[start : start + _BATCH]


def _parse(proof: bytes, size: int, k: int) -> tuple[int, U32]:
    k = min(k, size)
    if len(proof) != 2 + 2 * k:
        raise BadProof(f"{len(proof)} bytes instead of {2 + 2 * k}", field="digest")
    words = np.frombuffer(proof, ">u2").astype(np.uint32)
    modulus, coefficients = int(words[0]), words[1:]
    if not modulus:
        raise BadProof("a null digest: its maker failed to make one", field="digest")
    # No index of a chunk this small reaches the prime, so another modulus would be made up: one
    # that divides the width, say, would let a prover describe channels instead of values.
    if not (PRIME if size <= PRIME else k) <= modulus <= PRIME:
        raise BadProof(f"modulus {modulus} is out of range", field="digest")
    if coefficients.max() >= PRIME:
        raise BadProof(f"a coefficient isn't below {PRIME}", field="digest")
    return modulus, coefficients


def _deviation(theirs: U32, ours: U16, places: I64) -> Deviation:
    mine = ours.astype(np.uint32)
    same = theirs >> 7 == mine >> 7
    ordered = np.sort(places)
    shared = ordered[1:][ordered[1:] == ordered[:-1]]
    if shared.size:
        # The prover's modulus keeps the prover's places apart. Where it merges ours, one value of
        # the polynomial would answer for several values of the chunk.
        same &= ~np.isin(places, shared)
    gaps = np.sort(np.abs((theirs[same] & 0x7F).astype(np.int64) - (mine[same] & 0x7F)))
    if not gaps.size:
        return Deviation(float(same.size), NO_MATCH, NO_MATCH)
    middle = (gaps[(gaps.size - 1) // 2] + gaps[gaps.size // 2]) / 2
    return Deviation(float(same.size - gaps.size), float(gaps.mean()), float(middle))


def modulus_of(indices: I64) -> int:
    """The largest modulus up to the prime that keeps all (different) indices apart.

    Raises ``BadProof`` when there is none as large as they are many.
    """
    if indices.max() < PRIME:
        return PRIME
    for modulus in range(PRIME, len(indices) - 1, -1):
        ordered = np.sort(indices % modulus)
        if (ordered[1:] != ordered[:-1]).all():
            return modulus
    raise BadProof("no modulus keeps these indices apart", field="digest")


@cache
def _inverses() -> U32:
    """Inverse of each element modulo the prime; index -d gives that of -d. Element 0 is unused."""
    powers = np.ones(1, np.uint64)
    while powers.size < PRIME - 1:
        step = pow(_GENERATOR, powers.size, PRIME)
        powers = np.concatenate([powers, powers * step % PRIME])
    powers = powers[: PRIME - 1]
    table = np.zeros(PRIME, np.uint32)
    table[powers] = np.roll(powers[::-1], 1)
    return table


def _reduce(values: U32) -> U32:
    # numpy divides by a constant with SIMD, but takes remainders one by one.
    return values - values // PRIME * PRIME


def _interpolate(places: I64, values: U32) -> U32:
    """Polynomials over GF(65497) through points, one per column: ``[k, batch]`` each.

    Newton's divided differences, then the expansion of Newton's form. Everything stays below
    PRIME², which fits uint32.
    """
    inverses, rest = _inverses(), _reduce(values)
    for k in range(1, len(rest)):
        gap = rest[k:] - rest[k - 1 : -1]
        gap = np.minimum(gap, gap + PRIME)  # a negative gap wrapped round to a large one
        rest[k:] = _reduce(gap * inverses.take(places[k:] - places[:-k]))
    minus = (PRIME - places).astype(np.uint32)
    coefficients = np.zeros_like(rest)
    coefficients[0] = rest[-1]
    for done, i in enumerate(range(len(rest) - 2, -1, -1), 2):
        longer = coefficients[:done] * minus[i]
        longer[1:] += coefficients[: done - 1]
        longer[0] += rest[i]
        coefficients[:done] = _reduce(longer)
    return coefficients


def _evaluate(coefficients: U32, places: U32) -> U32:
    """Values of each column's polynomial at each column's places, by Horner's rule."""
    values = np.zeros_like(places)
    for coefficient in coefficients[::-1]:
        values = _reduce(values * places + coefficient)
    return values
