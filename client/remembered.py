"""Texts of earlier sessions, as tokens on this user's disk: what ``ngrams`` guesses from.

Nothing is kept unless the user asks for it (``--remember``). One SQLite file, which nobody else may
read, for all programs of a user; the oldest texts go when it grows beyond its bound. What was
forgotten is overwritten, too.
"""

import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import platformdirs
from numpy.typing import NDArray

from hearthring.protocol.errors import BadMemory
from hearthring.protocol.private import private_file

Tokens = NDArray[np.uint32]

KEPT_BYTES = 2 << 20
"""Bytes of all texts; four per token, so half a million tokens."""
TEXT_TOKENS = 8192
"""Tokens of a text that are kept, the last ones."""
_APPLICATION, _VERSION = 0x48527467, 1
"""Marks of the file: ``HRtg``, and which columns it has."""
_TABLE = """
CREATE TABLE IF NOT EXISTS text (
    id INTEGER PRIMARY KEY AUTOINCREMENT, vocabulary TEXT NOT NULL, model TEXT NOT NULL,
    name TEXT NOT NULL, at REAL NOT NULL, tokens BLOB NOT NULL
)
"""
_BEYOND = """
DELETE FROM text WHERE id IN (
    SELECT id FROM (SELECT id, sum(length(tokens)) OVER (ORDER BY id DESC) AS bytes FROM text)
    WHERE bytes > ?
)
"""
_SHARES = """
SELECT vocabulary, model, max(name), count(*), sum(length(tokens)) / 4, min(at), max(at)
FROM text GROUP BY vocabulary, model ORDER BY max(at) DESC
"""


@dataclass(frozen=True, slots=True)
class Share:
    """What is remembered of one model: how many texts and tokens, from when to when (wall-clock
    seconds). ``vocabulary`` is the manifest's hash of the tokenizer."""

    vocabulary: str
    model: str
    name: str
    texts: int
    tokens: int
    oldest: float
    latest: float


class Remembered:
    """Texts in the file ``path``, by vocabulary. Safe from several threads and processes.

    ``add`` blocks until the text is on the disk: not for the event loop. Every method raises
    ``BadMemory`` when the file is none of this release's, or can't be used; it is left as it is.
    """

    def __init__(
        self, path: Path, most: int = KEPT_BYTES, clock: Callable[[], float] = time.time
    ) -> None:
        self.path, self._most, self._clock = path, most, clock

    def check(self) -> None:
        """Make the file, if it isn't there; raise if it is no such file."""
        with self._opened():
            pass

    def add(self, vocabulary: str, model: str, name: str, tokens: Sequence[int]) -> None:
        """Remember a text; the oldest ones beyond the bound go."""
        kept = np.asarray(tokens[-TEXT_TOKENS:], "<u4").tobytes()
        row = (vocabulary, model, name, self._clock(), kept)
        with self._opened() as base, base:
            base.execute(
                "INSERT INTO text (vocabulary, model, name, at, tokens) VALUES (?, ?, ?, ?, ?)", row
            )
            base.execute(_BEYOND, (self._most,))

    def after(self, last: int, vocabulary: str) -> list[tuple[int, Tokens]]:
        """Texts of a vocabulary with numbers above ``last``, by number, which is the order in which
        they came. Numbers are above 0 and never used twice."""
        if not self.path.exists():
            return []
        with self._opened() as base:
            found = base.execute(
                "SELECT id, tokens FROM text WHERE vocabulary = ? AND id > ? ORDER BY id",
                (vocabulary, last),
            ).fetchall()
        return [(int(number), self._tokens(kept)) for number, kept in found]

    def shares(self) -> list[Share]:
        """What is there, the model that was used last first."""
        if not self.path.exists():
            return []
        with self._opened() as base:
            found = base.execute(_SHARES).fetchall()
        return [Share(*row) for row in found]

    def forget(self, model: str | None = None) -> int:
        """Forget all texts, or those of one model id; returns how many.

        Without a model the file goes, whatever is in it.
        """
        count, everything = 0, model is None
        if self.path.exists():
            try:
                with self._opened() as base, base:
                    wanted = "DELETE FROM text WHERE model = ? OR ?"
                    count = base.execute(wanted, (model, everything)).rowcount
            except BadMemory:
                if not everything:
                    raise
        if everything:
            try:
                self.path.unlink(missing_ok=True)
            except OSError as error:
                raise self._bad(error) from None
        return count

    @contextmanager
    def _opened(self) -> Iterator[sqlite3.Connection]:
        try:
            private_file(self.path)
            with closing(sqlite3.connect(self.path, timeout=5.0)) as base:
                base.execute("PRAGMA secure_delete = ON")
                with base:
                    base.execute("BEGIN IMMEDIATE")
                    self._check(base)
                yield base
        except (OSError, sqlite3.Error) as error:
            raise self._bad(error) from None

    def _check(self, base: sqlite3.Connection) -> None:
        """Make a new file ours, and let no other's be changed."""
        marks = tuple(
            base.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("application_id", "user_version")
        )
        if marks == (_APPLICATION, _VERSION):
            return
        if marks != (0, 0) or base.execute("SELECT 1 FROM sqlite_schema").fetchone():
            raise sqlite3.DatabaseError("another program's, or another release's")
        base.execute(f"PRAGMA application_id = {_APPLICATION}")
        base.execute(f"PRAGMA user_version = {_VERSION}")
        base.execute(_TABLE)

    def _tokens(self, kept: object) -> Tokens:
        if not isinstance(kept, bytes) or len(kept) % 4 or len(kept) > 4 * TEXT_TOKENS:
            raise self._bad("a text in it is damaged")
        return np.frombuffer(kept, "<u4")

    def _bad(self, error: object) -> BadMemory:
        return BadMemory(
            f"{error}",
            field=str(self.path),
            mend="`hearthring draft forget` removes it, and remembering begins anew",
        )


def open_remembered(data: Path | None = None) -> Remembered:
    """The user's, in the folder of the client's identity."""
    folder = data or Path(platformdirs.user_data_dir("hearthring"))
    return Remembered(folder / "texts.db")
