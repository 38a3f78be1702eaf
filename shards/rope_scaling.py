"""Factors that stretch rotary positions beyond the context a model was trained on.

Each function gives, per rotated pair, the number that the pair's frequency is divided by: what
``Rope.factors`` holds. They are float32 numbers, as GGUF files keep them.
"""

from math import ceil, floor, log, pi

import numpy as np
from numpy.typing import NDArray

Reals = NDArray[np.float64]


def plain_frequencies(width: int, base: float) -> Reals:
    """Turns per position ``[width / 2]`` in radians (Su et al., RoFormer, 2021)."""
    half = width // 2
    frequency: Reals = base ** -(np.arange(half, dtype=np.float64) / half)
    return frequency


def linear_factors(width: int, factor: float) -> tuple[float, ...]:
    """Every position divided by ``factor`` (Chen et al., position interpolation, 2023)."""
    return _floats(np.full(width // 2, factor))


def llama3_factors(
    width: int, base: float, *, factor: float, low: float, high: float, original: int
) -> tuple[float, ...]:
    """Llama 3.1's: pairs that turn ``high`` times and more within the ``original`` context stay,
    those below ``low`` turns are divided by ``factor``, between them the two are mixed."""
    turns = original * plain_frequencies(width, base) / (2 * pi)
    kept = np.clip((turns - low) / (high - low), 0, 1)
    return _floats(1 / ((1 - kept) / factor + kept))


def yarn_factors(
    width: int, base: float, *, factor: float, original: int, fast: float = 32.0, slow: float = 1.0
) -> tuple[float, ...]:
    """YaRN's (Peng et al., 2023, section 3.2), its corners rounded to whole pairs as in its code.

    Pairs that turn ``fast`` times within the ``original`` context stay, those below ``slow`` turns
    are divided by ``factor``.
    """

    def pair(turns: float) -> float:
        return width * log(original / (turns * 2 * pi)) / (2 * log(base))

    low, high = max(floor(pair(fast)), 0), min(ceil(pair(slow)), width - 1)
    kept = 1 - np.clip((np.arange(width // 2) - low) / max(high - low, 0.001), 0, 1)
    return _floats(1 / ((1 - kept) / factor + kept))


def yarn_magnitude(factor: float) -> float:
    """What YaRN multiplies cosine and sine by (Peng et al., 2023, equation 22)."""
    return 1.0 + 0.1 * log(factor) if factor > 1 else 1.0


def _floats(values: Reals) -> tuple[float, ...]:
    return tuple(values.astype(np.float32).astype(float).tolist())
