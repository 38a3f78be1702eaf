"""What a node's past is worth: evidence for and against it, of which time takes its share. Pure.

A node's standing is the mean of a Beta distribution over "it does what it says": one for and one
against to begin with, so a newcomer stands at a half, and whatever audits have shown since, each
with a weight and a half-life. Good behaviour is cheap to show and saturates; being caught is worth
many times an honest answer, so nobody saves up for a lie that pays.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hearthring.verify.verdict import Outcome, Strength, Verdict

if TYPE_CHECKING:
    from hearthring.verify.proof import Proof

HALF_LIFE = 30 * 86_400.0
"""Seconds after which evidence counts half."""
MOST_GOOD = 20.0
"""Good evidence counts no more than this, however much there is."""
CONVICTED = {Strength.BITS: 100.0, Strength.TOLERANCE: 8.0, Strength.NONE: 30.0}
"""Weight of being found guilty: by other bits, beyond a tolerance, by contradicting signatures."""
ACCEPTED = {Strength.BITS: 1.0, Strength.TOLERANCE: 0.3, Strength.NONE: 0.0}
WITHHELD, DISSENTED = 2.0, 4.0
CLEARED = 10.0
"""What an acceptance by bits clears a node of: withholding, and a conviction within tolerance."""
OUT, TRUSTED = 0.25, 0.9
"""Means below which a node is used for nothing, and from which it counts in full."""
OWN = "own"


@dataclass(frozen=True, slots=True)
class Evidence:
    """What one event says of one node: ``good`` and ``bad`` are weights, ``at`` wall-clock seconds.

    ``about`` names the event, so that it counts once: the session it happened in.
    ``source`` is ``OWN``, or the id of whoever's export it came with.
    """

    node: str
    good: float
    bad: float
    at: float
    about: str
    why: str = ""
    source: str = OWN


@dataclass(frozen=True, slots=True)
class Standing:
    """Evidence for and against a node, decayed to one moment."""

    good: float = 0.0
    bad: float = 0.0

    @property
    def mean(self) -> float:
        """Expected honesty, 0 to 1; 0.5 for a newcomer."""
        good = 1.0 + min(self.good, MOST_GOOD)
        return good / (good + 1.0 + self.bad)

    @property
    def weight(self) -> float:
        """What it counts for in routes: 1 in full, 0.5 as if twice as slow, 0 never."""
        return 0.0 if self.mean < OUT else min(1.0, self.mean / TRUSTED)

    def check_rate(self, rate: float) -> float:
        """How often to check it where a proven node is checked at ``rate``: newcomers twice as
        often, those with a bad past up to three times."""
        return min(1.0, rate * (1.0 + 2.0 * (1.0 - min(1.0, self.mean / TRUSTED))))


def standings(evidence: Iterable[Evidence], now: float) -> dict[str, Standing]:
    """Nodes' standings at a moment. Evidence from the future counts as if it were new."""
    sums: dict[str, tuple[float, float]] = {}
    for item in evidence:
        share = 0.5 ** (max(0.0, now - item.at) / HALF_LIFE)
        good, bad = sums.get(item.node, (0.0, 0.0))
        sums[item.node] = good + item.good * share, bad + item.bad * share
    return {node: Standing(good, bad) for node, (good, bad) in sums.items()}


def live_lesson(
    session: bytes, node: str, verdict: Verdict | None, why: str, now: float
) -> Evidence:
    """What a spot check says of a node: as much as an audit's verdict, good or bad.

    ``verdict`` is the one over this node. Where it failed and nothing convicts it, it withheld
    something. One that is inconclusive says nothing: both weights are 0.
    """
    about = f"{session.hex()}/live"
    if verdict is None or verdict.outcome is Outcome.REJECTED:
        convicted = verdict is not None and any(guilty.node == node for guilty in verdict.guilty)
        shown = verdict.strength if verdict is not None and convicted else Strength.NONE
        weight = WITHHELD if shown is Strength.NONE else CONVICTED[shown]
        return Evidence(node, 0.0, weight, now, about, why)
    good = ACCEPTED[verdict.strength] if verdict.outcome is Outcome.ACCEPTED else 0.0
    return Evidence(node, good, 0.0, now, about, why)


def overrules(evidence: Evidence, bad: float) -> bool:
    """Whether evidence takes the place of what weighs ``bad`` of the same event."""
    return max(evidence.bad, CLEARED * evidence.good) >= bad


def lessons(proof: "Proof", verdict: Verdict, own: bool, now: float) -> list[Evidence]:
    """What a verdict, one's own or a majority's, says of the nodes involved.

    ``own`` tells whether the proof is of one's own answer. Others' proofs show who lies, since
    receipts are signed, but not who is honest: who wants to look good can ask himself. A rejection
    that names nobody says nothing of anybody; of stages before a liar nothing is known either,
    since the audit ended there.
    """
    about = proof.session.hex()
    route = {stage.node for stage in proof.stages}
    found = list[Evidence]()

    def say(node: str, good: float, bad: float, why: str) -> None:
        found.append(Evidence(node, good, bad, now, about, why))

    if verdict.outcome is Outcome.ACCEPTED and own and (good := ACCEPTED[verdict.strength]):
        for node in sorted(route):
            say(node, good, 0.0, f"an answer held ({verdict.strength.value})")
    for guilty in verdict.guilty:
        if verdict.outcome is Outcome.REJECTED and guilty.node in route:
            say(guilty.node, 0.0, CONVICTED[verdict.strength], verdict.reason)
    named = {item.node for item in found}
    for node in verdict.figures.get("withheld", ()):
        if node in route - named:
            say(node, 0.0, WITHHELD, "withheld a receipt or a record")
    for node in verdict.figures.get("dissenters", ()):
        if node not in named:
            say(node, 0.0, DISSENTED, "a verifier that compared bits and was outvoted")
    return found
