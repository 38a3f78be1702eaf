"""One text and what may follow it, at a model of the client's own: logits wherever they are asked.

The text is a chain of rows in a KV cache; guesses branch off its end. What is chosen joins the
chain, what fell gives its slots back, and nothing is computed twice.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from hearthring.client.local_model import LocalModel
from hearthring.protocol.errors import OutOfSlots
from hearthring.protocol.tensors import F32
from hearthring.shards.engine import EngineRow, Kind, KvCache, Segment
from hearthring.shards.slots import ROOT, SlotMap

SPARE = 128
"""Slots beyond the text's, for guesses."""
PIECE = 64
"""Rows of a text that are run at once: what a caller may have to wait for."""
LATE = 16
"""So many are no matter."""


@dataclass(slots=True, eq=False)
class _Node:
    """A token that was run, at a position. ``state``, its final residual ``[width]``, is kept at
    the text's end and beyond; ``logits`` are made of it when they are first asked for."""

    row: int
    position: int
    children: "dict[int, _Node]" = field(default_factory=dict)
    state: F32 | None = None
    logits: F32 | None = None


class LocalText:
    """The rows of one text. Not thread-safe, as its model.

    ``room`` is the most tokens that it may have, guesses included; at most the model's context. The
    tokens that a text begins with are its prompt. Rows have the kinds that they have in a ring, so
    the same model computes the same bits. A method that raises leaves the text as it was.
    """

    def __init__(self, model: LocalModel, room: int) -> None:
        self.model, self.name = model, f"model:{model.name}"
        self.room = min(room, model.context)
        self._slots = SlotMap(self.room + SPARE)
        self._cache: KvCache | None = model.engine.new_cache(self._slots.capacity)
        self._tip = _Node(ROOT, -1)
        self._text = list[int]()  # committed and run
        self._waiting = list[int]()  # committed, not run
        self._prompt = self._last = 0

    @property
    def tokens(self) -> list[int]:
        """The text."""
        return self._text + self._waiting

    @property
    def behind(self) -> int:
        """Tokens of the text that are yet to be run."""
        return len(self._waiting)

    def begin(self, prompt: Sequence[int]) -> None:
        """Another text. As far as it begins like the last one, nothing has to be run again."""
        self._fall()
        self._prompt = len(prompt)
        self.become(prompt)

    def become(self, tokens: Sequence[int]) -> None:
        """The same text, which reads so from now on: what is run already isn't run again."""
        keep, most = 0, min(len(self._text), len(tokens))
        while keep < most and self._text[keep] == tokens[keep]:
            keep += 1
        self._waiting.clear()
        if keep < len(self._text):  # of the rows before the tip no state is kept: one is run again
            keep = min(keep, max(0, len(tokens) - 1))
            self._fall()
            self._slots.drop([self._slots.committed[keep].id])
            del self._text[keep:]
            self._tip = _Node(self._slots.tip, keep - 1)
        self.append(tokens[keep:])

    def append(self, tokens: Sequence[int]) -> None:
        """The text goes on. What was guessed and run already isn't run again."""
        for token in tokens:
            found = None if self._waiting else self._tip.children.pop(token, None)
            self._fall()
            if found is None:
                self._waiting.append(token)
                continue
            self._slots.commit([found.row])
            self._text.append(token)
            self._tip = found

    def catch_up(self, most: int = PIECE) -> bool:
        """Run at most so many tokens of the text that wait; whether none is left, and that took no
        longer than a few do.

        Raises ``OutOfSlots`` when the text outgrows its room, and what the engine raises.
        """
        taken = self._waiting[:most]
        if taken:
            self._within(len(self._text) + len(taken))
            above: list[_Node | int] = [self._tip, *range(len(taken) - 1)]
            nodes = self._run(list(zip(above, taken, strict=True)))
            self._slots.commit([node.row for node in nodes])
            self._tip = nodes[-1]
            self._text += taken
            del self._waiting[: len(taken)]
        return not self._waiting and len(taken) <= LATE

    def logits(self, paths: Sequence[tuple[int, ...]]) -> list[F32]:
        """Logits ``[vocabulary]`` after the text and each path of tokens that may follow it.

        Paths share what they have in common and what was run before; the rest is one batch. The
        text has a token, and is caught up. Raises as ``catch_up``.
        """
        self.run(paths)
        nodes = [self._at(path) for path in paths]
        self._heads([node for node in nodes if node.logits is None])
        return [node.logits for node in nodes if node.logits is not None]

    def knows(self, path: Sequence[int]) -> bool:
        """Whether a path was run already."""
        node: _Node | None = self._tip
        for token in path:
            node = node.children.get(token) if node is not None else None
        return node is not None

    def run(self, paths: Sequence[tuple[int, ...]]) -> None:
        """As ``logits``, of which nobody asks yet."""
        assert self._text
        assert not self._waiting
        self._within(len(self._text) + max(map(len, paths), default=0))
        missing = self._missing(paths)
        if self._slots.live + len(missing) > self._slots.capacity:
            self._fall()
            missing = self._missing(paths)
        made = self._run([(above, token) for above, token in missing.values()])
        for node, (above, token) in zip(made, missing.values(), strict=True):
            (made[above] if isinstance(above, int) else above).children[token] = node

    def close(self) -> None:
        """Give the cache back. Nothing may be asked any more. Idempotent."""
        self._cache = None

    def _missing(
        self, paths: Sequence[tuple[int, ...]]
    ) -> dict[tuple[int, ...], tuple[_Node | int, int]]:
        """What isn't run yet, parents first: each path's last token, under a node or the n-th of
        these."""
        found, places = dict[tuple[int, ...], tuple[_Node | int, int]](), dict[object, int]()
        for path in paths:
            at: _Node | None = self._tip
            for depth, token in enumerate(path):
                at = at.children.get(token) if at is not None else None
                here = path[: depth + 1]
                if at is None and here not in found:
                    above = places.get(path[:depth])
                    found[here] = (self._at(path[:depth]) if above is None else above), token
                    places[here] = len(found) - 1
        return found

    def _at(self, path: Iterable[int]) -> _Node:
        node = self._tip
        for token in path:
            node = node.children[token]
        return node

    def _heads(self, nodes: Sequence[_Node]) -> None:
        """Logits of some nodes, in one pass over the head."""
        nodes = list(dict.fromkeys(nodes))
        if not nodes:
            return
        states = np.stack([node.state for node in nodes if node.state is not None])
        ends = self.model.ends
        for node, logits in zip(nodes, ends.logits(ends.norm(states)), strict=True):
            node.logits = logits

    def _run(self, items: Sequence[tuple[_Node | int, int]]) -> list[_Node]:
        """Run tokens, each under a node or the n-th item before it."""
        if not items:
            return []
        assert self._cache is not None
        if plan := self._slots.compaction(len(items)):
            self._cache.move(*plan)
        nodes, rows = list[_Node](), list[EngineRow]()
        try:
            for above, _ in items:
                parent = nodes[above] if isinstance(above, int) else above
                node = _Node(self._last + 1, parent.position + 1)
                kind = Kind.PROMPT if node.position < self._prompt else Kind.GENERATED
                row = self._slots.insert(node.row, parent.row, node.position, kind)
                assert row is not None
                self._last += 1
                nodes.append(node)
                rows.append(row)
            states = self.model.ends.embed([token for _, token in items])
            out, _ = self.model.engine.forward((Segment(self._cache, tuple(rows)),), states)
        except BaseException:
            self._slots.drop([node.row for node in nodes])
            raise
        for node, state in zip(nodes, out, strict=True):
            node.state = state
        return nodes

    def _fall(self) -> None:
        """Nothing follows the text's end any more."""
        self._slots.drop([node.row for node in self._tip.children.values()])
        self._tip.children.clear()

    def _within(self, length: int) -> None:
        if length > self.room:
            raise OutOfSlots(
                f"{length} tokens, and {self.model.name} has room for {self.room}", field="draft"
            )
