"""A client that remembers answers needs fewer trips round the ring for one that reads alike.

Run: python examples/remember.py hearthring://HOST:PORT/NODE_ID
"""

import sys

import hearthring


def main(invitation: str, max_tokens: int = 24) -> None:
    """The same question twice; what is remembered is forgotten with `hearthring draft forget`."""
    with hearthring.Client(join=[invitation], model="smollm2", remember=True) as client:
        for turn in ("first", "second"):
            answer = client.generate("The capital of France is", max_tokens=max_tokens)
            guessing = answer.guessing
            print(f"{turn}: {guessing.tokens} tokens in {guessing.trips} trips {answer.text!r}")


if __name__ == "__main__":
    main(sys.argv[1])
