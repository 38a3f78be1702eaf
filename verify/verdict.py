"""What an audit says."""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class Outcome(StrEnum):
    """Accepted, rejected, or not decidable with what there is."""

    ACCEPTED = "accepted"
    REJECTED = "rejected"
    INCONCLUSIVE = "inconclusive"

    @property
    def exit_code(self) -> int:
        """Of ``hearthring audit``."""
        return {"accepted": 0, "rejected": 1, "inconclusive": 2}[self.value]


class Strength(StrEnum):
    """What the verdict rests on: equal bits, a calibrated tolerance, or no replay at all."""

    BITS = "bits"
    TOLERANCE = "tolerance"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Guilty:
    """A stage that contradicts the replay, or itself."""

    node: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Verdict:
    """The outcome, who is to blame if that is certain, and the figures it rests on."""

    outcome: Outcome
    reason: str
    guilty: tuple[Guilty, ...] = ()
    strength: Strength = Strength.NONE
    figures: dict[str, Any] = field(default_factory=dict)

    @property
    def verdict(self) -> Outcome:
        """The outcome, by its name in the JSON view."""
        return self.outcome

    def as_json(self) -> dict[str, Any]:
        """The keys of ``hearthring audit --json``."""
        return {
            "verdict": self.outcome.value,
            "guilty": [{"node": g.node, "start": g.start, "end": g.end} for g in self.guilty],
            "strength": self.strength.value,
            "figures": self.figures,
            "reason": self.reason,
        }


def rejected(
    reason: str, *guilty: Guilty, strength: Strength = Strength.NONE, **figures: Any
) -> Verdict:
    """A rejection."""
    return Verdict(Outcome.REJECTED, reason, guilty, strength, figures)


INT8_BETWEEN_CLASSES = (
    "its rows travelled as int8, and how far numerics classes may be apart then isn't known: only "
    "a machine of the route's own class can judge it"
)


def inconclusive(reason: str, **figures: Any) -> Verdict:
    """No verdict either way."""
    return Verdict(Outcome.INCONCLUSIVE, reason, figures=figures)
