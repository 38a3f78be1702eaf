"""What does a signature cost when an engine has just emptied the processor's caches, by library?

Run: python -m bench.signatures [--rounds 200] [--megabytes 8] [--json FILE]

Between two calls so many megabytes are read, as an engine reads its weights; "warm" is the third of
three calls in a row. Medians, in microseconds, of one thread; libsodium only where there is one.
"""

import argparse
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from bench.nodes import MACHINE, report
from hearthring.protocol import ed25519

MESSAGE = bytes(range(32))


def calls() -> dict[str, Callable[[], object]]:
    """Signing and checking, by both libraries."""
    key = Ed25519PrivateKey.generate()
    holder, signature = key.public_key(), key.sign(MESSAGE)
    found: dict[str, Callable[[], object]] = {
        "OpenSSL signs": partial(key.sign, MESSAGE),
        "OpenSSL checks": partial(holder.verify, signature, MESSAGE),
    }
    if ed25519.sodium is not None:
        about = holder, holder.public_bytes_raw(), MESSAGE, signature
        found["libsodium signs"] = partial(ed25519.signer(key), MESSAGE)
        found["libsodium checks"] = partial(ed25519.verify, *about)
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--megabytes", type=int, default=8)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    weights = np.arange(options.megabytes << 17)
    ways, figures = calls(), dict[str, list[float]]()
    for _ in range(options.rounds):
        for name, call in ways.items():
            np.bitwise_xor.reduce(weights)
            figures.setdefault(f"{name}, cold", []).append(timed(call))
            call()
            figures.setdefault(f"{name}, warm", []).append(timed(call))
    table = {name: round(median(spent), 1) for name, spent in figures.items()}
    report({"machine": MACHINE, "megabytes": options.megabytes} | table, options.json)


def timed(call: Callable[[], object]) -> float:
    """Microseconds that a call takes."""
    begun = time.perf_counter()
    call()
    return (time.perf_counter() - begun) * 1e6


if __name__ == "__main__":
    main()
