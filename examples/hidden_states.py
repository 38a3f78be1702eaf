"""Read hidden states of a model that no single machine needs to hold.

Run: python examples/hidden_states.py hearthring://HOST:PORT/NODE_ID
"""

import asyncio
import sys

import numpy as np

import hearthring


async def main(invitation: str) -> None:
    """How similar two words are, layer by layer."""
    async with hearthring.AsyncClient(join=[invitation], model="smollm2") as client:
        layers = [0, 10, 20, 30]
        one = await client.hidden_states("The cat sat on the mat", layers=layers)
        two = await client.hidden_states("The dog lay on the rug", layers=layers)
    for layer in layers:
        a, b = one[layer][-1], two[layer][-1]
        similar = float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))
        print(f"after layer {layer:2}: cosine {similar:.3f}")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
