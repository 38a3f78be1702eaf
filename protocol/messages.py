"""What travels in a stream, as frozen dataclasses. ``protocol/wire.py`` turns them into bytes."""

from dataclasses import dataclass

from hearthring.protocol.errors import HearthringError

ROOT = 0
"""The parent of the first row."""
PROMPT, GENERATED = 1, 2
SHARE_OWN, SHARE_ALL, SHARE_NONE = 0, 1, 2
"""Whose earlier rows a session may be given, and who may be given its own: this client's sessions,
those of everyone who says the same, or nobody's. Time shows whether rows were known: whoever shares
with everyone lets others find out what was asked."""


@dataclass(frozen=True, slots=True)
class Hello:
    """Who is calling, signed over the server's nonce and certificate."""

    version: int
    caller: str
    swarm: str
    signature: bytes
    membership: bytes


@dataclass(frozen=True, slots=True)
class Row:
    """One token row: ``position`` is its parent's plus one, the root stands at -1."""

    id: int
    parent: int
    position: int
    kind: int


@dataclass(frozen=True, slots=True)
class HopTime:
    """What a step cost at one stage, in seconds."""

    queue: float
    compute: float


@dataclass(frozen=True, slots=True)
class Step:
    """Rows on their way round the ring; ``states`` holds the rows that aren't ``dead``, after the
    first ``boundary`` layers: that tells which of its windows a node is to run."""

    session: bytes
    epoch: int
    step_id: int
    rows: tuple[Row, ...] = ()
    states: bytes = b""
    commit: tuple[int, ...] = ()
    drop: tuple[int, ...] = ()
    dead: tuple[int, ...] = ()
    want_output: bool = True
    signature: bytes = b""
    times: tuple[HopTime, ...] = ()
    boundary: int = 0

    @property
    def live(self) -> tuple[Row, ...]:
        """The rows that have states, in their order."""
        gone = frozenset(self.dead)
        return tuple(row for row in self.rows if row.id not in gone) if gone else self.rows


@dataclass(frozen=True, slots=True)
class Open:
    """A client's wish for a place in a stage: what it will send, from whom, and to whom.

    A ``silent`` one sends nothing before it is re-routed: it is given the rows of a session in
    which it is to take another stage's place.
    """

    session: bytes
    epoch: int
    model_id: str
    start: int
    end: int
    residual: str
    fingerprint: str
    previous: str
    next: str
    next_address: str
    max_rows: int
    nonce_hash: bytes
    previous_fingerprint: str = ""
    taps: tuple[int, ...] = ()
    sharing: int = SHARE_OWN
    cells: bool = False
    silent: bool = False


@dataclass(frozen=True, slots=True)
class Opened:
    """The stage holds ``rows`` KV rows for the session."""

    numerics: str
    rows: int


@dataclass(frozen=True, slots=True)
class Tap:
    """Residuals at an inner boundary."""

    step_id: int
    boundary: int
    ids: tuple[int, ...]
    states: bytes


@dataclass(frozen=True, slots=True)
class Cancel:
    """Rows that nobody wants any more; may overtake the ordered stream."""

    ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Finish:
    """Commit these once ``last_step`` has run, and send the receipt."""

    last_step: int
    commit: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class EvidenceQuery:
    """Ask a stage for what its predecessor signed."""


@dataclass(frozen=True, slots=True)
class Reroute:
    """A new epoch of a session: its neighbours from now on, and the rows that stay.

    ``committed`` is in path order and the client's word; rows in neither list are dropped. What
    those up to ``compare`` were is to be told, unless it is 0.
    """

    epoch: int
    previous: str
    previous_fingerprint: str
    next: str
    next_address: str
    committed: tuple[int, ...] = ()
    live: tuple[int, ...] = ()
    compare: int = 0


@dataclass(frozen=True, slots=True)
class Rerouted:
    """A stage has adopted an epoch, and holds all living rows up to ``newest``.

    ``took`` and ``sent`` say what the rows to be compared were (``verify.rowhash.joined``); empty,
    if there are none or it lacks one.
    """

    epoch: int
    newest: int
    took: bytes = b""
    sent: bytes = b""


@dataclass(frozen=True, slots=True)
class Replay:
    """Send these retained rows on again, as step ``step_id``; to ``next`` if one is named, which
    is to take the place of the stage that comes next."""

    step_id: int
    rows: tuple[int, ...]
    next: str = ""
    next_address: str = ""


@dataclass(frozen=True, slots=True)
class Probe:
    """Is anybody there?"""

    number: int


@dataclass(frozen=True, slots=True)
class Progress:
    """The answer to a probe: the last step that ran, and how many wait or run."""

    number: int
    step_id: int
    waiting: int


@dataclass(frozen=True, slots=True)
class Trouble:
    """``node`` stands in a session's way; the stage that says so holds the session still."""

    epoch: int
    node: str
    error: HearthringError


@dataclass(frozen=True, slots=True)
class SignedRows:
    """The row hashes of one step and their sender's signature."""

    epoch: int
    step_id: int
    ids: tuple[int, ...]
    hashes: tuple[bytes, ...]
    signature: bytes


@dataclass(frozen=True, slots=True)
class Evidence:
    """Everything a stage was sent, by hash, with the sender's signatures."""

    received: tuple[SignedRows, ...]


@dataclass(frozen=True, slots=True)
class Receipt:
    """A receipt's exact bytes and their signature; ``verify.receipts`` reads them."""

    body: bytes
    signature: bytes


@dataclass(frozen=True, slots=True)
class SignedVerdict:
    """A verdict's exact bytes and their signature; ``verify.signed_verdict`` reads them."""

    body: bytes
    signature: bytes


@dataclass(frozen=True, slots=True)
class StepTime:
    """Seconds that a step of ``rows`` rows of a kind takes through a node's window."""

    kind: int
    rows: int
    seconds: float


@dataclass(frozen=True, slots=True)
class StatusReply:
    """A node about itself. ``timings`` are in order of kind and rows."""

    node: str
    record: bytes
    dht_addresses: tuple[str, ...]
    sessions: int
    uptime: float
    version: int
    timings: tuple[StepTime, ...] = ()


@dataclass(frozen=True, slots=True)
class DirectoryReply:
    """Signed records of a model."""

    model_id: str
    records: tuple[bytes, ...]


AttachUp = Open | Cancel | Finish | EvidenceQuery | Reroute | Replay | Probe
AttachDown = Opened | Step | Tap | Receipt | Evidence | Rerouted | Progress | Trouble
