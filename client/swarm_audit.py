"""Auditing through the swarm: independent verifiers, drawn by the proof's beacon, and their vote.

The life of an audit: contradictions are settled here, by signatures alone. Else verifiers are
drawn and asked for the whole proof; who doesn't answer or can't say is followed by the next; a
split draws two more. When a majority rejects but can name nobody, because it compared within a
tolerance, the stages are judged one by one from their recorded inputs.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from hearthring.client import depths
from hearthring.client.asking_verifiers import ask_verdict, why
from hearthring.protocol.errors import HearthringError
from hearthring.protocol.messages import SignedVerdict
from hearthring.protocol.records import NodeRecord
from hearthring.protocol.transport import Transport
from hearthring.protocol.verifying import Opener, VerifyQuery
from hearthring.verify.beacon import beacon
from hearthring.verify.candidates import Candidate, owners
from hearthring.verify.consistency import bodies_of, contradiction
from hearthring.verify.grants import grant
from hearthring.verify.jury import jury_of
from hearthring.verify.proof import Proof
from hearthring.verify.signed_verdict import WHOLE, VerdictBody
from hearthring.verify.verdict import Outcome, Strength, Verdict, inconclusive
from hearthring.verify.vote import MOST_SEATS, Count, vote

Progress = Callable[[str, int, int], None]


@dataclass(slots=True)
class Heard:
    """What the verifiers asked about one question have said, in the order drawn."""

    verdicts: list[tuple[SignedVerdict, VerdictBody]] = field(default_factory=list)
    silent: dict[str, str] = field(default_factory=dict)
    """Why others said nothing, by node."""


class SwarmAudit:
    """One proof before verifiers of the swarm.

    ``records`` are the nodes that can be reached now, ``layers`` the model's number of them;
    ``verifiers`` is how many shall agree, an odd number. ``depth``: ``whole`` replays the answer
    from its tokens on; ``stage`` replays each stage from what it was sent, which a verifier with
    that stage's layers alone can do. Raises ``BadOption`` for others.
    """

    def __init__(
        self,
        transport: Transport,
        records: Sequence[NodeRecord],
        proof: Proof,
        layers: int,
        verifiers: int = 3,
        progress: Progress = lambda *_: None,
        depth: str = depths.WHOLE,
    ) -> None:
        depths.check_depth(depth, verifiers, swarm=True)
        self._transport, self._proof, self._layers = transport, proof, layers
        self._by_stages = depth == depths.STAGE or proof.is_hidden
        self._seats, self._progress = verifiers, progress
        self._addresses = {r.node: r.addresses[0] for r in records if r.addresses}
        bodies = [body for body in bodies_of(proof) if body is not None]
        self._jury = jury_of(proof, bodies[0].fingerprint if bodies else "")
        self._owner = owners(proof.candidates)
        self.heard: dict[int, Heard] = {}
        """By place of the stage asked about, ``WHOLE`` for the proof as a whole."""

    async def run(self) -> Verdict:
        """The verdict. Never raises for what peers do."""
        if verdict := contradiction(self._proof, self._layers):
            return verdict
        if len(self._jury) < self._seats:
            return inconclusive(
                f"{len(self._jury)} independent verifiers are known, {self._seats} were asked for",
                eligible=len(self._jury),
                asked=self._seats,
            )
        if self._by_stages:
            return await self._judge_stages()
        count = await self._decide(WHOLE)
        if count.outcome is Outcome.REJECTED and not count.guilty:
            count = await self._locate(count)
        return self._verdict(count)

    async def _judge_stages(self) -> Verdict:
        """Every stage by its recorded input. Of a hidden text the first one's can't be had."""
        self.heard[WHOLE] = Heard()
        places = range(self._proof.is_hidden, len(self._proof.stages))
        counts = list[Count]()
        for place in places:
            counts.append(await self._decide(place))
            if counts[-1].outcome is Outcome.REJECTED:
                return self._verdict(counts[-1])
        undecided = [p for p, c in zip(places, counts, strict=True) if c.outcome is None]
        figures = self._figures(counts[-1] if counts else Count(None))
        if undecided:
            named = ", ".join(str(place + 1) for place in undecided)
            return inconclusive(f"the verifiers can't say of stage {named}", **figures)
        if self._proof.is_hidden:
            reason = "the text is hidden: its tokens and the first stage can't be judged"
            return inconclusive(reason, **figures)
        strength = min((count.strength for count in counts), key=list(Strength).index)
        how = "independent verifiers agree on every stage by its recorded input; not on the tokens"
        return Verdict(Outcome.ACCEPTED, how, (), strength, figures)

    async def _locate(self, count: Count) -> Count:
        """The first stage that a majority finds guilty of its own recorded input."""
        for place in range(len(self._proof.stages)):
            self._progress("judging stages one by one", place, len(self._proof.stages))
            stage = await self._decide(place)
            if stage.outcome is Outcome.REJECTED and stage.guilty:
                return stage
        return count

    async def _decide(self, place: int) -> Count:
        """Ask until the vote is decided, or nobody is left to ask."""
        heard = self.heard.setdefault(place, Heard())
        waiting, seats = list(self._jury), self._seats
        count = self._count(heard, seats)
        while count.outcome is None and waiting:
            if count.seated == seats:
                seats += 2
                if seats > MOST_SEATS:
                    break
            chosen, waiting = waiting[: count.wanted], waiting[count.wanted :]
            what = "verifiers at work" if place == WHOLE else f"verifiers at stage {place + 1}"
            self._progress(what, len(heard.verdicts), seats)
            await asyncio.gather(*(self._ask(one, place, heard) for one in chosen))
            order = [one.node for one in self._jury]
            heard.verdicts.sort(key=lambda said: order.index(said[1].verifier))
            count = self._count(heard, seats)
        return count

    def _count(self, heard: Heard, seats: int) -> Count:
        ballots = [body.ballot(self._owner[body.verifier]) for _, body in heard.verdicts]
        return vote(ballots, seats)

    async def _ask(self, one: Candidate, place: int, heard: Heard) -> None:
        address = self._addresses.get(one.node)
        if address is None:
            heard.silent[one.node] = "not in the directory now"
            return
        query = VerifyQuery(self._proof.file, place, self._openers(one.node, place))
        try:
            said = await ask_verdict(self._transport, address, one.node, self._proof, query)
            heard.verdicts.append(said)
        except HearthringError as error:
            heard.silent[one.node] = why(error)

    def _openers(self, verifier: str, place: int) -> tuple[Opener, ...]:
        """The stages whose records a verifier needs for a stage, and may have from this client."""
        who, proof = self._transport.identity, self._proof
        if place == WHOLE or who.node_id != proof.client:
            return ()
        nodes = [proof.stages[p].node for p in (place - 1, place) if p >= 0]
        return tuple(
            Opener(node, self._addresses.get(node, ""), grant(who, proof.session, node, verifier))
            for node in nodes
        )

    # -- what is said --------------------------------------------------------------------------

    def _verdict(self, count: Count) -> Verdict:
        figures = self._figures(count)
        said = [body for heard in self.heard.values() for _, body in heard.verdicts]
        if count.outcome is None:
            answered = len(said)
            reason = (
                f"{answered} verifiers answered, {self._seats} were asked for"
                if answered < self._seats
                else f"the verifiers disagree: {count.accepting} accept, {count.rejecting} reject, "
                f"{count.abstaining} can't say"
            )
            return inconclusive(reason, **figures)
        agreeing = next(b for b in said[::-1] if b.outcome is count.outcome)
        voices = f"{max(count.accepting, count.rejecting)} independent verifiers"
        reason = f"{voices} agree: {agreeing.reason}"
        if count.outcome is Outcome.REJECTED and not count.guilty:
            reason += "; they can't say with certainty who is to blame"
        return Verdict(count.outcome, reason, count.guilty, count.strength, figures)

    def _figures(self, count: Count) -> dict[str, Any]:
        heard = self.heard.values()
        return {
            "asked": self._seats,
            "eligible": len(self._jury),
            "accepting": count.accepting,
            "rejecting": count.rejecting,
            "abstaining": count.abstaining,
            "beacon": beacon(self._proof).hex(),
            "verifiers": [body.as_json() for h in heard for _, body in h.verdicts],
            "silent": {node: reason for h in heard for node, reason in h.silent.items()},
            "dissenters": list(count.dissenters),
            "withheld": sorted({n for h in heard for _, b in h.verdicts for n in b.withheld}),
        }
