"""Ask a swarm a question, stream the answer, and audit its proof.

Run: python examples/ask.py hearthring://HOST:PORT/NODE_ID
"""

import sys

import hearthring


def main(invitation: str, max_tokens: int = 64) -> None:
    """Ask, stream, audit."""
    with hearthring.Client(join=[invitation], model="smollm2") as client:
        messages = [{"role": "user", "content": "Why is the sky blue?"}]
        stream = client.stream(messages=messages, max_tokens=max_tokens)
        for piece in stream:
            print(piece.text, end="", flush=True)
        verdict = client.audit(stream.answer.proof)
        print(f"\n{verdict.outcome.value}: {verdict.reason}")


if __name__ == "__main__":
    main(sys.argv[1])
