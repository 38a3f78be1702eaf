"""Which waiting steps run next: a pure policy, without clocks or tasks.

Steps of one session run in order, one per batch. Generated rows are somebody's next word, so every
batch first takes the steps that hold no prompt rows, and then prompt steps up to a budget: a long
prefill costs others one budget's time per word, and neither kind starves the other. Between peers
both are shared by deficit round robin (Shreedhar and Varghese, 1995): a peer with many sessions, or
with large steps, gets as many rows as a peer with one.
"""

from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

T = TypeVar("T")

GENERATED_ROWS = 192
"""Rows of one batch in steps without prompt rows, unless a single step has more."""
PROMPT_ROWS = 64
"""Rows of one batch in steps with prompt rows, unless a single step has more."""
QUANTUM = 16
"""Rows that a peer may run per turn; what it doesn't use it keeps while it has steps waiting."""


@dataclass(frozen=True, slots=True)
class Waiting(Generic[T]):
    """A step in the queue. ``rows`` may be 0; ``prompt``: at least one is a prompt row.

    ``session`` is whatever steps that must run in order have in common.
    """

    peer: str
    session: Hashable
    rows: int
    prompt: bool
    item: T


@dataclass(slots=True)
class _Peer(Generic[T]):
    """A peer's sessions with waiting steps, least recently served first, and its credit in rows,
    for steps without and with prompt rows."""

    sessions: dict[Hashable, deque[Waiting[T]]] = field(default_factory=dict)
    credit: list[int] = field(default_factory=lambda: [0, 0])

    def head(self, prompt: bool, served: set[Hashable]) -> Waiting[T] | None:
        """The next step of the kind, of a session not served in this batch."""
        for session, steps in self.sessions.items():
            if session not in served and steps[0].prompt == prompt:
                return steps[0]
        return None

    def take(self, step: Waiting[T]) -> None:
        steps = self.sessions.pop(step.session)
        steps.popleft()
        if steps:
            self.sessions[step.session] = steps  # now the most recently served


class Batcher(Generic[T]):
    """The queue of one stage. Every method takes time in proportion to the sessions waiting."""

    def __init__(
        self, generated_rows: int = GENERATED_ROWS, prompt_rows: int = PROMPT_ROWS
    ) -> None:
        self._budgets = generated_rows, prompt_rows
        self._peers: dict[str, _Peer[T]] = {}  # in turn: whoever was served goes to the end

    def __len__(self) -> int:
        """Steps that wait."""
        flows = (peer.sessions.values() for peer in self._peers.values())
        return sum(len(steps) for sessions in flows for steps in sessions)

    def push(self, step: Waiting[T]) -> None:
        """Queue a step behind the others of its session."""
        peer = self._peers.setdefault(step.peer, _Peer())
        peer.sessions.setdefault(step.session, deque()).append(step)

    def forget(self, peer: str, session: Hashable) -> list[T]:
        """Take back all steps of a session that has ended."""
        flow = self._peers.get(peer)
        steps = flow.sessions.pop(session, None) if flow is not None else None
        if flow is not None and not flow.sessions:
            del self._peers[peer]
        return [step.item for step in steps or ()]

    def next(self) -> list[T]:
        """Take the next batch: empty only if nothing waits."""
        served = set[Hashable]()
        return self._take(False, served) + self._take(True, served)

    def _take(self, prompt: bool, served: set[Hashable]) -> list[T]:
        """Steps of one kind, at most its budget of rows, or one larger step alone."""
        taken, rows, budget = list[T](), 0, self._budgets[prompt]
        turns = deque(n for n, peer in self._peers.items() if peer.head(prompt, served))
        while turns:
            peer = self._peers[name := turns.popleft()]
            granted = False
            while (step := peer.head(prompt, served)) is not None:
                cost = max(1, step.rows)
                if taken and rows + cost > budget:
                    if granted:
                        self._to_the_end(name)
                    return taken  # no credit for a turn that this batch has no room for
                if not granted:
                    peer.credit[prompt] += QUANTUM
                    granted = True
                if cost > peer.credit[prompt]:
                    turns.append(name)
                    break
                peer.credit[prompt] -= cost
                peer.take(step)
                served.add(step.session)
                taken.append(step.item)
                rows += cost
            if not peer.head(prompt, set()):
                peer.credit[prompt] = 0
            self._to_the_end(name)
        return taken

    def _to_the_end(self, name: str) -> None:
        peer = self._peers.pop(name)
        if peer.sessions:
            self._peers[name] = peer
