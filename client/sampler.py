"""Choosing a token from logits: a pure function of logits, history, position and options.

Above temperature 0 the choice is ``argmax(logits / T + Gumbel noise)``, which draws from the
softmax exactly (the Gumbel-max trick). The noise depends on seed, position and token only, so the
same seed gives the same text with any draft or none, and an auditor can replay each choice alone.
``docs/sampling.md`` states the rule for other implementations.
"""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from hearthring.client.philox import F64, I64, SEEDS, gumbel
from hearthring.protocol.errors import BadOption, BadShape, NonFinite
from hearthring.protocol.tensors import F32

_FIRST_SORT = 256


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are chosen. The defaults choose the likeliest token, without chance.

    ``temperature`` 0 or 0.001 to 100; ``top_k`` 0 (off) or the number of tokens to keep;
    ``top_p`` above 0 to 1 (off); ``min_p`` 0 (off) to 1, relative to the likeliest token;
    ``repetition_penalty`` 0.01 to 100, 1 is off; ``seed`` 0 to 2**64 - 1, or None to have one
    drawn by ``seeded``. Raises ``BadOption`` that names the field and what it allows.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    seed: int | None = None

    def __post_init__(self) -> None:
        """Refuse what can't be meant, NaN included."""
        if self.temperature != 0:
            # The least temperature keeps logits / T finite, and is greedy for any real model.
            _within("temperature", self.temperature, 1e-3, 100, "0, or 0.001 to 100")
        _whole("top_k", self.top_k, 1 << 31, "a whole number from 0 (off)")
        _within("top_p", self.top_p, np.nextafter(0, 1), 1, "above 0, up to 1 (off)")
        _within("min_p", self.min_p, 0, 1, "0 (off) to 1")
        _within("repetition_penalty", self.repetition_penalty, 0.01, 100, "0.01 to 100, 1 is off")
        if self.seed is not None:
            _whole("seed", self.seed, SEEDS, "a whole number from 0 to 2**64 - 1")

    def seeded(self) -> "Sampling":
        """The same with a seed: a fresh one if chance plays a part and none was given."""
        if self.seed is not None or not self.temperature:
            return self
        return replace(self, seed=secrets.randbits(64))


def choose(logits: F32, history: Sequence[int], position: int, sampling: Sampling) -> int:
    """The token id for ``position``, the place that it will take (prompt included, from 0).

    ``logits`` is ``[vocab]``; -inf forbids a token. ``history`` holds the ids of the prompt and
    the answer so far; only a repetition penalty looks at it. Equal scores go to the lowest id.

    Raises ``NonFinite`` for a NaN, +inf, or nothing but -inf, ``BadShape`` for other than one row
    of logits, and ``BadOption`` when a seed is needed and missing, or for ids outside the
    vocabulary.
    """
    ids, scores = _candidates(logits, history, position, sampling)
    best = int(scores.argmax())
    return best if ids is None else int(ids[best])


def lead(
    logits: F32, history: Sequence[int], position: int, sampling: Sampling, token: int
) -> tuple[int, float]:
    """The chosen token, and how far its score is above that of ``token``: 0 if it is the same.

    In units of logits / T (of logits at temperature 0); infinite when ``token`` was cut off. An
    auditor with other kernels holds a different choice against nobody when the lead is within
    their noise. Raises as ``choose``.
    """
    ids, scores = _candidates(logits, history, position, sampling)
    best = int(scores.argmax())
    chosen = best if ids is None else int(ids[best])
    place = token if ids is None else int(np.searchsorted(ids, token))
    if not 0 <= place < scores.size or (ids is not None and ids[place] != token):
        return chosen, float("inf")
    return chosen, float(scores[best]) - float(scores[place])


def leaders(
    logits: F32, history: Sequence[int], position: int, sampling: Sampling, count: int
) -> list[tuple[int, float]]:
    """The ``count`` tokens of the highest scores, first the one that ``choose`` takes, and with
    each its share in the softmax of all scores, noise included. Raises as ``choose``.

    The share tells how far the choice is from another one: a draft's sureness of its guess.
    """
    ids, scores = _candidates(logits, history, position, sampling)
    wide = scores.astype(np.float64)
    weights = np.exp(wide - wide.max())
    shares = weights / weights.sum()
    first = _first(wide, min(count, wide.size))
    return [(int(at if ids is None else ids[at]), float(shares[at])) for at in first]


