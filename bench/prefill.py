"""Does a second stage make a prompt faster? And does a shared prefix?

Run: python -m bench.prefill [--prompt 512] [--delay 5] [--kernels auto] [--rounds 3] [--json FILE]

One stage and two, one thread each; with ``--delay``, every link takes so many milliseconds longer
each way. ``--kernels low`` multiplies prompt rows in 8 bits: slower than float32 on one stage, but
a step costs nothing beside its rows, so that they divide well between stages. Then prompts of 424
tokens that share the first 400 with one asked before.
"""

import argparse
from pathlib import Path
from statistics import median

from bench.nodes import MACHINE, STORY, report, ring
from hearthring import Client

SHARED, QUESTION = 400, 24
"""Tokens that two prompts share, and those behind them."""


def prefill(client: Client, ids: list[int]) -> float:
    """Seconds from the first embedding to the first token."""
    return client.generate(prompt_ids=ids, max_tokens=1, proof=False).timings.prefill_s


def fresh(ids: list[int], round_: int) -> list[int]:
    """The same prompt after a first token of its own: no stage has seen its rows."""
    return [1000 + round_, *ids[1:]]


def main() -> None:
    """Measure, print ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--delay", type=float, default=0.0, help="ms per link and direction")
    parser.add_argument("--engine", default="ggml", choices=("ggml", "torch"))
    parser.add_argument("--kernels", default="auto", choices=("auto", "low", "fast"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    taken, firsts, repeats = dict[int, float](), list[float](), list[float]()
    for stages in (1, 2):
        with (
            ring(
                stages, options.engine, options.delay, flags=("--prompt", options.kernels)
            ) as invite,
            Client([invite], threads=1) as client,
        ):
            ids = client.generate(STORY * 60, max_tokens=2).prompt_ids[: options.prompt]
            rounds = range(options.rounds)
            taken[stages] = median(prefill(client, fresh(ids, n)) for n in rounds)
            if stages == 2:
                for n in rounds:
                    shared = fresh(ids, 100 + n)[:SHARED]
                    firsts.append(prefill(client, [*shared, *ids[:QUESTION]]))
                    repeats.append(prefill(client, [*shared, *ids[QUESTION : 2 * QUESTION]]))
    figures: dict[str, object] = {
        "machine": MACHINE,
        "engine": options.engine,
        "kernels": options.kernels,
        "prompt": options.prompt,
        "delay_ms": options.delay,
        "one_stage_tokens_per_s": round(options.prompt / taken[1], 1),
        "two_stages_tokens_per_s": round(options.prompt / taken[2], 1),
        "prefill_gain": round(taken[1] / taken[2], 2),
        "first_prompt_s": round(median(firsts), 3),
        "shared_prefix_s": round(median(repeats), 3),
        "shared_prefix_ratio": round(median(repeats) / median(firsts), 3),
    }
    report(figures, options.json)


if __name__ == "__main__":
    main()
