"""What to expect of a draft before it was tried: learnt from this client's earlier answers.

A logistic regression of acceptance on what is known of a request, kept small and pulled towards
plain averages, so that ten answers help and a hundred don't mislead. The history holds numbers and
names only, nothing of any text.
"""

import json
import sqlite3
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from hearthring.client.philox import F64
from hearthring.client.situation import FEATURES, Situation
from hearthring.protocol.private import private_file

KEPT = 2000
"""Answers remembered; the oldest go first."""
USED = 600
"""Answers that a regression looks at, the latest."""
LEAST_ROUNDS, MOST_ROUNDS = 5.0, 10.0
"""What an expectation counts as, in rounds of a bandit: with nothing learnt, with plenty."""
DEFAULT = 0.3
"""Acceptance of a draft that nobody knows."""
_TRIALS = 40.0
"""A record counts as at most so many trials: tokens of one answer are alike."""
_PULL_BASE, _PULL_FEATURE, _PULL_KIND, _PULL_OWN = 0.05, 4.0, 1.0, 4.0
"""Inverse variances of the regression's weights."""
_STEPS, _CLOSE = 25, 1e-6


@dataclass(frozen=True, slots=True)
class Experience:
    """How a draft did in one answer: ``accepted`` of the ``tried`` tokens whose parent was.

    ``stated`` is the mean chance that the draft itself gave those, 0 to 1.
    """

    situation: Situation
    draft: str
    tried: int
    accepted: int
    stated: float


@dataclass(frozen=True, slots=True)
class Expectation:
    """``acceptance`` per drafted token, 0 to 1, and how many ``rounds`` of trying it stands for.

    ``shift``: by how much, in log odds, more are accepted than the draft states.
    """

    acceptance: float
    rounds: float
    shift: float


class Prior:
    """What experiences say of situations to come. Immutable; made by ``learn``."""

    def __init__(
        self, names: Sequence[str], accepting: F64, shifting: F64, counts: dict[str, int]
    ) -> None:
        self._names, self._counts = tuple(names), counts
        self._accepting, self._shifting = accepting, shifting

    def known(self, draft: str) -> int:
        """Answers that a draft was learnt from."""
        return self._counts.get(draft, 0)

    def expect(self, draft: str, situation: Situation) -> Expectation:
        """For a draft that was tried or not, in a model that was seen or not."""
        row = _row(self._names, draft, situation)
        share = self.known(draft) / (self.known(draft) + 10)
        rounds = LEAST_ROUNDS + (MOST_ROUNDS - LEAST_ROUNDS) * share
        return Expectation(
            _chance(float(row @ self._accepting)), rounds, float(row @ self._shifting)
        )


def learn(experiences: Sequence[Experience]) -> Prior:
    """The most probable regressions. Pure; milliseconds.

    log odds = base + draft + model + w · features + w of the draft · features, with normal priors
    of widths that let drafts differ more than features, and pull a draft's own weights to 0. Once
    for acceptance itself, and once for what it is beyond the log odds that the draft stated.
    """
    used = [e for e in experiences[-USED:] if e.tried > 0]
    drafts = sorted({e.draft for e in used})
    models = sorted({e.situation.model for e in used})
    own = [f"{draft}*{feature}" for draft in drafts for feature in FEATURES]
    kinds = [*(f"draft {draft}" for draft in drafts), *(f"model {model}" for model in models)]
    names = ["base", *FEATURES, *kinds, *own]
    pulls = [_PULL_BASE, *[_PULL_FEATURE] * len(FEATURES), *[_PULL_KIND] * len(kinds)]
    pull, start = np.array([*pulls, *[_PULL_OWN] * len(own)]), np.zeros(len(names))
    rows = np.array([_row(names, e.draft, e.situation) for e in used]).reshape(-1, len(names))
    scale = np.array([min(1.0, _TRIALS / e.tried) for e in used])
    tried = scale * [e.tried for e in used]
    accepted = scale * [min(e.accepted, e.tried) for e in used]
    stated = np.clip([e.stated for e in used], 0.01, 0.99)
    shifting = _regress(rows, tried, accepted, np.log(stated / (1 - stated)), start, pull)
    start[0] = np.log(DEFAULT / (1 - DEFAULT))
    accepting = _regress(rows, tried, accepted, np.zeros(len(used)), start, pull)
    counts = {draft: sum(e.draft == draft for e in used) for draft in drafts}
    return Prior(names, accepting, shifting, counts)


