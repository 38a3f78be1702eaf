"""Many sessions on one ring: what they make together, and how evenly each one's tokens come.

Run: python -m bench.crowd [--stages 2] [--sessions 16] [--tokens 64] [--engine ggml] [--json FILE]

Every prompt alone, half of them before and half after all run at once, since a machine's speed
changes; every session's tokens must be those of its solo run.
"""

import argparse
import asyncio
import time
from pathlib import Path

import numpy as np

from bench.nodes import MACHINE, STORY, report, ring
from hearthring import AsyncClient


async def ask(client: AsyncClient, prompt: str, tokens: int) -> tuple[list[int], list[float]]:
    """The tokens, and when each came."""
    came, stream = list[float](), client.stream(prompt, max_tokens=tokens, stop=[])
    async for piece in stream:
        if piece.token_id is not None:
            came.append(time.perf_counter())
    return stream.answer.token_ids, came


def rate(times: list[list[float]]) -> float:
    """Tokens per second from the first token of all to the last, the first of each left out."""
    spent = max(t[-1] for t in times) - min(t[0] for t in times)
    return sum(len(t) - 1 for t in times) / spent


async def measure(invite: str, sessions: int, tokens: int) -> dict[str, object]:
    """Solo runs, the crowd, and how they compare."""
    prompts = [f"{n}. {STORY}" for n in range(sessions)]
    async with AsyncClient([invite], threads=1, sharing="none", draft="none") as client:
        await ask(client, prompts[0], 4)
        half = sessions // 2
        alone = [await ask(client, prompt, tokens) for prompt in prompts[:half]]
        crowd = await asyncio.gather(*(ask(client, prompt, tokens) for prompt in prompts))
        alone += [await ask(client, prompt, tokens) for prompt in prompts[half:]]
    one = float(np.median([rate([came]) for _, came in alone]))
    together = rate([came for _, came in crowd])
    gaps = np.concatenate([np.diff(came) for _, came in crowd])
    return {
        "one_session_tokens_per_s": round(one, 2),
        "all_sessions_tokens_per_s": round(together, 2),
        "gain": round(together / one, 2),
        "ms_between_tokens_median": round(float(np.median(gaps)) * 1e3, 1),
        "ms_between_tokens_p99": round(float(np.quantile(gaps, 0.99)) * 1e3, 1),
        "sessions_equal_to_solo": sum(a == b for (a, _), (b, _) in zip(alone, crowd, strict=True)),
    }


def main() -> None:
    """Measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--stages", type=int, default=2)
    parser.add_argument("--sessions", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--engine", default="ggml", choices=("ggml", "torch"))
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with ring(options.stages, options.engine) as invite:
        figures = asyncio.run(measure(invite, options.sessions, options.tokens))
    about = {"machine": MACHINE, "stages": options.stages, "sessions": options.sessions}
    report({**about, "engine": options.engine, **figures}, options.json)


if __name__ == "__main__":
    main()
