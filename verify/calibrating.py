"""Thresholds from measurements of honest work, with a bound on false accusations.

Each text gives one figure per threshold: the largest over all honest pairs of classes. Texts are
drawn alike and split three ways. The *first* say how far every figure usually goes: two spreads
above its middle, in logarithms. Over the *second* one number per text says by which factor it is
beyond that anywhere; the largest of these, and a margin, set all thresholds. The rest is *held
out*: it sets nothing and is only counted.

Why this bounds accusations: a new honest text and the n of the second part are exchangeable, so the
new one is the largest of n + 1 with probability at most 1 / (n + 1), whatever the distribution
(split conformal prediction; Vovk, Gammerman and Shafer, "Algorithmic Learning in a Random World").
The margin only lowers it. The bound is on the whole request: all boundaries, chunks and tokens,
which hang together, so no count of them would tighten it; more texts do. It holds for each kind of
audit by itself (``GROUPS``): a figure of one that is off loosens no threshold of another.

By how much the margin lowers it takes an assumption. ``tail`` is what is left beyond the limit if
scores above their median thin out exponentially (figures are in logarithms, so this allows heavy
tails of the figures themselves), at the upper 95 % limit of the mean excess (Pickands, "Statistical
inference using extreme order statistics", 1975, with shape 0), or the bound if that is less. It is
an estimate and no bound.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hearthring.protocol.errors import BadOption
from hearthring.verify.tolerance import Tolerance

MARGIN = 0.2
"""How far a threshold lies beyond the farthest honest text: in logarithms, so 22 %."""
SPREADS = 2.0
FLOOR = Tolerance((2.0,), (0.2,), 4.0, (0.002,), (0.004,), 0.5, 0.002, 0.004, 0.0, 0.0)
"""Added to figures before their logarithm: those that happen to be zero aren't always."""
USUAL, WEIGHT = 0.2, 8
"""A spread before anything is measured, and how many figures it counts for: a few texts show little
of an entry by itself, so it leans on its field, and that on what is usual."""
GROUPS = (
    ("exp", "mantissa", "chunk_exp", "token_margin"),
    ("deviation", "deviation_chunk"),
    ("cell_added", "cell_stored"),
)
"""Figures of one audit each: a replay from the prompt, those of recorded inputs, and cells. The
bound holds for each of them."""
LEAST, MOST = 8, 16
"""Texts in all at least, and texts that say what is usual at most."""
_CONFIDENCE, _DEVIATES = 0.95, 1.645


@dataclass(frozen=True, slots=True)
class Fit:
    """Thresholds, and what the held-out texts say of them.

    ``reach``: by text of the held-out part, its largest figure as a share of its threshold.
    ``held_out_bound``: with 95 % confidence, by the held-out texts alone, honest requests exceed a
    threshold no more often (Clopper and Pearson).
    """

    tolerance: Tolerance
    reach: tuple[float, ...]

    @property
    def exceeded(self) -> int:
        """Held-out texts that exceed a threshold."""
        return sum(one > 1 for one in self.reach)

    @property
    def held_out_bound(self) -> float:
        """See the class."""
        return exceedance_bound(self.exceeded, len(self.reach))


def fit(texts: Sequence[Tolerance], margin: float = MARGIN) -> Fit:
    """Thresholds from one ``Tolerance`` of measured figures per text, whose ``bound`` and ``tail``
    are ignored.

    A quarter of the texts, but no more than 16, says how far figures usually go, a quarter is held
    out, the others say how much farther they may. Raises ``BadOption`` for fewer than 8 texts: the
    bound would say nothing.
    """
    if len(texts) < LEAST:
        raise BadOption(f"{len(texts)} texts", field="texts", mend=f"at least {LEAST}")
    quarter = len(texts) // 4
    first, last = min(quarter, MOST), len(texts) - quarter
    limits: dict[str, Any] = {}
    tails = []
    for names in GROUPS:
        usual = [_Reach.of(name, texts[:first]) for name in names]
        scores = [max(one.score(text) for one in usual) for text in texts[:last]]
        farthest, scores = max(scores) + margin, scores[first:]
        limits |= {one.name: one.limit(farthest) for one in usual}
        tails.append(tail(scores, farthest))
    bound = 1 / (last - first + 1)
    tolerance = Tolerance(**limits, bound=bound, tail=min(bound, max(tails)))
    return Fit(tolerance, tuple(_reach(text, tolerance) for text in texts[last:]))


def tail(scores: Sequence[float], limit: float) -> float:
    """The estimated share of scores beyond ``limit``, by those above the median; see above."""
    middle = float(np.median(scores))
    excess = [score - middle for score in scores if score > middle]
    if not excess or limit <= middle:
        return 1.0
    count = len(excess)
    # Excesses add up to a gamma variable; Wilson and Hilferty's cube root gives its lower 5 %.
    least = (1 - 1 / (9 * count) - _DEVIATES / (3 * math.sqrt(count))) ** 3
    mean = float(np.mean(excess)) / max(least, 1e-3)
    return count / len(scores) * math.exp((middle - limit) / mean)


@dataclass(frozen=True, slots=True)
class _Reach:
    """How far one field's figures usually go, entry by entry, in logarithms."""

    name: str
    top: NDArray[np.float64]

    @classmethod
    def of(cls, name: str, texts: Sequence[Tolerance]) -> "_Reach":
        logs = np.stack([_log(name, text) for text in texts])
        middle = logs.mean(axis=0)
        squares = (logs - middle) ** 2
        field = (squares.sum() + WEIGHT * USUAL**2) / (logs[1:].size + WEIGHT)
        entry = (squares.sum(axis=0) + WEIGHT * field) / (len(logs) - 1 + WEIGHT)
        return cls(name, middle + SPREADS * np.sqrt(entry))

    def score(self, text: Tolerance) -> float:
        return float((_log(self.name, text) - self.top).max())

    def limit(self, score: float) -> Any:
        values = np.exp(self.top + score) - _array(getattr(FLOOR, self.name))
        rounded = [round(float(value), 5) for value in values]
        return tuple(rounded) if isinstance(getattr(FLOOR, self.name), tuple) else rounded[0]


def exceedance_bound(exceeded: int, texts: int) -> float:
    """Upper limit of a rate at 95 % confidence, of which ``exceeded`` in ``texts`` were seen."""
    if exceeded >= texts:
        return 1.0
    low, high = exceeded / texts, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        if _at_most(exceeded, texts, middle) > 1 - _CONFIDENCE:
            low = middle
        else:
            high = middle
    return high


def _at_most(exceeded: int, texts: int, rate: float) -> float:
    """Probability of at most so many out of ``texts`` at this rate."""
    total, term = 0.0, (1 - rate) ** texts
    for seen in range(exceeded + 1):
        total += term
        term *= (texts - seen) / (seen + 1) * rate / (1 - rate)
    return total


def _reach(text: Tolerance, limits: Tolerance) -> float:
    """The largest figure of a text as a share of its threshold."""
    shares = [_array(getattr(text, n)) / _array(getattr(limits, n)) for n in _NAMES]
    return max(float(share.max()) for share in shares)


def _log(name: str, text: Tolerance) -> NDArray[np.float64]:
    found: NDArray[np.float64] = np.log(_array(getattr(text, name)) + _array(getattr(FLOOR, name)))
    return found


def _array(value: float | tuple[float, ...]) -> NDArray[np.float64]:
    return np.atleast_1d(np.asarray(value, np.float64))


_NAMES = tuple(name for names in GROUPS for name in names)
