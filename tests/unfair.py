"""Wrong rules and drafts: ways to lose the target's distribution, which tests must notice.

The first two are the classic ones: tokens that were chosen are judged as drawn ones, and what was
drawn without replacement isn't scaled anew.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from unittest.mock import patch

import numpy as np

from hearthring.client.acceptance import RULES, Offer, Place, RejectionRule
from hearthring.client.chance import DRAFTING, Drawn
from hearthring.client.draft_model import ModelDraft
from hearthring.client.philox import F64
from hearthring.client.rejection import Draws, Verdict, judge_children
from hearthring.client.sampler import distribution

UNLIKELY = 0.12
"""Chance of a guess below which ``Dropping`` does as if it had never been drawn."""


class Likeliest(RejectionRule):
    """Takes the likeliest tokens, and judges them as if they had been drawn."""

    def offer(self, draft: F64, most: int, seed: int, position: int) -> tuple[int, ...]:
        return tuple(int(token) for token in np.argsort(-draft)[: min(most, self._widest)])


class Unscaled(RejectionRule):
    """Draws without replacement, and judges the next ones by the whole distribution."""

    def judge(self, place: Place, children: Sequence[int], draft: F64 | None) -> Verdict:
        other = RejectionRule(self.name, Draws.WITH_REPLACEMENT, self._widest)
        return other.judge(place, children, draft)


class OneChance(RejectionRule):
    """Judges by the very draws by which it drew."""

    def judge(self, place: Place, children: Sequence[int], draft: F64 | None) -> Verdict:
        target = distribution(place.logits, place.history, place.sampling)
        chance = Drawn(place.sampling.seed or 0, place.position, DRAFTING)
        return judge_children(target, children, draft, self._draws, chance)


class Dropping(ModelDraft):
    """Forgets drawn tokens that turned out to be unlikely ones."""

    def offered(self) -> Offer | None:
        return _dropped(super().offered())


def _dropped(offer: Offer | None) -> Offer | None:
    if offer is None:
        return None
    left = tuple(token for token in offer.children if offer.spread[token] >= UNLIKELY)
    if not left:
        return None
    first = left[0] == offer.children[0]
    return Offer(left, offer.spread, _dropped(offer.below) if first else None)


FAULTS: Mapping[str, type[RejectionRule]] = {
    "likeliest": Likeliest,
    "unscaled": Unscaled,
    "one chance": OneChance,
    "dropping": RejectionRule,
}


@contextmanager
def faulty(rule: str, fault: str) -> Iterator[None]:
    """The rule of that name has this fault."""
    honest = RULES[rule]
    assert isinstance(honest, RejectionRule)
    wrong = FAULTS[fault](honest.name, honest._draws, honest._widest)
    with patch.dict(RULES, {rule: wrong}):  # type: ignore[arg-type]
        yield
