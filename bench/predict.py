"""What should guesses have gained in a ring that was measured? Simulated beside measured.

Reads what ``python -m bench.speculation --json FILE`` has written. Stage times, hops and the plain
rate are those of that run; what is left of a plain token's time is the client's. Acceptance is the
dialled one, or for real drafts the one that explains the tokens a trip of ``chain of 4``. For the
controller the best of all simulated ways stands, so its ratio is what a better choice could gain.

Run: python -m bench.predict FILE [--row-share 0.75] [--processors 2] [--tokens 1500]
     ``--row-share``: what a further row of a step takes of the first one's time, if that wasn't
     measured in the same run.
"""

import argparse
import json
import re
from pathlib import Path
from typing import Any

from bench.simulate_ring import CHAINS, FOLLOWING
from bench.simulator import PLAIN, Policy, simulate
from hearthring.client.cost import Hop, Ring
from hearthring.shards.timings import Fit

FROM = "chain of 4"
"""The way whose tokens a trip tell the acceptance."""


def measured_ring(case: dict[str, Any], hop_ms: float, share: float, processors: int) -> Ring:
    """The ring of one case: stages that take ``share`` more with every row."""
    stages = [ms / 1e3 for ms in case["stage_ms"]]
    hop = hop_ms / 1e3
    left = 1 / case["plain_tokens_per_s"] - sum(stages) - hop * (len(stages) + 1)
    return Ring(
        tuple(Fit(stage * (1 - share), stage * share) for stage in stages),
        (Hop(hop),) * (len(stages) + 1),
        ends=Fit(max(0.0, left), 0.0),
        processors=processors,
    )


def policy_named(way: str) -> Policy | None:
    """A way's policy; None for one that chooses itself."""
    if found := re.fullmatch(r"chain of (\d+)", way):
        return Policy(int(found[1]) + 1)
    if found := re.fullmatch(r"(\d+) steps of (\d+)", way):
        return Policy(int(found[2]), int(found[1]), head=int(found[2]) + 1)
    return None


def acceptance_of(name: str, case: dict[str, Any]) -> float:
    """As dialled, or so that a chain of 4 would bring the tokens a trip that it brought."""
    if found := re.fullmatch(r"a=([\d.]+)", name):
        return float(found[1])
    brought = case["ways"][FROM]["tokens_per_trip"]
    low, high = 0.0, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        if sum(middle**depth for depth in range(5)) < brought:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def gain(ring: Ring, acceptance: float, tokens: int, *ways: Policy) -> float:
    """The rate of the best of some ways, in plain rates."""
    plain = simulate(ring, [], PLAIN, 100).rate
    return max(simulate(ring, [acceptance], way, tokens).rate / plain for way in ways)


def main() -> None:
    """One line for each hop, text and way."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", type=Path)
    parser.add_argument("--row-share", type=float, default=0.75)
    parser.add_argument("--processors", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=1500)
    options = parser.parse_args()
    print(
        f"{'hop':>6} {'text':>8} {'accept':>6} {'way':>14} {'measured':>8} {'simulated':>9} ratio"
    )
    for hop, cases in json.loads(options.file.read_text()).items():
        hop_ms = float(hop.split()[0])
        for name, case in cases.items():
            share = case.get("row_share") or options.row_share
            ring = measured_ring(case, hop_ms, share, options.processors)
            acceptance = acceptance_of(name, case)
            best = gain(ring, acceptance, options.tokens, PLAIN, *CHAINS, *FOLLOWING)
            for way, figures in case["ways"].items():
                policy = policy_named(way)
                should = gain(ring, acceptance, options.tokens, policy) if policy else best
                print(
                    f"{hop_ms:6g} {name:>8} {acceptance:6.2f} {way:>14} {figures['ratio']:8.2f} "
                    f"{should:9.2f} {figures['ratio'] / should:5.2f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
