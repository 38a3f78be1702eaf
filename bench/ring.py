"""How fast is a loopback ring, beside the same engine in one process, and beside Petals?

Run: python -m bench.ring [--stages 4] [--engine ggml] [--tokens 64] [--rounds 3] [--bare]
                          [--json FILE]

Rounds of ring and single process alternate, one thread per process. A hop's cost is what a step
round the ring takes beyond its stages' engines, over the number of hops (the client's two
included), at the median step. With ``--bare`` rings of the same engines that do nothing but pass
rows on (``bench/bare.py``), over TLS and over plain sockets, take turns with them: what those reach
bounds what ours can reach on the machine. Petals' 4.7 to 6.8 tokens/s were measured with the same
model in fp32 over two servers of 15 layers on two cores like these; Petals no longer installs, so
that figure stands here and isn't measured again.
"""

import argparse
from contextlib import ExitStack
from pathlib import Path
from statistics import median

from bench.bare import bare_ring
from bench.nodes import MACHINE, STORY, Single, report, ring
from hearthring import Client

PETALS = (4.7, 6.8)


def main() -> None:
    """Measure, print ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--stages", type=int, default=4)
    parser.add_argument("--engine", default="ggml", choices=("ggml", "torch"))
    parser.add_argument("--prompt", type=int, default=64, help="prompt tokens")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--bare", action="store_true", help="beside rings that only pass rows on")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    single = Single(options.engine)
    steps, prefills, hops, alone = list[float](), list[float](), list[float](), list[float]()
    alone_prefills, engines, stage_engines, queues = (list[float]() for _ in range(4))
    bares: dict[str, list[float]] = {"bare_tls": [], "bare_plain": []} if options.bare else {}
    with (
        ExitStack() as stack,
        ring(options.stages, options.engine) as invite,
        Client([invite], threads=1, sharing="none", draft="none") as client,
    ):
        passing = {
            name: stack.enter_context(bare_ring(options.stages, single.ends, name == "bare_tls"))
            for name in bares
        }
        ids = client.generate(STORY * 60, max_tokens=2).prompt_ids[: options.prompt]
        for _ in range(options.rounds):
            times = client.generate(prompt_ids=ids, max_tokens=options.tokens).timings
            steps.append(1 / times.decode_tokens_per_s)
            prefills.append(times.prefill_s)
            hops.append(times.hop_s)
            stage_engines.append(sum(times.stage_compute_s))
            queues.append(sum(times.stage_queue_s))
            prefill, step, inside = single.decode(ids, options.tokens)
            alone.append(step)
            engines.append(inside)
            alone_prefills.append(prefill)
            for name, bare in passing.items():
                bares[name].append(bare.decode(ids, options.tokens))
    decode = 1 / median(steps)
    figures: dict[str, object] = {
        "machine": MACHINE,
        "engine": options.engine,
        "stages": options.stages,
        "ring_decode_tokens_per_s": round(decode, 2),
        "single_decode_tokens_per_s": round(1 / median(alone), 2),
        "decode_ratio": round(median(alone) / median(steps), 3),
        "hop_ms_median": round(median(hops) * 1e3, 3),
        "step_ms": round(median(steps) * 1e3, 2),
        "stages_engine_ms": round(median(stage_engines) * 1e3, 2),
        "stages_queue_ms": round(median(queues) * 1e3, 2),
        "single_step_ms": round(median(alone) * 1e3, 2),
        "single_engine_ms": round(median(engines) * 1e3, 2),
        "ring_prefill_tokens_per_s": round(len(ids) / median(prefills), 1),
        "single_prefill_tokens_per_s": round(len(ids) / median(alone_prefills), 1),
        "prefill_ratio": round(median(alone_prefills) / median(prefills), 3),
        "decode_over_petals_best": round(decode / PETALS[1], 2),
    }
    for name, taken in bares.items():
        figures[f"{name}_step_ms"] = round(median(taken) * 1e3, 2)
        figures[f"{name}_decode_ratio"] = round(median(alone) / median(taken), 3)
    report(figures, options.json)


if __name__ == "__main__":
    main()
