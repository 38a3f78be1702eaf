"""What a client hands back."""

from dataclasses import dataclass
from typing import Any

from hearthring.client.route import Stage
from hearthring.verify.proof import Proof


@dataclass(frozen=True, slots=True)
class Rerouting:
    """One fail-over: the nodes that were lost, why, when that was noticed, how long it took.

    ``at_s`` counts from the request like ``first_token_s``; ``pause_s`` is the time from then until
    the ring was whole again. ``changed`` names stages of another numerics class than before: there
    are none without ``allow_class_change``.
    """

    nodes: tuple[str, ...]
    reason: str
    at_s: float
    pause_s: float
    changed: str = ""


@dataclass(frozen=True, slots=True)
class Timings:
    """Seconds and rates of one generation.

    ``first_token_s`` counts from the request, route and sessions included; ``decode_tokens_per_s``
    covers the tokens after the first. ``stage_compute_s`` and ``stage_queue_s`` are each stage's
    own account, mean per generated row. ``hop_s`` is the median over generated rows of what a
    step took beyond its stages' engines, per hop, the client's two included. ``reroutes`` are the
    fail-overs, in order.
    """

    first_token_s: float
    decode_tokens_per_s: float
    prefill_s: float
    total_s: float
    stage_compute_s: tuple[float, ...] = ()
    stage_queue_s: tuple[float, ...] = ()
    hop_s: float = 0.0
    reroutes: tuple["Rerouting", ...] = ()


@dataclass(frozen=True, slots=True)
class Guessing:
    """What a draft did for an answer of so many ``tokens``.

    ``trips`` are the steps that the client waited for, ``steps`` all that it sent; ``guesses`` is
    how many rows were guessed, ``hits`` how many of these became text. ``draft_s`` is the time that
    the draft took.
    """

    draft: str
    tokens: int
    trips: int
    steps: int
    guesses: int
    hits: int
    draft_s: float

    @property
    def tokens_per_trip(self) -> float:
        """1 without a draft."""
        return self.tokens / self.trips if self.trips else 1.0


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a streamed answer: new text, and the token that brought it.

    So many characters before it are ``taken_back``: hardly ever any. A stage was found to have
    computed something else than it should, and the answer goes on from where it was right.
    """

    text: str
    token_id: int | None
    taken_back: int = 0


@dataclass(frozen=True, slots=True)
class Answer:
    """A finished answer.

    ``token_ids`` holds every generated id, a final end-of-sequence token included; ``text`` ends
    before it, and before a stop string. ``stop_reason``: ``eos``, ``stop`` or ``length``.
    ``proof`` is ``None`` only when the caller asked for none. ``class_changes`` are indices in
    ``token_ids``: of each first token that stages of another numerics class have chosen, which
    happens with ``allow_class_change`` only. ``verified``: how many of its first tokens spot checks
    found to rest on what the model gives, ``None`` without any; ``caught``: nodes they evicted.
    """

    text: str
    prompt_ids: list[int]
    token_ids: list[int]
    stop_reason: str
    timings: Timings
    route: tuple[Stage, ...]
    seed: int | None
    guessing: Guessing
    class_changes: tuple[int, ...] = ()
    verified: int | None = None
    caught: tuple[str, ...] = ()
    _proof: Proof | None = None

    @property
    def proof(self) -> Proof:
        """The output proof. Raises ``ValueError`` when it was switched off."""
        if self._proof is None:
            raise ValueError("this answer was asked for with proof=False")
        return self._proof

    def as_json(self, proof: str | None = None) -> dict[str, Any]:
        """The keys of ``hearthring ask --json``; ``proof`` is the path it was saved to."""
        t = self.timings
        return {
            "text": self.text,
            "prompt_ids": self.prompt_ids,
            "token_ids": self.token_ids,
            "stop_reason": self.stop_reason,
            "seed": self.seed,
            "class_changes": list(self.class_changes),
            "verified": self.verified,
            "caught": list(self.caught),
            "timings": {
                "first_token_s": round(t.first_token_s, 4),
                "decode_tokens_per_s": round(t.decode_tokens_per_s, 2),
                "prefill_s": round(t.prefill_s, 4),
                "total_s": round(t.total_s, 4),
                "stage_compute_s": [round(s, 5) for s in t.stage_compute_s],
                "stage_queue_s": [round(s, 5) for s in t.stage_queue_s],
                "hop_s": round(t.hop_s, 6),
                "reroutes": [
                    {
                        "nodes": list(r.nodes),
                        "reason": r.reason,
                        "at_s": round(r.at_s, 4),
                        "pause_s": round(r.pause_s, 4),
                        "changed": r.changed,
                    }
                    for r in t.reroutes
                ],
            },
            "route": [
                {"node": s.node, "start": s.start, "end": s.end, "numerics": s.numerics}
                for s in self.route
            ],
            "speculation": {
                "draft": self.guessing.draft,
                "tokens_per_trip": round(self.guessing.tokens_per_trip, 3),
                "trips": self.guessing.trips,
                "steps": self.guessing.steps,
                "guesses": self.guessing.guesses,
                "hits": self.guessing.hits,
                "draft_s": round(self.guessing.draft_s, 4),
            },
            "proof": proof,
        }
