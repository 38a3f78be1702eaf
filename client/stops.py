"""Stop strings in a stream of text.

Text arrives in pieces cut anywhere, so a stop string may begin in one piece and end in another.
The watcher holds back what may still become one, and lets everything else through at once.
"""

from collections.abc import Sequence

from hearthring.protocol.errors import BadOption

MAX_STOPS = 16
MAX_CHARS = 200


class StopWatcher:
    """Passes text through until a stop string is complete, and nothing of it or after it.

    The stop that ends first counts; of several that end there, the longest. So what is let through
    depends on the text alone, not on how it was cut.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        """Watch for ``stops``, at most 16 of 1 to 200 characters; none lets everything through.

        Raises ``BadOption`` otherwise.
        """
        if isinstance(stops, str) or not all(isinstance(stop, str) for stop in stops):
            raise BadOption("not a list of strings", field="stop")
        if len(stops) > MAX_STOPS:
            raise BadOption(f"{len(stops)} strings", field="stop", mend=f"at most {MAX_STOPS}")
        for stop in stops:
            if not 0 < len(stop) <= MAX_CHARS:
                raise BadOption(
                    f"a string of {len(stop)} characters",
                    field="stop",
                    mend=f"allowed: 1 to {MAX_CHARS}",
                )
        self._stops = tuple(stops)
        self._held = ""
        self._stopped = False

    def feed(self, piece: str) -> tuple[str, bool]:
        """Text that is safe to emit now, and whether a stop string is complete.

        Once stopped, it stays stopped and emits nothing.
        """
        if self._stopped:
            return "", True
        text = self._held + piece
        starts = [(text.find(stop), len(stop)) for stop in self._stops]
        ends = [(start + length, start) for start, length in starts if start >= 0]
        if ends:
            self._stopped, self._held = True, ""
            return text[: min(ends)[1]], True
        safe = len(text) - self._undecided(text)
        self._held = text[safe:]
        return text[:safe], False

    def flush(self) -> str:
        """What was held back, when no more text will come: it didn't become a stop string."""
        held, self._held = self._held, ""
        return held

    def _undecided(self, text: str) -> int:
        """Length of the longest end of ``text`` that begins a stop string."""
        return max(
            (
                length
                for stop in self._stops
                for length in range(min(len(stop) - 1, len(text)), 0, -1)
                if text.endswith(stop[:length])
            ),
            default=0,
        )
