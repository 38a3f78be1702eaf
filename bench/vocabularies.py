"""How many tokens a trip does a draft of another vocabulary bring, and is the text the same?

Run: python -m bench.vocabularies TARGET DRAFT [--tokens 32] [--guesses 4] [--temperatures 0 0.8]
                                  [--json FILE]

A ring of two nodes in this process, on the loopback transport's twin, with the ``TARGET`` (a file
or a name); the ``DRAFT`` is a model of another vocabulary at the client. Every prompt is answered
plainly, by ``model:DRAFT`` (through text, SLEM) and by ``tli:DRAFT`` (shared tokens), with so many
guesses a step. Tokens that differ from the plain ones end the run. Times are left out: the whole
ring shares this computer's processors with the draft.
"""

import argparse
import asyncio
import json
from pathlib import Path
from typing import Any

from hearthring.client.pace import Fixed
from hearthring.shards.store import ModelStore
from tests.memory_ring import memory_swarm

PROMPTS = {
    "prose": "The sun rises in the east and sets in the",
    "facts": "The capital of France is Paris. The capital of Italy is",
    "code": "def add(a, b):\n    return a + b\n\ndef multiply(a, b):\n",
    "list": "Days of the week: Monday, Tuesday,",
}


async def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Tokens a trip, by prompt, temperature and way."""
    entry = ModelStore().find(options.target)
    layers, found = entry.manifest.shape.layers, dict[str, Any]()
    async with memory_swarm(entry, ()) as swarm:
        for window in ((0, layers // 2), (layers // 2, layers)):
            await swarm.node(window, entry.manifest.residual, engine="auto")
        client = swarm.client()
        client.answering.lessons = None
        client.answering.pace = lambda: Fixed(options.guesses)
        for name, prompt in PROMPTS.items():
            for temperature in options.temperatures:
                asked = {"max_tokens": options.tokens, "temperature": temperature, "seed": 1}
                plain = await client.generate(prompt, draft="none", proof=False, **asked)
                for way in (f"model:{options.draft}", f"tli:{options.draft}"):
                    answer = await client.generate(prompt, draft=way, proof=False, **asked)
                    if answer.token_ids != plain.token_ids:
                        raise SystemExit(f"{name}, {way}: other tokens than without guesses")
                    guessing = answer.guessing
                    said = f"{guessing.hits} of {guessing.guesses} guesses"
                    print(
                        f"{name:<6} T={temperature:<4g}{guessing.draft:<44}"
                        f"{guessing.tokens_per_trip:5.2f} tokens a trip, {said}",
                        flush=True,
                    )
                    found[f"{name} T={temperature:g} {way.partition(':')[0]}"] = {
                        "tokens_per_trip": round(guessing.tokens_per_trip, 3),
                        "hits": guessing.hits,
                        "guesses": guessing.guesses,
                    }
    return found


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("target")
    parser.add_argument("draft")
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--guesses", type=int, default=4)
    parser.add_argument("--temperatures", type=float, nargs="+", default=[0.0, 0.8])
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    found = asyncio.run(measure(options))
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
