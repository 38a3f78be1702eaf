"""Accepting or refusing what a draft has drawn, so that the result is the target's own draw.

Pure functions of distributions (float64 ``[vocab]``, sum 1) and a ``Chance``. A draft draws the
children of a place by ``draw_children``; ``judge_children`` tries them in that order. What comes
out is distributed as the target, whatever the draft's distribution is, under two conditions:

1. Children were drawn from the very distribution that judges them, by the same rule. Taking the
   likeliest ones instead, or trying drawn ones in another order, changes the result.
2. How many children are drawn may depend on the distribution and on children drawn before, never
   on the child itself: dropping one *after* having seen it changes the result.

Without a distribution children are judged as they are (``point masses``): any will do, in any
number and order, as long as the chance that judges them had no part in choosing them.

Sources: Leviathan, Kalman, Matias, "Fast inference from transformers via speculative decoding",
ICML 2023, algorithm 1 (one child); Miao et al., "SpecInfer", ASPLOS 2024, algorithm 2 (children
drawn with replacement); Chen et al., "Sequoia", NeurIPS 2024, algorithm 2 (without); Timor et al.,
"Accelerating LLM inference with lossless speculative decoding algorithms for heterogeneous
vocabularies", ICML 2025, algorithm 4 (``restrict``).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

import numpy as np

from hearthring.client.chance import Chance
from hearthring.client.philox import F64, I64
from hearthring.protocol.errors import BadOption, BadShape


class Draws(Enum):
    """How several children of one place are drawn."""

    WITH_REPLACEMENT = "with replacement"
    """Each from the same distribution; one may come twice."""
    WITHOUT_REPLACEMENT = "without replacement"
    """Each from what the ones before have left."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is chosen at a place: ``token``, and which child it was.

    ``child`` is an index among the children, or -1: none, the token is the target's correction.
    """

    token: int
    child: int


def draw_children(draft: F64, most: int, draws: Draws, chance: Chance) -> tuple[int, ...]:
    """At most ``most`` tokens drawn from ``draft``, in the order in which they must be judged.

    Without replacement, tokens beyond the draft's support are drawn evenly, until none is left.
    """
    left, children = draft, list[int]()
    while len(children) < most and left.any():
        children.append(chance.pick(left))
        if draws is Draws.WITHOUT_REPLACEMENT:
            left = _without(left, children)
    return tuple(children)


def judge_children(
    target: F64, children: Sequence[int], draft: F64 | None, draws: Draws, chance: Chance
) -> Verdict:
    """One token of ``target``: the first child that is accepted, or a correction.

    Child x is accepted with chance min(1, P(x) / Q(x)); a refusal leaves P = (P − Q)+ and, without
    replacement, Q without x, both scaled to sum 1. Without a ``draft``, x is accepted with chance
    P(x), and a refusal leaves P without x.

    Raises ``BadShape`` for distributions of different sizes, ``BadOption`` for a child that isn't
    in the vocabulary or can't have been drawn.
    """
    if draft is not None and draft.shape != target.shape:
        raise BadShape(f"{draft.shape} for a target of {target.shape}", field="draft")
    left, guess, tried = target, draft, list[int]()
    for place, token in enumerate(children):
        if not 0 <= token < target.size or (guess is not None and not guess[token]):
            raise BadOption(f"token {token} can't have been drawn", field="children")
        ratio = left[token] if guess is None else left[token] / guess[token]
        if ratio >= 1 or chance.happens(float(ratio)):
            return Verdict(token, place)
        tried.append(token)
        if guess is None:
            remains = left.copy()
            remains[token] = 0.0
        else:
            remains = np.maximum(left - guess, 0.0)
        mass = remains.sum()
        if mass <= 0:
            # Equal but for rounding, so acceptance was certain but for rounding.
            return Verdict(token, place)
        left = remains / mass
        if guess is not None and draws is Draws.WITHOUT_REPLACEMENT:
            guess = _without(guess, tried)
    return Verdict(chance.pick(left), -1)


def restrict(draft: F64, theirs: I64, ours: I64, size: int) -> F64:
    """A draft's distribution over its own vocabulary, on the tokens that the target's has too.

    ``theirs[i]`` and ``ours[i]`` are the ids of one token in both vocabularies; the result is
    ``[size]``, renormalised: children drawn from it are judged as from any other. All zero when
    the draft expects none of the shared tokens: then there is nothing to draw.
    """
    shared = np.zeros(size)
    shared[ours] = draft[theirs]
    mass = shared.sum()
    return shared / mass if mass > 0 else shared


def _without(guess: F64, tried: Sequence[int]) -> F64:
    """``guess`` less the token tried last; evenly what was never tried when that leaves nothing."""
    left = guess.copy()
    left[tried[-1]] = 0.0
    mass = left.sum()
    if mass <= 0:
        left = np.ones_like(guess)
        left[list(tried)] = 0.0
        mass = left.sum()
    return left / mass if mass > 0 else left