def distribution(logits: F32, history: Sequence[int], sampling: Sampling) -> F64:
    """How likely ``choose`` takes each token, over all seeds: ``[vocab]``, float64, sum 1.

    At temperature 0 all of it lies on the token that is chosen. Raises as ``choose``, but needs no
    seed.
    """
    ids, scores = _scores(logits, history, sampling)
    chances = np.zeros(logits.size)
    if not sampling.temperature:
        chances[scores.argmax()] = 1.0
        return chances
    assert ids is not None
    weights = np.exp(scores - scores.max())
    chances[ids] = weights / weights.sum()
    return chances


def _candidates(
    logits: F32, history: Sequence[int], position: int, sampling: Sampling
) -> tuple[I64 | None, F64 | F32]:
    """Ids that may be chosen, ascending (None: all of them), and their scores, noise included."""
    if sampling.temperature and sampling.seed is None:
        raise BadOption("a temperature above 0 needs one", field="seed", mend="call seeded()")
    ids, scores = _scores(logits, history, sampling)
    if ids is None or sampling.seed is None:
        return None, scores
    return ids, scores + gumbel(sampling.seed, position, ids)


def _scores(
    logits: F32, history: Sequence[int], sampling: Sampling
) -> tuple[I64 | None, F64 | F32]:
    """Ids that may be chosen, ascending (None at temperature 0: all), and logits / T of these."""
    if logits.ndim != 1 or not logits.size:
        raise BadShape(f"logits of shape {logits.shape}", field="logits")
    if not np.isfinite(logits.max()):  # the maximum of anything with a NaN is NaN
        raise NonFinite("an infinity or a NaN", field="logits")
    if not sampling.temperature and sampling.repetition_penalty == 1:
        return None, logits
    scores = logits.astype(np.float64)
    if sampling.repetition_penalty != 1 and len(history):
        _penalise(scores, history, sampling.repetition_penalty)
    if not sampling.temperature:
        return None, scores
    scores /= sampling.temperature
    ids = _keep(scores, sampling)
    return ids, scores[ids]


def _penalise(scores: F64, history: Sequence[int], penalty: float) -> None:
    seen = np.unique(np.asarray(history, np.int64))
    if seen[0] < 0 or seen[-1] >= scores.size:
        raise BadOption(f"an id outside the vocabulary of {scores.size}", field="history")
    old = scores[seen]
    scores[seen] = np.where(old > 0, old / penalty, old * penalty)


def _keep(scores: F64, sampling: Sampling) -> I64:
    """Ids left by top-k, then top-p among these, then min-p, ascending; at least one."""
    ids = np.arange(scores.size)
    if 0 < sampling.top_k < scores.size:
        ids = np.sort(_first(scores, sampling.top_k))
    if sampling.top_p < 1:
        ids = ids[np.sort(_nucleus(scores[ids], sampling.top_p))]
    if sampling.min_p:
        kept = scores[ids]
        ids = ids[np.exp(kept - kept.max()) >= sampling.min_p]
    return ids


def _first(scores: F64, count: int) -> I64:
    """Indices of the ``count`` highest scores, highest first, equal ones by index."""
    cut = np.partition(scores, scores.size - count)[scores.size - count]
    reach = np.flatnonzero(scores >= cut)
    order = np.argsort(-scores[reach], kind="stable")[:count]
    return reach[order]


def _nucleus(scores: F64, p: float) -> I64:
    """Indices of the shortest run of highest scores that holds at least ``p`` of the softmax."""
    weights = np.exp(scores - scores.max())
    goal = p * weights.sum()
    count = min(_FIRST_SORT, scores.size)
    while True:
        order = _first(scores, count)
        held = np.cumsum(weights[order])
        if held[-1] >= goal or count == scores.size:
            # Rounding may leave the sum of all a hair below the goal: then all are kept.
            return order[: int(np.searchsorted(held, goal)) + 1]
        count = min(count * 16, scores.size)


def _within(field: str, value: float, low: float, high: float, allowed: str) -> None:
    if not isinstance(value, int | float) or isinstance(value, bool) or not low <= value <= high:
        raise BadOption(f"{value!r} isn't allowed", field=field, mend=f"allowed: {allowed}")


def _whole(field: str, value: int, end: int, allowed: str) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < end:
        raise BadOption(f"{value!r} isn't allowed", field=field, mend=f"allowed: {allowed}")
