"""SentencePiece's merging as llama.cpp does it: the best pair of neighbours first.

Pure: a text, a vocabulary with scores, ids. Among equal scores the leftmost pair wins. A character
that no token holds becomes its UTF-8 bytes, for which such vocabularies have tokens (``<0x0A>``).
"""

from collections.abc import Mapping, Sequence
from heapq import heapify, heappop, heappush
from typing import Final

SPACE: Final = "▁"
"""How tokens write a space."""


class SentencePieces:
    """A vocabulary: ids by token text, and a score for each id. Safe to use from several threads.

    ``unknown`` stands for a byte that has no token either.
    """

    def __init__(self, ids: Mapping[str, int], scores: Sequence[float], unknown: int) -> None:
        self._ids, self._scores = ids, scores
        self._bytes = [ids.get(f"<0x{byte:02X}>", unknown) for byte in range(256)]

    def encode(self, text: str) -> list[int]:
        """Ids of a text whose spaces are spaces. Raises ``UnicodeEncodeError`` for surrogates."""
        found: list[int] = []
        for piece in self._merged(text.replace(" ", SPACE)):
            token = self._ids.get(piece)
            if token is None:
                found += [self._bytes[byte] for byte in piece.encode()]
            else:
                found.append(token)
        return found

    def piece(self, text: str) -> bytes:
        """The bytes of a normal token."""
        return text.replace(SPACE, " ").encode()

    def _merged(self, text: str) -> list[str]:
        """The text in pieces, none of which can be merged with its neighbour.

        ``pieces[i]`` begins at character i; a piece that was merged into the one before is empty.
        """
        ids, scores, pieces = self._ids, self._scores, list(text)
        after, before = list(range(1, len(text) + 1)), list(range(-1, len(text) - 1))
        queue = [
            (-scores[token], at, at + 1, 2)
            for at in range(len(text) - 1)
            if (token := ids.get(text[at : at + 2])) is not None
        ]
        heapify(queue)
        while queue:
            _, left, right, size = heappop(queue)
            joined = pieces[left] + pieces[right]
            if not pieces[left] or not pieces[right] or len(joined) != size:
                continue  # one of the two was merged with another since
            pieces[left], pieces[right] = joined, ""
            follower = after[left] = after[right]
            if follower < len(text):
                before[follower] = left
            for a, b in ((before[left], left), (left, follower)):
                if a >= 0 and b < len(text):
                    pair = pieces[a] + pieces[b]
                    token = ids.get(pair)
                    if token is not None:
                        heappush(queue, (-scores[token], a, b, len(pair)))
        return [piece for piece in pieces if piece]
