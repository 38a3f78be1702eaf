"""Prompts and drafts of ``bench/speculation.py``: what was asked, word for word."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from hearthring.client.draft import Candidate

NOTICE = (
    "The library opens at nine in the morning and closes at six in the evening. Member may "
    "borrow up to five books for three weeks. Books that is returned late cost ten cents a day. "
    "The reading room on the second floor is quiet at all times."
)
CODE = (
    "def read_rows(path):\n    rows = []\n    with open(path) as file:\n        for line in file:\n"
    "            rows.append(line.strip().split(','))\n    return rows\n"
)
KINDS = {
    "chat": (
        "Why is the sky blue? Explain it to a child.",
        "Give me three ideas for a rainy afternoon at home.",
    ),
    "code": (
        "Write a Python function that counts the words in a text file, with a docstring.",
        f"Write a test for this function:\n\n{CODE}",
    ),
    "edit": (
        f"Correct this text, and change as little as possible:\n\n{NOTICE}",
        f"Add a comment to each line of this code:\n\n{CODE}",
    ),
}
"""Two questions of each kind; those of ``edit`` ask for near copies, in less than 200 tokens.

SmolLM2 gives these whatever kernels a node chose for its prompt. Other questions it answers with a
copy in one numerics class and in words of its own in another.
"""


@dataclass
class Dialled:
    """A draft that is right with a chance of ``alpha`` at every position: synthetic.

    ``truth`` is the whole text, the prompt first. What it says where it is wrong is decided by the
    position and ``seed`` alone, so every pace meets the same luck. ``said`` is the chance that it
    states, if that isn't ``alpha``.
    """

    truth: Sequence[int]
    alpha: float
    name: str = "dialled"
    seed: int = 5
    said: float | None = None
    _seen: int = 0
    _right: list[bool] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Draw the luck of every position."""
        luck = np.random.default_rng(self.seed).random(len(self.truth))
        self._right = [bool(draw < self.alpha) for draw in luck]

    def observe(self, tokens: Sequence[int]) -> None:
        """Only how many there are counts."""
        self._seen += len(tokens)

    def propose(self, tail: Sequence[int], most: int) -> list[Candidate]:
        """A chain: true tokens, and at unlucky places another one."""
        first = self._seen + len(tail)
        places = range(first, min(first + most, len(self.truth)))
        said = self.alpha if self.said is None else self.said
        return [
            Candidate(
                self.truth[at] if self._right[at] else (self.truth[at] + 1) % 1000,
                at - first - 1,
                said,
            )
            for at in places
        ]

    def forget(self) -> None:
        """A new text begins."""
        self._seen = 0

    def close(self) -> None:
        """Nothing to give up."""
