"""What to expect of a draft before it was tried: learnt from this client's earlier answers.

A logistic regression of acceptance on what is known of a request, kept small and pulled towards
plain averages, so that ten answers help and a hundred don't mislead. The history holds numbers and
names only, nothing of any text.
"""

import json
import os
import sqlite3
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from hearthring.client.philox import F64
from hearthring.client.situation import FEATURES, Situation

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
_STEPS = 25


@dataclass(frozen=True, slots=True)
class Experience:
    """How a draft did in one answer: ``accepted`` of the ``tried`` tokens whose parent was."""

    situation: Situation
    draft: str
    tried: int
    accepted: int


@dataclass(frozen=True, slots=True)
class Expectation:
    """Acceptance per drafted token, 0 to 1, and how many rounds of trying it stands for."""

    acceptance: float
    rounds: float


class Prior:
    """What experiences say of situations to come. Immutable; made by ``learn``."""

    def __init__(self, names: Sequence[str], weights: F64, counts: dict[str, int]) -> None:
        self._names, self._weights, self._counts = tuple(names), weights, counts

    def expect(self, draft: str, situation: Situation) -> Expectation:
        """For a draft that was tried or not, in a model that was seen or not."""
        score = float(_row(self._names, draft, situation) @ self._weights)
        known = self._counts.get(draft, 0)
        share = known / (known + 10)
        rounds = LEAST_ROUNDS + (MOST_ROUNDS - LEAST_ROUNDS) * share
        return Expectation(float(1 / (1 + np.exp(-score))), rounds)


def learn(experiences: Sequence[Experience]) -> Prior:
    """The most probable regression, by Newton's steps. Pure; milliseconds.

    log odds = base + draft + model + w · features + w of the draft · features, with normal priors
    of widths that let drafts differ more than features, and pull a draft's own weights to 0.
    """
    used = [e for e in experiences[-USED:] if e.tried > 0]
    drafts = sorted({e.draft for e in used})
    models = sorted({e.situation.model for e in used})
    own = [f"{draft}*{feature}" for draft in drafts for feature in FEATURES]
    kinds = [*(f"draft {draft}" for draft in drafts), *(f"model {model}" for model in models)]
    pulls = [_PULL_BASE, *[_PULL_FEATURE] * len(FEATURES), *[_PULL_KIND] * len(kinds)]
    names, pulls = ["base", *FEATURES, *kinds, *own], pulls + [_PULL_OWN] * len(own)
    start = np.zeros(len(names))
    start[0] = np.log(DEFAULT / (1 - DEFAULT))
    weights, pull = start.copy(), np.array(pulls)
    if used:
        rows = np.array([_row(names, e.draft, e.situation) for e in used])
        scale = np.array([min(1.0, _TRIALS / e.tried) for e in used])
        tried = scale * [e.tried for e in used]
        accepted = scale * [min(e.accepted, e.tried) for e in used]
        for _ in range(_STEPS):
            chance = 1 / (1 + np.exp(-np.clip(rows @ weights, -30, 30)))
            slope = rows.T @ (accepted - tried * chance) - pull * (weights - start)
            bend = (rows.T * (tried * chance * (1 - chance))) @ rows + np.diag(pull)
            move = np.linalg.solve(bend, slope)
            weights += move * min(1.0, 3.0 / max(float(np.abs(move).max()), 1e-9))
    counts = {draft: sum(e.draft == draft for e in used) for draft in drafts}
    return Prior(names, weights, counts)


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
                    "INSERT INTO experience (at, draft, tried, accepted, situation) "
                    "VALUES (?, ?, ?, ?, ?)",
                    (time.time(), experience.draft, experience.tried, experience.accepted, told),
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
                    "SELECT draft, tried, accepted, situation FROM experience ORDER BY id"
                ).fetchall()
        except (OSError, sqlite3.Error) as error:
            self.trouble = str(error)
            return ()
        read: list[Experience] = []
        for draft, tried, accepted, told in rows:
            try:
                situation = Situation(**json.loads(told))
                situation.features()
                read.append(Experience(situation, str(draft), int(tried), int(accepted)))
            except (TypeError, ValueError):
                continue
        return tuple(read)

    def forget(self) -> None:
        """Remember nothing more of before."""
        self._path.unlink(missing_ok=True)

    def _open(self) -> sqlite3.Connection:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(self._path, os.O_CREAT | os.O_RDWR, 0o600))
        base = sqlite3.connect(self._path, timeout=2.0)
        try:
            base.execute(
                "CREATE TABLE IF NOT EXISTS experience (id INTEGER PRIMARY KEY, at REAL, "
                "draft TEXT, tried INTEGER, accepted INTEGER, situation TEXT)"
            )
        except sqlite3.Error:
            base.close()
            raise
        return base