def _regress(rows: F64, tried: F64, accepted: F64, known: F64, start: F64, pull: F64) -> F64:
    """Newton's steps to the most probable weights: log odds = ``known`` + ``rows`` · weights."""
    weights = start.copy()
    for _ in range(_STEPS):
        chance = 1 / (1 + np.exp(-np.clip(known + rows @ weights, -30, 30)))
        slope = rows.T @ (accepted - tried * chance) - pull * (weights - start)
        bend = (rows.T * (tried * chance * (1 - chance))) @ rows + np.diag(pull)
        move = np.linalg.solve(bend, slope)
        largest = float(np.abs(move).max())
        weights += move * min(1.0, 3.0 / max(largest, 1e-9))
        if largest < _CLOSE:
            break
    return weights


def _chance(log_odds: float) -> float:
    return float(1 / (1 + np.exp(-np.clip(log_odds, -30, 30))))


def _row(names: Sequence[str], draft: str, situation: Situation) -> F64:
    values = dict(zip(FEATURES, situation.features(), strict=True))
    # What isn't known yet counts as usual: 0.
    known = {"base": 1.0, **{name: value or 0.0 for name, value in values.items()}}
    known |= {f"draft {draft}": 1.0, f"model {situation.model}": 1.0}
    known |= {f"{draft}*{name}": known[name] for name in FEATURES}
    return np.array([known.get(name, 0.0) for name in names])


class History:
    """Experiences in an SQLite file that the user alone may read.

    Safe from several threads and processes. Blocks for milliseconds: not for the event loop. A file
    that can't be read or written is no reason to fail an answer: ``add`` then forgets, ``all`` is
    empty, and ``trouble`` says why.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.trouble = ""

    def add(self, experience: Experience) -> None:
        """Remember one; the oldest beyond ``KEPT`` go."""
        told = json.dumps(asdict(experience.situation))
        try:
            with closing(self._open()) as base, base:
                base.execute(
                    "INSERT INTO experience (at, draft, tried, accepted, stated, situation) "
                    "VALUES (?, ?, ?, ?, ?, ?)",
                    (
                        time.time(),
                        experience.draft,
                        experience.tried,
                        experience.accepted,
                        experience.stated,
                        told,
                    ),
                )
                base.execute(
                    "DELETE FROM experience WHERE id <= (SELECT max(id) FROM experience) - ?",
                    (KEPT,),
                )
        except (OSError, sqlite3.Error) as error:
            self.trouble = str(error)

    def all(self) -> tuple[Experience, ...]:
        """The oldest first. What another version wrote and this one can't read is left out."""
        try:
            with closing(self._open()) as base:
                rows = base.execute(
                    "SELECT draft, tried, accepted, stated, situation FROM experience ORDER BY id"
                ).fetchall()
        except (OSError, sqlite3.Error) as error:
            self.trouble = str(error)
            return ()
        read: list[Experience] = []
        for draft, tried, accepted, stated, told in rows:
            try:
                situation = Situation(**json.loads(told))
                situation.features()
                read.append(
                    Experience(situation, str(draft), int(tried), int(accepted), float(stated))
                )
            except (TypeError, ValueError):
                continue
        return tuple(read)

    def forget(self) -> None:
        """Remember nothing more of before."""
        self._path.unlink(missing_ok=True)

    def _open(self) -> sqlite3.Connection:
        private_file(self._path)
        base = sqlite3.connect(self._path, timeout=2.0)
        try:
            base.execute(
                "CREATE TABLE IF NOT EXISTS experience (id INTEGER PRIMARY KEY, at REAL, "
                "draft TEXT, tried INTEGER, accepted INTEGER, stated REAL, situation TEXT)"
            )
        except sqlite3.Error:
            base.close()
            raise
        return base
