"""What is known of a request before, and soon after, it begins: by which drafts can be foretold."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import log

import numpy as np

from hearthring.client.philox import F64
from hearthring.client.route import Stage

LOOK = 16
"""Tokens of the answer after which ``overlap`` and ``entropy`` are known."""
_NGRAM = 3


@dataclass(frozen=True, slots=True)
class Situation:
    """A request, in numbers that tell nothing of its text.

    ``overlap``: share of the first answer's runs of three tokens that the prompt has too, 0 to 1.
    ``entropy``: mean of the model's distributions there, in nats. Both None until known. ``step``
    and ``row``: seconds of all stages for a step of prompt rows and for each row of it, as they
    announce it; ``hop`` the seconds of a way to the nearest node.
    """

    model: str
    temperature: float
    prompt_tokens: int
    code: bool
    stages: int
    step: float
    row: float
    hop: float
    overlap: float | None = None
    entropy: float | None = None

    def features(self) -> tuple[float | None, ...]:
        """As ``FEATURES``, about −2 to 2 each."""
        return (
            min(self.temperature, 2.0),
            log(1 + self.prompt_tokens) / 4 - 1,
            None if self.overlap is None else 2 * self.overlap - 0.5,
            float(self.code),
            None if self.entropy is None else min(self.entropy, 6.0) / 2 - 0.5,
            log(max(self.stages, 1)) / 2,
            log(max(self.step, 1e-4)) / 4 + 1,
            log(max(self.row, 1e-5)) / 4 + 1,
            log(max(self.hop, 1e-4)) / 4 + 1,
        )


FEATURES = (
    "temperature",
    "prompt_tokens",
    "overlap",
    "code",
    "entropy",
    "stages",
    "step",
    "row",
    "hop",
)


def situation_of(
    model: str, temperature: float, text: str, tokens: int, route: Sequence[Stage], hop: float
) -> Situation:
    """A request of ``tokens`` prompt tokens that goes through a route, before it begins."""
    return Situation(
        model,
        temperature,
        tokens,
        looks_like_code(text),
        len(route),
        sum(stage.prompt_step_seconds for stage in route),
        sum(stage.prompt_row_seconds for stage in route),
        hop,
    )


def overlap(prompt: Sequence[int], answer: Sequence[int]) -> float | None:
    """Share of the answer's runs of three tokens that the prompt has; None if it has none."""
    runs = [tuple(answer[i : i + _NGRAM]) for i in range(len(answer) - _NGRAM + 1)]
    if not runs:
        return None
    known = {tuple(prompt[i : i + _NGRAM]) for i in range(len(prompt) - _NGRAM + 1)}
    return sum(run in known for run in runs) / len(runs)


def looks_like_code(text: str) -> bool:
    """A code fence, or two lines that begin or end as code does."""
    if "```" in text:
        return True
    starts = ("def ", "class ", "import ", "from ", "#include", "function ", "const ", "return ")
    lines = [line.strip() for line in text.splitlines()]
    return sum(line.startswith(starts) or line.endswith(("{", ";", "};")) for line in lines) > 1


def entropy(distribution: F64) -> float:
    """Of a distribution that sums to 1, in nats."""
    some = distribution[distribution > 0]
    return float(-(some * np.log(some)).sum())
