"""Which steps left together: by that a round's time shows what a step takes, alone or with others.

Pure: told what goes and comes, it tells a meter.
"""

from collections import deque
from dataclasses import dataclass, field

from hearthring.client.meter import Meter
from hearthring.client.pace import Trip


@dataclass(slots=True)
class Rounds:
    """A round lasts from one choice of tokens to the next."""

    meter: Meter
    first: int = 1
    """Rows of the last step that went while none was out that counted."""
    guessed: bool = False
    """Whether anything went last beside a plain token."""
    _behind: tuple[int, ...] = ()
    """Rows of the steps that left right behind it."""
    _out: deque[int] = field(default_factory=deque)
    """Of every step out that counts: its rows if it left right behind another, else 0."""
    _back: list[int] = field(default_factory=list)
    """The same of steps that came back in this round."""
    _began: bool = False
    """The first step went when this round began."""
    _owed: int = 0
    """Steps that went and aren't back."""
    _free: bool = True
    """When the last first step went, none of ours was out, not even a fallen one."""

    @property
    def usual(self) -> float:
        """Seconds that a round should take at most in which the last first step is back."""
        seconds = self.meter.seconds(self.first)
        return seconds + sum(map(self.meter.turning, self._behind)) * self.meter.crowded

    def sent(self, steps: list[int], flying: int) -> None:
        """Steps of so many rows go out, beside those that fly."""
        if flying and self._began:  # a draft that takes time has found them only now
            self._behind += tuple(steps)
        if not flying:
            self._began = True
            self._owed, self._free = 0, not self._owed
            self.first, self._behind = steps[0], tuple(steps[1:])
            self._out.clear()
        self._owed += len(steps)
        self._out.extend([0, *steps[1:]][: len(steps)])
        self.guessed = bool(flying) or sum(steps) > 1

    def back(self, trip: Trip) -> None:
        """A step is back."""
        self._owed -= 1
        self._back.append(self._out.popleft() if self._out else 0)
        self.meter.trip(trip.result, trip.alone, self._free, not self._behind)

    def wrote(self, seconds: float) -> None:
        """Tokens were chosen, so long after the ones before."""
        back, self._back = self._back, []
        began, self._began = self._began, False
        if len(back) == 1 and began and self._free:
            if self._behind:
                self.meter.followed(self.first, self._behind, seconds)
            else:
                self.meter.round(self.first, seconds)
        elif len(back) == 1 and back[0] and not began:
            self.meter.apart(back[0], seconds)
