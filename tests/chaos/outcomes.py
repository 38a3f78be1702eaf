"""What became of each fault: one line of JSON, kept, so that a campaign can be run in pieces."""

import json
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

WRONG = "wrong tokens"


@dataclass(frozen=True, slots=True)
class Outcome:
    """One generation of a campaign. Times are seconds.

    ``number`` says which fault of its ``kind`` it was, ``struck`` the moments after the request at
    which nodes were hit; none, if the answer was there before. ``detections`` count from a fault to
    the client's noticing, ``recovery`` from the last fault before it to a ring that is whole;
    ``first`` is the wait for the first token, ``pause`` the longest for one after it. ``error`` is
    empty for an answer whose tokens are all right.
    """

    kind: str
    number: int
    phase: str
    struck: tuple[float, ...]
    error: str
    detections: tuple[float, ...]
    recovery: float | None
    first: float
    pause: float
    reroutes: tuple[str, ...]

    @property
    def counts(self) -> bool:
        """Whether it says anything: a fault that came too late doesn't."""
        return not self.phase or bool(self.struck) or bool(self.error)


class Results:
    """Outcomes, in a file if there is one: whatever is there counts, and need not be run again."""

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self.all: list[Outcome] = []
        if path is not None and path.exists():
            self.all = [_read(line) for line in path.read_text().splitlines()]

    def add(self, outcome: Outcome) -> None:
        """Keep one, at once."""
        self.all.append(outcome)
        if self._path is not None:
            with self._path.open("a") as file:
                file.write(json.dumps(asdict(outcome)) + "\n")

    def of(self, kind: str) -> list[Outcome]:
        """Those of a kind that count."""
        return [outcome for outcome in self.all if outcome.kind == kind and outcome.counts]

    def done(self, kind: str) -> set[int]:
        """The numbers of its faults that needn't be run again."""
        return {outcome.number for outcome in self.of(kind)}


def report(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """The figures of one kind of fault."""
    hit = [outcome for outcome in outcomes if outcome.struck]
    lost = [o.error for o in outcomes if o.error and o.error != WRONG]
    phases = dict.fromkeys((o.phase for o in hit), 0)
    for outcome in hit:
        phases[outcome.phase] += 1
    return {
        "generations": len(outcomes),
        "faults": sum(len(outcome.struck) for outcome in hit),
        "by_phase": phases,
        "wrong": sum(outcome.error == WRONG for outcome in outcomes),
        "lost": len(lost),
        "errors": lost[:5],
        "reroutes": sum(len(outcome.reroutes) for outcome in outcomes),
        "detection_s": _quantiles(seconds for o in hit for seconds in o.detections),
        "recovery_s": _quantiles(o.recovery for o in hit if o.recovery is not None),
        "first_s": _quantiles(outcome.first for outcome in outcomes),
        "pause_s": _quantiles(outcome.pause for outcome in outcomes),
        "slowest": _slowest(outcomes),
    }


def _slowest(outcomes: Sequence[Outcome]) -> list[str]:
    """What happened in the generation with the longest wait."""
    if not outcomes:
        return []
    worst = max(outcomes, key=lambda outcome: outcome.pause)
    return [f"fault after {at:.2f} s" for at in worst.struck] + list(worst.reroutes)


def _quantiles(values: Iterable[float]) -> dict[str, float]:
    ordered = sorted(values)
    if not ordered:
        return {}
    return {
        "median": round(statistics.median(ordered), 3),
        "p95": round(ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))], 3),
        "max": round(ordered[-1], 3),
    }


def _read(line: str) -> Outcome:
    fields = json.loads(line)
    for name in ("struck", "detections", "reroutes"):
        fields[name] = tuple(fields[name])
    return Outcome(**fields)
