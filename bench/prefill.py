"""Does a second stage make a prompt faster? And does a shared prefix?

Run: python -m bench.prefill [--prompt 512] [--delay 5] [--kernels auto] [--rounds 3] [--json FILE]

A ring of one stage and one of two, one thread each, in turn; ratios are medians over the rounds.
With ``--delay``, every link takes so many milliseconds longer each way. ``--kernels low``
multiplies prompt rows in 8 bits: slower than float32 on one stage, but a step costs nothing beside
its rows, so that they divide well between stages. Then prompts of 424 tokens that share the first
400 with one asked before.
"""

import argparse
from contextlib import ExitStack
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
    if options.prompt < SHARED:
        parser.error(f"a prompt has {SHARED} tokens at least")
    taken: list[tuple[float, float]] = []
    firsts, repeats = list[float](), list[float]()
    flags = ("--prompt", options.kernels)
    with ExitStack() as stack:
        one, two = (
            stack.enter_context(Client([stack.enter_context(invite)], threads=1))
            for invite in (ring(n, options.engine, options.delay, flags=flags) for n in (1, 2))
        )
        ids = one.generate(STORY * 60, max_tokens=2).prompt_ids[: options.prompt]
        prefill(two, ids)
        for n in range(options.rounds):
            prompt = fresh(ids, n)
            taken.append((prefill(one, prompt), prefill(two, prompt)))
            shared = fresh(ids, 100 + n)[:SHARED]
            firsts.append(prefill(two, [*shared, *ids[:QUESTION]]))
            repeats.append(prefill(two, [*shared, *ids[QUESTION : 2 * QUESTION]]))
    speeds = [round(options.prompt / median(each), 1) for each in zip(*taken, strict=True)]
    gains = [before / after for before, after in taken]
    shares = [after / before for before, after in zip(firsts, repeats, strict=True)]
    figures: dict[str, object] = {
        "machine": MACHINE,
        "engine": options.engine,
        "kernels": options.kernels,
        "prompt": options.prompt,
        "delay_ms": options.delay,
        "one_stage_tokens_per_s": speeds[0],
        "two_stages_tokens_per_s": speeds[1],
        "prefill_gain": round(median(gains), 2),
        "first_prompt_s": round(median(firsts), 3),
        "shared_prefix_s": round(median(repeats), 3),
        "shared_prefix_ratio": round(median(shares), 3),
    }
    report(figures, options.json)


if __name__ == "__main__":
    main()
