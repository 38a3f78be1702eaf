"""How far the text is verified, layer by layer.

Spot checks look at some stages more often than at others, and a stage may be replaced by others
with other windows; a row is verified once every layer's work on it is.
"""

from hearthring.client.route import Stage


class Coverage:
    """Rows from position 0 on that are verified, of each of ``layers`` layers."""

    def __init__(self, layers: int) -> None:
        self._rows = [0] * layers

    @property
    def whole(self) -> int:
        """Rows that are verified in all layers."""
        return min(self._rows)

    def of(self, stage: Stage) -> int:
        """Rows that are verified in all layers of a stage."""
        return min(self._rows[stage.start : stage.end])

    def reach(self, stage: Stage, rows: int) -> None:
        """A stage's work is verified up to here."""
        for layer in range(stage.start, stage.end):
            self._rows[layer] = max(self._rows[layer], rows)

    def cut(self, rows: int) -> None:
        """Only so many rows are left of the text."""
        self._rows = [min(known, rows) for known in self._rows]
