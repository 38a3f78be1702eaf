"""How long the parts of an answer took."""

import time
from collections.abc import Sequence

import numpy as np

from hearthring.client.answer import Rerouting, Timings
from hearthring.client.generation import Generation
from hearthring.client.pace import Trip


def timings_of(generation: Generation) -> Timings:
    """Figures of an answer so far, in seconds."""
    now, ring = time.monotonic(), generation.ring
    made = generation.made - generation.resumed
    spent = generation.last_token - generation.first_token
    # Another route has other stages: the figures are those of the last one's.
    decoded = [t.result.times for t in generation.trips if len(t.result.times) == len(ring.route)]
    stages = zip(*decoded, strict=True) if decoded else ()
    hops = [(np.mean([t.compute for t in s]), np.mean([t.queue for t in s])) for s in stages]
    return Timings(
        first_token_s=(generation.first_token or now) - generation.begun,
        decode_tokens_per_s=(made - 1) / spent if made > 1 and spent > 0 else 0.0,
        prefill_s=(generation.first_token or now) - generation.prefill_begun,
        total_s=now - generation.begun,
        stage_compute_s=tuple(float(compute) for compute, _ in hops),
        stage_queue_s=tuple(float(queue) for _, queue in hops),
        hop_s=_hop_seconds(generation.trips),
        reroutes=tuple(
            Rerouting(m.lost, m.reason, m.at - generation.begun, m.seconds, m.changed)
            for m in ring.mended
        ),
    )


def _hop_seconds(trips: Sequence[Trip]) -> float:
    """What a hop takes beyond the stages' computing, the client's two included, at the median."""
    extra = [
        (trip.seconds - sum(t.compute for t in trip.result.times)) / (len(trip.result.times) + 1)
        for trip in trips
        if trip.alone
    ]
    return float(np.median(extra)) if extra else 0.0
