"""Evidence about nodes on this disk: one SQLite file for all programs of a user.

Standings are kept in memory, so looking one up costs nothing; what other processes add is seen
within a minute. Exports are signed by who made them, and an import counts for less than what was
seen here, once, and never as hearsay of a third.
"""

import json
import math
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hearthring.protocol import identity
from hearthring.protocol.errors import BadEvidence, HearthringError
from hearthring.protocol.private import private_file
from hearthring.verify.reputation import (
    HALF_LIFE,
    OWN,
    WITHHELD,
    Evidence,
    Standing,
    lessons,
    overrules,
    standings,
)

if TYPE_CHECKING:
    from hearthring.verify.proof import Proof
    from hearthring.verify.verdict import Verdict

VERSION = 1
REFRESH = 60.0
"""Seconds after which standings are read anew."""
EXPORT_BYTES = 16 << 20
FADED = 12
"""Half-lives after which good evidence is dropped."""
WORDS = 300
MOST_WEIGHT = 100.0
_CONTEXT = b"hearthring/reputation/1"
_TABLE = """
CREATE TABLE IF NOT EXISTS evidence (
    about TEXT NOT NULL, node TEXT NOT NULL, source TEXT NOT NULL,
    good REAL NOT NULL, bad REAL NOT NULL, at REAL NOT NULL, why TEXT NOT NULL,
    PRIMARY KEY (about, node, source)
)
"""
_COLUMNS = "node, good, bad, at, about, why, source"


class Reputation:
    """What this user's programs know of nodes; ``reputation(node)`` is its weight in routes.

    ``path`` None keeps it in memory. Safe to use from several threads and processes. ``clock`` is
    wall-clock seconds. Raises ``BadEvidence`` when the file is no such database.
    """

    def __init__(self, path: Path | None = None, clock: Callable[[], float] = time.time) -> None:
        self._clock, self._lock = clock, threading.Lock()
        self._read, self._standings = -math.inf, dict[str, Standing]()
        try:
            if path is not None:
                private_file(path)
            where = path or ":memory:"
            self._base = sqlite3.connect(where, timeout=5.0, check_same_thread=False)
            with self._base:
                self._base.execute(_TABLE)
        except (sqlite3.Error, OSError) as error:
            raise BadEvidence(f"{path}: {error}", field="reputation") from None

    def __call__(self, node: str) -> float:
        """A node's weight in routes, 0 to 1."""
        return self.standing(node).weight

    def standing(self, node: str) -> Standing:
        """Evidence for and against a node, as of a minute ago at most."""
        return self.standings().get(node, Standing())

    def standings(self) -> dict[str, Standing]:
        """Everybody's that anything is known of."""
        with self._lock:
            now = self._clock()
            if abs(now - self._read) > REFRESH:
                self._standings = standings(self._rows(), now)
                self._read = now
            return self._standings

    def evidence(self) -> list[Evidence]:
        """Everything kept, newest first."""
        with self._lock:
            return sorted(self._rows(), key=lambda item: item.at, reverse=True)

    def add(self, evidence: Iterable[Evidence]) -> None:
        """Keep evidence. The same event, node and source again takes the place of the first.

        What is good and so old that it counts nothing goes: it comes with every audit.
        """
        rows = [(e.node, e.good, e.bad, e.at, e.about, e.why[:WORDS], e.source) for e in evidence]
        with self._lock, self._base:
            self._base.executemany(
                f"INSERT OR REPLACE INTO evidence ({_COLUMNS}) VALUES (?,?,?,?,?,?,?)",  # noqa: S608
                rows,
            )
            faded = self._clock() - FADED * HALF_LIFE
            self._base.execute("DELETE FROM evidence WHERE bad = 0 AND at < ?", (faded,))
            self._read = -math.inf

    def learn(self, proof: "Proof", verdict: "Verdict", own: bool) -> None:
        """Keep what a verdict shows: one's own, or a majority's of signed ones.

        Records are opened once, so whoever an audit of the answer has judged withholds nothing of
        it from a later one. A conviction stays until a surer audit says otherwise: one that looked
        at less, or less closely, washes nobody.
        """
        found = lessons(proof, verdict, own, self._clock())
        with self._lock:
            kept = dict(
                self._base.execute(
                    "SELECT node, bad FROM evidence WHERE about = ? AND source = ?",
                    (proof.session.hex(), OWN),
                )
            )
        self.add(
            item
            for item in found
            if item.node not in kept or (item.bad != WITHHELD and overrules(item, kept[item.node]))
        )

    def close(self) -> None:
        """Close the file. Idempotent."""
        with self._lock:
            self._base.close()

    def _rows(self) -> list[Evidence]:
        found = self._base.execute(f"SELECT {_COLUMNS} FROM evidence").fetchall()  # noqa: S608
        return [Evidence(*row) for row in found]

    # -- export and import ---------------------------------------------------------------------

    def export(self, who: identity.Identity) -> bytes:
        """What was seen here, signed; imports aren't passed on."""
        listed = [asdict(item) for item in self.evidence() if item.source == OWN]
        body = {
            "version": VERSION,
            "exporter": who.node_id,
            "created": self._clock(),
            "evidence": [{k: v for k, v in item.items() if k != "source"} for item in listed],
        }
        signature = who.sign(_CONTEXT + _canonical(body)).hex()
        return json.dumps(body | {"signature": signature}, indent=1).encode()

    def take(self, data: bytes, weight: float = 0.5) -> int:
        """Add somebody's export, each item at ``weight`` (0 to 1) of what it says; how many.

        An export that is taken again takes the place of its earlier self. Raises ``BadEvidence``
        for anything that isn't exactly what its exporter signed; then nothing has changed.
        """
        exporter, listed = _read_export(data)
        now = self._clock()
        taken = [
            replace(
                item,
                good=item.good * weight,
                bad=item.bad * weight,
                at=min(item.at, now),
                source=exporter,
            )
            for item in listed
        ]
        self.add(taken)
        return len(taken)


def _canonical(body: dict[str, Any]) -> bytes:
    return json.dumps(body, sort_keys=True, separators=(",", ":")).encode()


def _read_export(data: bytes) -> tuple[str, list[Evidence]]:
    """Who exported it, and what. Raises ``BadEvidence``."""
    if len(data) > EXPORT_BYTES:
        raise BadEvidence("larger than any export", field="reputation")
    try:
        body = json.loads(data)
        signature = bytes.fromhex(body.pop("signature"))
        exporter = body["exporter"]
        identity.verify(exporter, _CONTEXT + _canonical(body), signature)
        if body["version"] != VERSION:
            raise BadEvidence(f"version {body['version']} isn't known here", field="reputation")
        return exporter, [_read_item(item) for item in body["evidence"]]
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        raise BadEvidence("not an export of hearthring", field="reputation") from None
    except BadEvidence:
        raise
    except HearthringError as error:
        raise BadEvidence(f"altered, or forged: {error}", field="reputation") from None


def _read_item(item: dict[str, Any]) -> Evidence:
    numbers = good, bad, at = float(item["good"]), float(item["bad"]), float(item["at"])
    if not all(map(math.isfinite, numbers)) or not 0 <= good <= 1 or not 0 <= bad <= MOST_WEIGHT:
        raise BadEvidence("weights that no event has", field="reputation")
    texts = [str(item[name])[:WORDS] for name in ("node", "about", "why")]
    identity.public_key_of(texts[0])
    "".join(texts).encode()  # no database keeps half a surrogate pair
    return Evidence(texts[0], good, bad, at, texts[1], texts[2])
