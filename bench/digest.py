"""What do proofs cost a stage, besides the signatures: digests and row hashes, per 32-row chunk?

"digest" is the cast to bf16 and the TOPLOC digest, 32 chunks at a time as before a proof is closed;
"hash" is the row hashes and Merkle roots of the same rows as fp16; "check" compares 32 digests with
recomputed states. Medians, one core. "bytes" is what a stage's account of a token takes in a proof.

Run: python -m bench.digest [--chunks 32] [--repeat 9]
"""

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np

from hearthring.protocol.tensors import Residual, bf16_bits, pack
from hearthring.verify.digest import compare_all, digests
from hearthring.verify.rowhash import CHUNK, chunk_roots, row_hashes

WIDTHS = (576, 2048, 4096, 8192)


def timed(work: Callable[[], object], chunks: int, repeat: int) -> float:
    """Median microseconds per chunk."""
    work()
    found = []
    for _ in range(repeat):
        begun = time.perf_counter()
        work()
        found.append(time.perf_counter() - begun)
    return statistics.median(found) / chunks * 1e6


def main() -> None:
    """Measure and print a line per width."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--chunks", type=int, default=32)
    parser.add_argument("--repeat", type=int, default=9)
    options = parser.parse_args()
    chunks = options.chunks
    print(f"{chunks} chunks of {CHUNK} rows, microseconds per chunk")
    for width in WIDTHS:
        digest, hashed, check, length = measure(width, chunks, options.repeat)
        account = (length + 2 * 32) / CHUNK  # a digest, a root in and a root out
        print(
            f"width {width:5d}: digest {digest:6.0f}  hash {hashed:5.0f}  together "
            f"{digest + hashed:6.0f}  check {check:6.0f}  bytes per token and stage {account:.1f}"
        )


def measure(width: int, chunks: int, repeat: int) -> tuple[float, float, float, int]:
    """Microseconds of digests, hashes and checks, and the bytes of a digest."""
    rows = chunks * CHUNK
    states = np.random.default_rng(width).standard_normal((rows, width), np.float32)
    states[:, :8] *= 50  # outlier channels, as real models have them
    wire = pack(states, Residual.FP16)
    parts = [states[at : at + CHUNK] for at in range(0, rows, CHUNK)]
    bits = [bf16_bits(part) for part in parts]

    def hashing() -> object:
        made = row_hashes(b"m" * 32, b"f" * 32, 1, [2] * rows, range(rows), wire, rows)
        return chunk_roots(range(rows), made)

    def digesting() -> list[bytes]:
        return digests([bf16_bits(part) for part in parts])

    made = digesting()

    def checking() -> object:
        return compare_all(made, bits)

    digest, hashed, check = (timed(work, chunks, repeat) for work in (digesting, hashing, checking))
    return digest, hashed, check, len(made[0])


if __name__ == "__main__":
    main()
