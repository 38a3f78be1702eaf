"""What an answer takes of processors, whoever works for it: by the clocks of threads (Linux)."""

import contextlib
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hearthring.client.cost import Ring
from hearthring.client.draft import Candidate
from hearthring.client.pace import Pace, Place, Trip

Spent = Counter[tuple[str, int]]
"""Seconds by process and thread."""


@dataclass(frozen=True, slots=True)
class Meter:
    """Reads the clocks of ``processes``, ids by name."""

    processes: Mapping[str, int]

    def read(self) -> Spent:
        """Seconds that every thread has run so far."""
        spent = Spent()
        for name, process in self.processes.items():
            for thread in Path(f"/proc/{process}/task").iterdir():
                with contextlib.suppress(OSError):  # it has ended meanwhile
                    ran = int((thread / "schedstat").read_text().split()[0])
                    spent[name, int(thread.name)] = ran / 1e9
        return spent

    def since(self, before: Spent) -> Spent:
        """What has come on top of an earlier reading, by threads that are still there."""
        spent = self.read()
        return Spent({thread: seconds - before[thread] for thread, seconds in spent.items()})


def of(spent: Spent, name: str) -> float:
    """Seconds of one process."""
    return sum(seconds for (process, _), seconds in spent.items() if process == name)


@dataclass(slots=True)
class Watched:
    """Another pace. ``spent`` is what was worked from the first step of an answer, behind its
    prompt, until all of its ``left`` tokens were chosen; ``expected`` is what the ring should have
    taken, as far as that was known before."""

    inner: Pace
    meter: Meter
    left: int
    spent: Spent = field(default_factory=Spent)
    expected: Ring | None = None
    _begun: bool = False

    def expect(self, ring: Ring) -> None:
        """What the ring should take."""
        self.expected = ring
        self.inner.expect(ring)

    def ask(self, place: Place) -> int:
        """As the pace itself, here and below."""
        return self.inner.ask(place)

    def keep(self, place: Place, candidates: Sequence[Candidate]) -> Collection[int]:
        """What to send."""
        return self.inner.keep(place, candidates)

    def drafted(self, candidates: int, seconds: float) -> None:
        """Candidates were found."""
        self.inner.drafted(candidates, seconds)

    def sent(self, steps: Sequence[int], flying: int) -> None:
        """Steps go out."""
        if not self._begun:
            self._begun, self.spent = True, self.meter.read()
        self.inner.sent(steps, flying)

    def back(self, trip: Trip) -> None:
        """A step is back."""
        self.inner.back(trip)

    def judged(self, taken: Sequence[bool]) -> None:
        """A token was chosen."""
        self.inner.judged(taken)

    def wrote(self, tokens: int, seconds: float) -> None:
        """Tokens were chosen."""
        self.left -= tokens
        if not self.left and self._begun:
            self.spent = self.meter.since(self.spent)
        self.inner.wrote(tokens, seconds)
