"""The same seed gives the same text, whoever serves the layers.

Run: python examples/sampling.py hearthring://HOST:PORT/NODE_ID
"""

import sys

import hearthring


def main(invitation: str, max_tokens: int = 24) -> None:
    """Three answers: two with one seed, one with another."""
    with hearthring.Client(join=[invitation], model="smollm2") as client:
        for seed in (1, 1, 2):
            answer = client.generate(
                "Once upon a time", max_tokens=max_tokens, temperature=0.9, top_p=0.95, seed=seed
            )
            print(f"seed {seed}: {answer.text!r}")


if __name__ == "__main__":
    main(sys.argv[1])
