"""The tree of rows beyond the text: what was sent, what came back, where the text has got to.

Pure bookkeeping. The cursor is the last row known to belong to the text; beneath it are guesses. A
token chosen from the cursor's state is either one of its children, and the cursor moves there, or
none, and every guess falls.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod

from hearthring.client.acceptance import Offer
from hearthring.client.draft import Candidate
from hearthring.protocol.errors import BadOption
from hearthring.protocol.messages import GENERATED, Row
from hearthring.protocol.tensors import F32


@dataclass(slots=True, eq=False)
class Branch:
    """One token after its parent's. ``chance``: that it is chosen, if its parent was.

    ``said`` is what the draft said of that, whatever experience makes of it. ``row`` is set when it
    is sent, ``state``, the final residual ``[width]``, when it is back. ``offer`` is what was drawn
    for the place behind it, if anything was; ``unsent`` are guesses for it that weren't sent.
    """

    token: int
    position: int
    chance: float = 1.0
    parent: "Branch | None" = None
    row: Row | None = None
    state: F32 | None = None
    said: float = 1.0
    offer: Offer | None = None
    unsent: Sequence[Candidate] = ()
    children: "dict[int, Branch]" = field(default_factory=dict)

    def below(self) -> "Iterator[Branch]":
        """Itself and all beneath it, parents first."""
        waiting = [self]
        while waiting:
            branch = waiting.pop()
            yield branch
            waiting.extend(branch.children.values())

    def grow(self, candidates: Sequence[Candidate]) -> "list[Branch]":
        """Hang a draft's proposal beneath; returns it, parents first.

        Raises ``BadOption``, and hangs nothing, for one that isn't a tree of parents before
        children with different siblings.
        """
        grown, seen = list[Branch](), set[tuple[int, int]]()
        for index, candidate in enumerate(candidates):
            place = candidate.parent, candidate.token
            taken = candidate.parent < 0 and candidate.token in self.children
            if not -1 <= candidate.parent < index or place in seen or taken:
                raise BadOption(f"candidate {index} of a draft is out of place", field="draft")
            seen.add(place)
            above = grown[candidate.parent] if candidate.parent >= 0 else self
            grown.append(Branch(candidate.token, above.position + 1, candidate.chance, above))
        for branch in grown:
            assert branch.parent is not None
            branch.parent.children[branch.token] = branch
        return grown


@dataclass(frozen=True, slots=True)
class Tip:
    """Where guessing may go on: a branch, the tokens from the cursor to it (its own included, the
    cursor's not), and the chance of each."""

    branch: Branch
    tail: tuple[int, ...]
    chances: tuple[float, ...]

    @property
    def chance(self) -> float:
        """That the text gets there."""
        return prod(self.chances)


class Branches:
    """The tree beneath the cursor. It begins at the last row of the prompt."""

    def __init__(self, last: Row, token: int, state: F32, newest: int = 0) -> None:
        """``newest`` is the last row's id ever sent, if that isn't ``last``: none is used twice."""
        self.cursor = Branch(token, last.position, row=last, state=state)
        self.newest = max(newest, last.id)
        self._coming: dict[int, Branch] = {}

    def tip(self) -> Tip:
        """The end of the likeliest guess: the cursor itself when there is none."""
        at, tail, chances = self.cursor, list[int](), list[float]()
        while at.children:
            at = max(at.children.values(), key=lambda child: child.chance)
            tail.append(at.token)
            chances.append(at.chance)
        return Tip(at, tuple(tail), tuple(chances))

    def likely(self, least: float) -> list[Branch]:
        """The cursor and what follows along the likeliest guess, as far as it is back and the text
        gets there with a chance of ``least``."""
        return [branch for branch, _ in self._likely(least, {})]

    def early(self, rows: Sequence[Row], states: F32, least: float) -> list[F32]:
        """States of those that ``likely`` will name when these rows are back; none if the cursor's
        isn't among them."""
        coming = {row.id: state for row, state in zip(rows, states, strict=True)}
        cursor = self.cursor.row
        if self.cursor.state is not None or cursor is None or cursor.id not in coming:
            return []
        return [state for _, state in self._likely(least, coming)]

    def _likely(self, least: float, coming: Mapping[int, F32]) -> list[tuple[Branch, F32]]:
        at, chance, found = self.cursor, 1.0, list[tuple[Branch, F32]]()
        while chance >= least:
            state = at.state
            if state is None and at.row is not None:
                state = coming.get(at.row.id)
            if state is None:
                break
            found.append((at, state))
            if not at.children:
                break
            at = max(at.children.values(), key=lambda child: child.chance)
            chance *= at.chance
        return found

    def sent(self, branches: Iterable[Branch]) -> list[Row]:
        """Name new rows, parents first; returns them in the same order."""
        rows = list[Row]()
        for branch in branches:
            above = branch.parent
            assert above is not None
            assert above.row is not None
            self.newest += 1
            branch.row = Row(self.newest, above.row.id, branch.position, GENERATED)
            self._coming[branch.row.id] = branch
            rows.append(branch.row)
        return rows

    def restate(self, states: Mapping[int, F32]) -> None:
        """Rows that are back have other states, by row id."""
        for branch in self.cursor.below():
            if branch.row is not None and branch.state is not None:
                branch.state = states.get(branch.row.id, branch.state)

    def back(self, rows: Sequence[Row], states: F32) -> None:
        """States of rows, ``[rows, width]``. Those of rows that fell are nobody's."""
        for row, state in zip(rows, states, strict=True):
            if (branch := self._coming.pop(row.id, None)) is not None:
                branch.state = state

    def move(self, token: int) -> list[Branch]:
        """The text goes on with ``token``; returns the topmost of what fell.

        The cursor moves if the token was guessed. Otherwise it stays, and no guess is left.
        """
        chosen = self.cursor.children.pop(token, None)
        fallen = list(self.cursor.children.values())
        self.cursor.children = {}
        for lost in fallen:
            for branch in lost.below():
                if branch.row is not None:
                    self._coming.pop(branch.row.id, None)
        if chosen is not None:
            self.cursor.parent = None  # or every row there was would be held
            self._follow(chosen)
        return fallen

    def plant(self, token: int) -> Branch:
        """A token that wasn't guessed becomes the cursor, yet to be sent; ``move`` came first."""
        assert not self.cursor.children
        self.cursor.parent = None
        self._follow(Branch(token, self.cursor.position + 1, parent=self.cursor))
        return self.cursor

    def _follow(self, branch: Branch) -> None:
        """The cursor moves, and what was drawn goes along."""
        if branch.offer is None and self.cursor.offer is not None:
            branch.offer = self.cursor.offer.after(branch.token)
        self.cursor = branch
