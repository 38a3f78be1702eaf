"""The text of an answer as its tokens come, and anew where some are taken back."""

from collections.abc import Sequence
from itertools import takewhile

from hearthring.client.answer import Piece
from hearthring.client.stops import StopWatcher
from hearthring.shards.tokenizer import StreamDecoder, Tokenizer


class Transcript:
    """One answer's text, which ends at a token that ends the sequence or a stop string.

    ``reason`` says by which (``eos``, ``stop``), or ``length`` while neither has come.
    """

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str]) -> None:
        self._tokenizer, self._stop = tokenizer, tuple(stop)
        self._begin()

    def _begin(self) -> None:
        self.text, self.reason = "", "length"
        self._decoder, self._watcher = StreamDecoder(self._tokenizer), StopWatcher(self._stop)

    @property
    def ended(self) -> bool:
        """Whether no token after those fed belongs to the text."""
        return self.reason != "length"

    def feed(self, token: int) -> Piece | None:
        """The next token, and what text it brought; ``None`` for one that only ends the text."""
        if token in self._tokenizer.eos_ids:
            self.reason = "eos"
            return None
        return self._emit(self._decoder.feed(token), token)

    def finish(self) -> Piece | None:
        """No token will come: text that was held back, if any."""
        if self.reason == "stop":
            return None
        piece = self._emit(self._decoder.flush(), None)
        held = self._watcher.flush()
        self.text += held
        return Piece(piece.text + held, None) if piece.text or held else None

    def rewind(self, tokens: Sequence[int]) -> Piece:
        """Only these tokens stay: how much of the text so far is void, and what is in its place."""
        before = self.text
        self._begin()
        for token in tokens:
            self.feed(token)
        same = takewhile(lambda pair: pair[0] == pair[1], zip(before, self.text, strict=False))
        common = sum(1 for _ in same)
        return Piece(self.text[common:], None, taken_back=len(before) - common)

    def _emit(self, text: str, token: int | None) -> Piece:
        emit, stopped = self._watcher.feed(text)
        self.text += emit
        if stopped:
            self.reason = "stop"
        return Piece(emit, token)
