"""Seeded faults: when each strikes, whom, and how. Pure."""

import random
from dataclasses import dataclass
from enum import StrEnum


class Phase(StrEnum):
    """When a fault strikes."""

    PREFILL = "prefill"
    DECODE = "decode"
    HAND_OVER = "hand-over"


@dataclass(frozen=True, slots=True)
class Fault:
    """``when`` is 0 to 1: of the prefill's time, of the tokens, or of a second."""

    phase: Phase
    when: float
    victim: float
    seconds: float
    one_way: bool


def draw_faults(number: int, seed: int, seconds: tuple[float, float]) -> list[Fault]:
    """The campaign's faults: the phases in turn, everything else uniform."""
    draw = random.Random(seed)
    phases = list(Phase)
    return [
        Fault(
            phases[n % len(phases)],
            draw.random(),
            draw.random(),
            draw.uniform(*seconds),
            draw.random() < 0.5,
        )
        for n in range(number)
    ]
