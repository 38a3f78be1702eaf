"""What it takes to find candidates: free drafts may be asked for more than will be used."""

from collections import deque
from dataclasses import dataclass, field
from statistics import median_low

FEW = 2
"""What a draft takes is known when it was asked more than a few times."""


@dataclass(slots=True)
class Finding:
    """Seconds that a draft took, of late and since tokens were chosen last."""

    each: float | None = None
    """Seconds that a candidate takes, once any was found: the median of late."""
    spent: float = 0.0
    """Seconds since tokens were chosen last."""
    reading: float = 0.0
    """Those of it in which nothing was found: a draft reads a text once, and then knows it."""
    _found: int = 0
    _late: deque[float] = field(default_factory=lambda: deque[float](maxlen=5))

    def add(self, candidates: int, seconds: float) -> None:
        """So many candidates took so long to be found."""
        self.spent += seconds
        self.reading += 0.0 if candidates else seconds
        if candidates:
            self._found += candidates
            self._late.append(seconds / candidates)
            self.each = median_low(self._late)

    @property
    def known(self) -> bool:
        """Whether it was asked more than a few times."""
        return len(self._late) > FEW

    @property
    def finding(self) -> float:
        """Seconds since tokens were chosen last in which something was found."""
        return self.spent - self.reading

    @property
    def usual(self) -> float:
        """What finding as many usually takes; 0 before that is known."""
        return self._found * self.each if self.known and self.each is not None else 0.0

    def start(self) -> None:
        """Tokens were chosen: count anew."""
        self.spent = self.reading = 0.0
        self._found = 0
