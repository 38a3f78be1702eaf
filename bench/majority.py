"""How often does a majority of verifiers accuse the honest, or let a liar pass?

First real answers: rings of three stages, honest and with one liar, each proof judged by a replay
of the route's numerics class (bits) and by one of another (tolerance). Then juries are drawn out of
those verdicts: of every pool some verifiers lie, all in one plot (they slander the same stage of an
honest answer, and praise a liar's), and some are of the other class. The vote is the one that
audits take, splits and further draws included: verifiers of the route's class are drawn before all
others. Beside it: what independent errors would give, and the figures of a paper on majorities.

Run: python -m bench.majority [--model tiny] [--answers 4] [--draws 20000] [--seed 1]
     [--json FILE]
"""

import argparse
import asyncio
import json
import tempfile
from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from math import comb
from pathlib import Path

import numpy as np

from hearthring.client.auditing import audit_offline
from hearthring.client.calibrations import calibration_of
from hearthring.client.replay import EngineReplayer
from hearthring.protocol.tensors import Residual
from hearthring.shards.store import ModelEntry, ModelStore
from hearthring.verify.audit import audit
from hearthring.verify.proof import Proof
from hearthring.verify.verdict import Guilty, Outcome, Strength, Verdict
from hearthring.verify.vote import MOST_SEATS, Ballot, vote
from tests.liar import hooks_for
from tests.memory_ring import memory_swarm
from tests.tiny import write_tiny_gguf

FAULTS = ("noise:0.05", "skip-layer", "flip-sign", "other-weights:4", "scale:1.02", "replay")
POOL = 31
LYING = (0.0, 0.05, 0.1, 0.2, 0.3)
OTHERS = (0.0, 0.5, 1.0)
PAPER = (
    'cited of "Generative AI Consensus in a Trustless Network": 99.89 % and 0.0267 %. Its setting '
    "could not be\nlooked up, so these stand beside ours without being compared with them."
)


@dataclass(frozen=True, slots=True)
class Case:
    """One answer, and what honest verifiers of both classes say of it."""

    fault: str
    slandered: Guilty
    bits: Verdict
    tolerance: Verdict


async def answer(entry: ModelEntry, fault: str, place: int, seed: int) -> Proof:
    """The proof of one answer, ``fault`` at one of three stages."""
    layers = entry.manifest.shape.layers
    cuts = (0, layers // 3, 2 * layers // 3, layers)
    hooks = {place: hooks_for(fault, list(pairwise(cuts))[place])} if fault else None
    random = np.random.default_rng(seed)
    prompt = [int(i) for i in random.integers(5, 250, 40)]
    async with memory_swarm(entry, cuts, Residual.FP16, hooks=hooks) as swarm:
        return (await swarm.client().generate(prompt_ids=prompt, max_tokens=24)).proof


def judged(entry: ModelEntry, fault: str, place: int, seed: int) -> Case:
    """One answer with both classes' verdicts."""
    proof = asyncio.run(answer(entry, fault, place, seed))
    other = EngineReplayer(entry.open(), Residual.FP16, 1, "ggml")
    first = proof.stages[(place + 1) % 3]
    slandered = Guilty(first.node, first.start, first.end)
    layers = entry.manifest.shape.layers
    elsewhere = audit(proof, layers, other, calibration=calibration_of(entry.model_id))
    return Case(fault, slandered, audit_offline(proof, 1), elsewhere)


def ballot(number: int, verdict: Verdict) -> Ballot:
    """A verifier's vote; each has an owner of its own."""
    name = f"v{number}"
    return Ballot(name, name, verdict.outcome, verdict.strength, frozenset(verdict.guilty))


def decide(
    case: Case, seats: int, lying: float, others: float, random: np.random.Generator
) -> Outcome | None:
    """What a jury says of a case; None if it stays split."""
    liars, elsewhere = random.random(POOL) < lying, random.random(POOL) < others
    # Verifiers of the route's class are drawn first.
    order = sorted(range(POOL), key=lambda n: bool(elsewhere[n]))
    lie = (
        Verdict(Outcome.ACCEPTED, "", (), Strength.BITS)
        if case.fault
        else Verdict(Outcome.REJECTED, "", (case.slandered,), Strength.BITS)
    )
    said = list[Ballot]()
    count = vote(said, seats)
    while count.outcome is None and order:
        if count.seated == seats:
            seats += 2
            if seats > MOST_SEATS:
                return None
        for _ in range(min(count.wanted, len(order))):
            n = order.pop(0)
            honest = case.tolerance if elsewhere[n] else case.bits
            said.append(ballot(n, lie if liars[n] else honest))
        count = vote(said, seats)
    return count.outcome


def formula(seats: int, error: float) -> float:
    """More than half of so many independent verifiers err."""
    wrong = range(seats // 2 + 1, seats + 1)
    return sum(comb(seats, n) * error**n * (1 - error) ** (seats - n) for n in wrong)


def main() -> None:
    """Judge answers, draw juries, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="tiny", help="or one that hearthring knows: smollm2")
    parser.add_argument("--answers", type=int, default=4, help="of each kind")
    parser.add_argument("--draws", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path)
    wish = parser.parse_args()
    random = np.random.default_rng(wish.seed)
    with tempfile.TemporaryDirectory() as folder:
        if wish.model == "tiny":
            path = write_tiny_gguf(Path(folder) / "tiny.gguf", layers=6, quant="Q4_1")
            entry = ModelStore(Path(folder) / "models").find(str(path))
        else:
            entry = ModelStore().find(wish.model)
        cases = [
            judged(entry, fault, n % 3, wish.seed + n)
            for fault in ("", *FAULTS)
            for n in range(wish.answers * (len(FAULTS) if not fault else 1))
        ]
    honest, liars = [c for c in cases if not c.fault], [c for c in cases if c.fault]
    print(f"{entry.name}: {len(honest)} honest answers, {len(liars)} with a liar")
    for name in ("bits", "tolerance"):
        said = Counter((c.fault or "honest", getattr(c, name).outcome.value) for c in cases)
        print(f"  one honest verifier, {name}: {dict(said)}")
    print("\nlying  other class  seats  false accusations  (formula)      misses  split")
    rows = []
    for others in OTHERS:
        for lying in LYING:
            for seats in (1, 3, 5):
                wrong = Counter[str]()
                for draw in range(wish.draws):
                    good, bad = honest[draw % len(honest)], liars[draw % len(liars)]
                    said = decide(good, seats, lying, others, random)
                    wrong["accused"] += said is Outcome.REJECTED
                    wrong["split"] += said is None
                    said = decide(bad, seats, lying, others, random)
                    wrong["missed"] += said is Outcome.ACCEPTED
                    wrong["split"] += said is None
                accused, missed = wrong["accused"] / wish.draws, wrong["missed"] / wish.draws
                split = wrong["split"] / wish.draws / 2
                expected = formula(seats, lying)
                rows.append((others, lying, seats, accused, expected, missed, split))
                print(
                    f"{lying:5.0%}  {others:11.0%}  {seats:5}  {accused:17.4%}  {expected:9.4%}  "
                    f"{missed:10.4%}  {split:6.3%}",
                    flush=True,
                )
    print(f"\n{PAPER}")
    subtle = sum(c.tolerance.outcome is Outcome.ACCEPTED for c in liars) / len(liars)
    print(f"of these liars one honest verifier of another class misses {subtle:.0%}")
    if wish.json:
        names = ("others", "lying", "seats", "accused", "formula", "missed", "split")
        wish.json.write_text(json.dumps([dict(zip(names, r, strict=True)) for r in rows], indent=1))


if __name__ == "__main__":
    main()
