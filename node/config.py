"""What a node process is told once, at start."""

import contextlib
import fcntl
import math
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import platformdirs

from hearthring.node.places import MakeSession, honest_session
from hearthring.node.uploads import UPLOAD_RATE
from hearthring.protocol.errors import BadOption
from hearthring.protocol.identity import Identity
from hearthring.protocol.invitation import Invitation
from hearthring.protocol.tensors import Residual
from hearthring.shards.engine import Engine, Window
from hearthring.shards.engines import EngineOptions
from hearthring.verify.judge import Judge

if TYPE_CHECKING:  # torch takes a second to import, and not every engine needs it
    from hearthring.shards.torch_linear import Load

DEFAULT_PORT = 4870


@dataclass(frozen=True, slots=True)
class NodeConfig:
    """``layers``: windows that don't overlap; None: the node picks the worst-served one, of at most
    ``max_layers``.

    ``listen`` None: every address, port 4870 or, if that is taken, any. ``announce`` is the
    HOST:PORT that others dial, where it isn't what the node listens on. ``threads`` None: as many
    as make the engine fastest. ``model`` None: the one that the seed serves, without a seed
    ``smollm2``. ``upload_rate``: bytes per second at which layers are given to peers; 0 is no
    limit. ``link``: bytes per second up and down that are announced, 0 where it isn't known.
    """

    model: str | None = None
    join: tuple[Invitation, ...] = ()
    listen: str | None = None
    announce: str | None = None
    layers: tuple[Window, ...] | None = None
    max_layers: int | None = None
    data: Path | None = None
    engine: str = "auto"
    residual: Residual | None = None
    threads: int | None = None
    options: EngineOptions = field(default_factory=EngineOptions)
    owner_key: Path | None = None
    swarm_key: Path | None = None
    upload_rate: float = UPLOAD_RATE
    link: tuple[float, float] = (0.0, 0.0)


@dataclass(frozen=True, slots=True)
class NodeHooks:
    """Seams of a node, for tests that need one that doesn't do what it says."""

    load: "Callable[[Load], Load]" = lambda load: load
    engine: Callable[[Engine], Engine] = lambda engine: engine
    session: MakeSession = honest_session
    sent: Callable[[bytes], bytes] = lambda data: data
    judge: Callable[[Judge], Judge] = lambda judge: judge


class DataFolder:
    """A node's own folder, locked while the node runs: two nodes never share an identity."""

    def __init__(self, wish: Path | None) -> None:
        base = wish or Path(platformdirs.user_data_dir("hearthring")) / "node"
        for number in range(1, 2 if wish else 65):
            self.path = base if number == 1 else base.with_name(f"{base.name}-{number}")
            try:
                self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
                self._lock = os.open(self.path / "lock", os.O_CREAT | os.O_RDWR, 0o600)
            except OSError as error:
                raise BadOption(
                    f"{self.path} can't be used: {(error.strerror or str(error)).lower()}",
                    field="data",
                ) from None
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except OSError:
                os.close(self._lock)
        raise BadOption(
            f"a node is running with {self.path}", field="data", mend="give each node its own"
        )

    @property
    def identity(self) -> Path:
        """Where the identity's key is."""
        return self.path / "identity.key"

    def close(self) -> None:
        """Let another node have it."""
        os.close(self._lock)


def read_layers(text: str) -> tuple[Window, ...]:
    """``A:B``, or several joined by commas, as windows in order. Raises ``BadOption``."""
    windows = sorted(_read_window(part) for part in text.split(","))
    if any(before[1] > after[0] for before, after in pairwise(windows)):
        raise BadOption(
            f"{text!r} has layers twice",
            field="layers",
            mend="let each window begin where the one before ends, or behind it",
        )
    return tuple(windows)


def _read_window(text: str) -> Window:
    start, colon, end = text.partition(":")
    if not (colon and start.isdecimal() and end.isdecimal() and int(start) < int(end)):
        raise BadOption(
            f"{text!r} isn't START:END",
            field="layers",
            mend="for example 0:8, end excluded, or 0:8,16:24",
        )
    return int(start), int(end)


def read_link(text: str) -> tuple[float, float]:
    """``UP:DOWN`` in Mbit/s as bytes per second. Raises ``BadOption``."""
    try:
        up, down = (float(part) * 1e6 / 8 for part in text.split(":"))
    except ValueError:
        up = down = math.nan
    if not (0 < up < math.inf and 0 < down < math.inf):
        raise BadOption(f"{text!r} isn't UP:DOWN", field="link", mend="for example 40:100")
    return up, down


def read_swarm_key(path: Path) -> bytes:
    """A swarm's key out of a file: 32 bytes or more, or so many in hex. Raises ``BadOption``."""
    key = _in_hex(_read_key_file(path, "swarm-key").strip())
    if len(key) < 32:
        raise BadOption(
            f"{path} holds {len(key)} bytes, at least 32 are needed",
            field="swarm-key",
            mend=_make_one(path),
        )
    return key


def read_owner_key(path: Path, say: Callable[[str], None]) -> Identity:
    """An owner out of a file: 32 bytes in hex, or a key as nodes keep theirs.

    A missing file is made, and that is said: a mistyped name makes another owner. Raises
    ``BadOption``, and ``BadIdentityFile`` for a file that holds something else.
    """
    if not path.exists():
        owner = Identity.load_or_create(path)
        say(f"{owner.node_id}, new in {path}: give that file to your other nodes")
        return owner
    raw = _read_key_file(path, "owner-key")
    seed = _in_hex(raw.strip())
    wrong = _make_one(path)
    owner = Identity.of_seed(seed) if len(seed) == 32 else Identity.read(raw, path, wrong)
    say(owner.node_id)
    return owner


def _read_key_file(path: Path, field: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        mend = _make_one(path) if isinstance(error, FileNotFoundError) else ""
        why = (error.strerror or str(error)).lower()
        raise BadOption(f"{path}: {why}", field=field, mend=mend) from None


def _in_hex(text: bytes) -> bytes:
    """What hex stands for; whatever isn't hex, as it is."""
    with contextlib.suppress(ValueError):
        return bytes.fromhex(text.decode("ascii"))
    return text


def _make_one(path: Path) -> str:
    return f"make one with `openssl rand -hex 32 > {path}`"
