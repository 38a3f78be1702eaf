"""What a client process is told once, at start."""

import os
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from hearthring.client.replacement import PATIENCE
from hearthring.protocol.errors import BadIdentityFile, BadOption
from hearthring.protocol.identity import Identity
from hearthring.protocol.invitation import Invitation
from hearthring.protocol.messages import SHARE_ALL, SHARE_NONE, SHARE_OWN
from hearthring.protocol.row_type import WIRES
from hearthring.shards.engines import ENGINES

EXACT, INT8 = WIRES
SHARING = {"own": SHARE_OWN, "all": SHARE_ALL, "none": SHARE_NONE}


@dataclass(frozen=True, slots=True)
class ClientConfig:
    """``threads``: of embedding and head. ``data``: where the client's identity is kept.

    ``model`` None: the one that the seeds serve.

    ``sharing``: whose earlier rows stages may use for this client's prompts, and who may profit
    from this client's: its ``own`` sessions, those of ``all`` who say the same, or ``none``.

    ``allow_class_change``: whether a request may go on in another numerics class where a lost stage
    can't be replaced by one of the same. Its tokens from then on may be others.

    ``patience``: seconds that a request waits for a whole route, at its begin or after a loss.
    ``engine``: what computes embedding and head, as in ``open_ends``.

    ``wire``: how rows travel: ``exact``, or as ``int8`` blocks, about half the bytes of fp16, which
    changes what every stage computes from then on.

    ``remember``: whether the tokens of requests and answers are kept on this disk, to guess later
    ones from (``client/remembered.py``).
    """

    join: tuple[Invitation, ...]
    model: str | None = None
    threads: int = 1
    data: Path | None = None
    sharing: str = "own"
    patience: float = PATIENCE
    allow_class_change: bool = False
    engine: str = "auto"
    remember: bool = False
    wire: str = EXACT

    def identity(self) -> Identity:
        """The client's identity; one for this process alone if the folder can't be written.

        Raises ``BadIdentityFile`` for a file that is there and isn't one.
        """
        data = self.data or Path(platformdirs.user_data_dir("hearthring"))
        try:
            return Identity.load_or_create(path := data / "client.key")
        except BadIdentityFile:
            if os.path.lexists(path):
                raise
            return Identity.new()


def sharing_of(wish: str) -> str:
    """A key of ``SHARING``. Raises ``BadOption``."""
    if wish not in SHARING:
        raise BadOption(f"{wish!r} isn't allowed", field="sharing", mend="own, all or none")
    return wish


def patience_of(wish: float) -> float:
    """Seconds. Raises ``BadOption``."""
    if not 0 <= wish <= 3600:
        raise BadOption(f"{wish} isn't allowed", field="patience", mend="allowed: 0 to 3600")
    return wish


def wire_of(wish: str) -> str:
    """One of ``WIRES``. Raises ``BadOption``."""
    if wish not in WIRES:
        raise BadOption(f"there is no {wish!r}", field="wire", mend=", ".join(WIRES))
    return wish


def engine_of(wish: str) -> str:
    """One of ``ENGINES``. Raises ``BadOption``."""
    if wish not in ENGINES:
        raise BadOption(f"there is no {wish!r}", field="engine", mend=", ".join(ENGINES))
    return wish


def threads_of(wish: int | None) -> int:
    """The number of threads: as asked, else ``HEARTHRING_THREADS``, else half the processors.

    Raises ``BadOption``.
    """
    if wish is None and (text := os.environ.get("HEARTHRING_THREADS")):
        if not text.isdigit():
            raise BadOption(f"{text!r} isn't a number", field="HEARTHRING_THREADS")
        wish = int(text)
    if wish is None:
        return max(1, (os.cpu_count() or 1) // 2)
    if not 1 <= wish <= 1024:
        raise BadOption(f"{wish} isn't allowed", field="threads", mend="allowed: 1 to 1024")
    return wish
