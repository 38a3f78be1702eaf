"""Rules by which a token is chosen where something was drafted for its place.

A rule takes what the ring returned for a place (its logits) and the children drafted for it, and
says which token is chosen and whether it is one of them. Going down a tree by it yields as many
tokens as children were accepted, and one more.

=========== ======================== ==========================================================
name        a draft supplies         what comes out
=========== ======================== ==========================================================
gumbel      tokens, any              the token that is chosen without a draft, at any temperature
leviathan   one token of q, and q    a draw of the same distribution, but another one
specinfer   tokens of q, repeated    as leviathan
            ones among them, and q
sequoia     different tokens of q,   as leviathan
            and q
=========== ======================== ==========================================================

Only ``gumbel`` can be replayed without the draft; it is the default, and loses a few per cent of
acceptance to the others. The others take tokens without a q too, and then judge them as they are.

Randomness is a function of seed, position and purpose (``client/chance.py``): noise of the
sampler for ``gumbel``, draws for drafting and for judging in the others. Places of one position
share their draws, whichever branch they are on, and only one of them ever counts.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from hearthring.client.chance import DRAFTING, JUDGING, Drawn
from hearthring.client.draft import Draft
from hearthring.client.philox import F64, gumbel
from hearthring.client.rejection import Draws, Verdict, draw_children, judge_children
from hearthring.client.sampler import Sampling, choose, distribution
from hearthring.protocol.errors import BadOption
from hearthring.protocol.tensors import F32


@dataclass(frozen=True, slots=True)
class Place:
    """Where a token is to be chosen: the arguments of ``sampler.choose``.

    ``logits`` ``[vocab]``; ``history`` holds the ids from the prompt down the path to this place;
    ``position`` is the one that the token will take.
    """

    logits: F32
    history: Sequence[int]
    position: int
    sampling: Sampling


class Rule(Protocol):
    """A way to accept drafted tokens that leaves the target's distribution as it is."""

    name: str
    judges_distributions: bool
    """Whether a draft that has a distribution should draw its children by ``offer``."""

    def offer(self, draft: F64, most: int, seed: int, position: int) -> tuple[int, ...]:
        """At most ``most`` children for one place, in the order in which ``judge`` must get them.

        ``draft`` is the draft's distribution there, ``[vocab]``, after its own temperature and
        cut-offs. ``most`` may depend on ``draft``, but no child may be left out once it was seen.
        ``specinfer`` may draw one token twice: both share a row of the ring, and ``judge`` gets
        both.
        """

    def judge(self, place: Place, children: Sequence[int], draft: F64 | None) -> Verdict:
        """The token for a place; ``draft`` is what ``offer`` drew the children from, or None.

        Raises what ``sampler.choose`` and ``rejection.judge_children`` raise.
        """


class GumbelRule:
    """The sampler's own choice; a child is accepted when it is that (Daliri et al., 2024).

    A draft that takes the highest of log q + noise, with the sampler's noise for the position,
    agrees with chance at least (1 − d) / (1 + d), d the total variation distance of p and q.
    """

    name = "gumbel"
    judges_distributions = False

    def offer(self, draft: F64, most: int, seed: int, position: int) -> tuple[int, ...]:
        ids = np.flatnonzero(draft)
        scores = np.log(draft[ids]) + gumbel(seed, position, ids)
        return tuple(int(token) for token in ids[np.argsort(-scores, kind="stable")[:most]])

    def judge(self, place: Place, children: Sequence[int], draft: F64 | None) -> Verdict:
        token = choose(place.logits, place.history, place.position, place.sampling)
        return Verdict(token, children.index(token) if token in children else -1)


class RejectionRule:
    """Drawn children, accepted or refused one after the other (``client/rejection.py``)."""

    judges_distributions = True

    def __init__(self, name: str, draws: Draws, widest: int) -> None:
        self.name, self._draws, self._widest = name, draws, widest

    def offer(self, draft: F64, most: int, seed: int, position: int) -> tuple[int, ...]:
        chance = Drawn(seed, position, DRAFTING)
        return draw_children(draft, min(most, self._widest), self._draws, chance)

    def judge(self, place: Place, children: Sequence[int], draft: F64 | None) -> Verdict:
        target = distribution(place.logits, place.history, place.sampling)
        seed = place.sampling.seed
        if seed is None:
            if place.sampling.temperature:
                raise BadOption("a temperature above 0 needs one", field="seed")
            seed = 0  # a drafted child may still be tried by chance; the outcome is certain
        chance = Drawn(seed, place.position, JUDGING)
        return judge_children(target, children, draft, self._draws, chance)


WIDEST = 64
"""Children of one place at most, in rules that take several."""

_RULES = (
    GumbelRule(),
    RejectionRule("leviathan", Draws.WITHOUT_REPLACEMENT, 1),
    RejectionRule("specinfer", Draws.WITH_REPLACEMENT, WIDEST),
    RejectionRule("sequoia", Draws.WITHOUT_REPLACEMENT, WIDEST),
)
RULES: Mapping[str, Rule] = {rule.name: rule for rule in _RULES}


def rule_named(name: str) -> Rule:
    """The rule of that name. Raises ``BadOption`` that lists them."""
    if name not in RULES:
        allowed = ", ".join(RULES)
        raise BadOption(f"{name!r} isn't a rule", field="acceptance", mend=f"allowed: {allowed}")
    return RULES[name]


@dataclass(frozen=True, slots=True)
class Offer:
    """What was drawn for a place: ``children`` in the order of drawing, from ``spread``
    ``[vocab]``, as ``Rule.offer`` was given it. ``below`` was drawn for the place that the first
    child leads to.

    All of it is judged, sent or not: so whatever decides what is sent can't change what is chosen.
    """

    children: tuple[int, ...]
    spread: F64
    below: "Offer | None" = None

    def after(self, token: int) -> "Offer | None":
        """What was drawn for the place that a token leads to."""
        return self.below if token == self.children[0] else None


@runtime_checkable
class DrawingDraft(Draft, Protocol):
    """A draft whose children may be drawn, by ``offer`` of the rule it was made for.

    It draws with the seed of its sampling, and at the position that the child will take.
    """

    def offered(self) -> Offer | None:
        """What the last proposal was drawn from, from its root on; None if it wasn't drawn."""
