"""Taking back a part of the text: which rows are void, and what the others are now.

There are three reasons. A replacement computed other rows than the stage it stands in for, so one
of the two lied, or broke; nobody else can tell which, but the stage behind has both signatures. Or
a check has convicted a stage. In both cases the rows are right up to some position, and what was
chosen behind it rests on states that nobody vouches for: it is chosen anew. Or a replacement is of
another numerics class, which the client has allowed: all states change, and the text stays.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from hearthring.client.flight import Result, Sent
from hearthring.protocol.messages import PROMPT, Row
from hearthring.protocol.tensors import F32


class RolledBack(Exception):
    """Rows behind ``position`` are void: drop their tokens, and choose again from its state.

    ``states`` are those of rows up to there that came back with other bytes, by row id. A prompt is
    never void: ``position`` is its last one's at least. ``None``: only states changed.
    """

    def __init__(self, position: int | None, states: Mapping[int, F32]) -> None:
        super().__init__(f"rows behind position {position} are void")
        self.position, self.states = position, states


@dataclass(slots=True)
class Rollback:
    """What of a session has to be taken back, as it is found out."""

    class_changing: bool = False
    """Whether a stage of another class is coming: other rows are to be expected then."""
    _position: int | None = None
    _states: dict[int, F32] = field(default_factory=dict)
    _restated: dict[int, F32] = field(default_factory=dict)
    """The same of all rows, those that somebody was told of included."""

    @property
    def due(self) -> bool:
        """Whether anything is to be taken back that nobody was told of."""
        return self._position is not None or bool(self._states)

    @property
    def void_from(self) -> int | None:
        """The position behind which generated rows are void, if any are."""
        return self._position

    def differs(self, rows: Sequence[Row], states: Sequence[F32]) -> None:
        """Rows came back with other bytes than before, and these are their states now."""
        for row, state in zip(rows, states, strict=True):
            self._states[row.id] = self._restated[row.id] = state
            if not self.class_changing:
                self.keep_to(-1 if row.kind == PROMPT else row.position)

    def keep_to(self, position: int) -> None:
        """Generated rows behind a position are void."""
        self._position = position if self._position is None else min(self._position, position)

    def amended(self, result: Result) -> Result:
        """A result that nobody has taken yet, with what its rows are by now."""
        if not any(row.id in self._restated for row in result.rows):
            return result
        pairs = zip(result.rows, result.states, strict=True)
        states = [self._restated.get(row.id, state) for row, state in pairs]
        return replace(result, states=np.stack(states))

    def void(self, live: Mapping[int, Sent]) -> list[int]:
        """Of the living rows those that are void, in the order of ids."""
        to = self._position
        if to is None:
            return []
        rows = [sent.row for sent in live.values()]
        return [row.id for row in rows if row.kind != PROMPT and row.position > to]

    def tell(self, live: Mapping[int, Sent]) -> None:
        """Raise ``RolledBack``, once, if the ``live`` rows are no longer what they were."""
        if not self.due:
            return
        prompt = [sent.row.position for sent in live.values() if sent.row.kind == PROMPT]
        states = {row: state for row, state in self._states.items() if row in live}
        position = None if self._position is None else max(self._position, *prompt, -1)
        told = RolledBack(position, states)
        self._position, self._states = None, {}
        raise told
