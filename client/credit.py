"""What guessing may lose, in the time of plain tokens, whatever it was expected to bring."""

from dataclasses import dataclass

ALLOWED, FIRST, MOST = 0.02, 1.0, 6.0
"""So much for every token, so much at first, and at most so much of what was gained before."""
AGAIN = 0.5
"""What it must be able to lose before it is tried again."""
STAKE = 0.5
"""How much of what it may lose is put at stake at once."""
TRUST, TRUSTED = 0.25, 1.0
"""How much of a gain that is only expected counts, and how much of that in all."""


@dataclass(slots=True)
class Credit:
    """How much guessing may lose, and whether it rests: it does once it has lost that, until it may
    lose something again."""

    left: float = FIRST
    resting: bool = False
    _trusted: float = 0.0

    @property
    def stake(self) -> float:
        """What may be lost at once: so luck alone doesn't end it."""
        return STAKE * max(0.0, self.left)

    def chose(self, tokens: int) -> None:
        """The text has grown, by guesses or without."""
        self.left = min(MOST, self.left + ALLOWED * tokens)

    def brought(self, tokens: int, took: float) -> None:
        """A round with guesses brought so many tokens in the time of ``took`` plain ones."""
        self.left = max(-FIRST, min(MOST, self.left + tokens - took))

    def vouch(self, gain: float) -> None:
        """More could be gained than may be put at stake, by so much for a plain token's time."""
        more = min(TRUST * gain, TRUSTED - self._trusted)
        self._trusted += more
        self.left += more

    def settle(self, again: float = AGAIN) -> bool:
        """Whether guessing rests from now on; ``again`` is what it must be able to lose to be tried
        again."""
        self.resting = self.left < (max(AGAIN, min(again, MOST)) if self.resting else 0.0)
        return self.resting
