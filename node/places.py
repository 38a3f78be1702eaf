"""Places in a stage: who has one, what it may use, and how it ends."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import count

from hearthring.node.feeding import Feeding
from hearthring.node.orders import check_wish
from hearthring.node.prefix import PrefixTree
from hearthring.node.stage_session import StageSession
from hearthring.protocol.backlog import Backlog
from hearthring.protocol.errors import (
    HearthringError,
    LayersOutOfRange,
    QuotaExceeded,
    StaleEpoch,
    TooLarge,
    WrongClass,
)
from hearthring.protocol.invitation import split_address
from hearthring.protocol.limits import LIMITS
from hearthring.protocol.links import Link, Links
from hearthring.protocol.messages import (
    AttachDown,
    Finish,
    Open,
    Opened,
    Progress,
    Replay,
    Rerouted,
    Step,
    Trouble,
)
from hearthring.protocol.row_type import RowType
from hearthring.protocol.transport import Transport
from hearthring.protocol.wire import encode_down, encode_step
from hearthring.shards.engine import Engine, Window

MakeSession = Callable[[Open, str, Engine, Transport], StageSession]


def honest_session(wish: Open, client: str, engine: Engine, transport: Transport) -> StageSession:
    """The session of a node that does what it says."""
    return StageSession(wish, client, engine, transport.identity)


def place_key(session: bytes, start: int) -> bytes:
    """The name of a place: a session may have several at one node, of different windows."""
    return session + start.to_bytes(4, "big")


def _layer_rows(wish: Open) -> int:
    """KV rows of one layer each that a wish takes."""
    return wish.max_rows * (wish.end - wish.start)


@dataclass(slots=True)
class Place:
    """A session with its ways out."""

    number: int
    """No two places of a stage have the same, even if one takes the other's session over."""
    session: StageSession
    outbox: Backlog[bytes]
    failed: "asyncio.Future[None]"
    link: Link | None = None
    queued: int = 0
    """Steps that wait for their turn."""
    queued_bytes: int = 0
    under_way: int = 0
    """Steps that wait or run."""
    ready: Opened | Rerouted | None = None
    """What to tell the client once the next stage is linked."""
    wanted: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the next stage is to be linked."""
    finish: Finish | None = None
    """What the client wants signed, in this epoch."""
    finishing: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when that has changed."""
    touched: float = field(default_factory=time.monotonic)
    feeding: Feeding = field(default_factory=Feeding)
    orders: Backlog[bytes] = field(default_factory=lambda: Backlog(LIMITS.orders))
    """What the client wants, as it came: read, such a frame may take ten times the room."""
    opening: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held while its cells are shown."""
    _last_run: int = 0
    _waiters: list[tuple[int, "asyncio.Future[None]"]] = field(default_factory=list)
    _unuse: Callable[[], None] = lambda: None
    _reported: tuple[int, frozenset[str]] = (-1, frozenset())
    """Nodes that the client was told of, and in which epoch."""

    def fail(self, error: HearthringError) -> None:
        """End the session; its client is told why."""
        if not self.failed.done():
            self.failed.set_exception(error)

    def queue(self, size: int) -> bool:
        """A step of so many bytes is to wait for its turn; False ends the session instead."""
        self.queued, self.queued_bytes = self.queued + 1, self.queued_bytes + size
        if self.queued > LIMITS.steps_in_flight or self.queued_bytes > LIMITS.backlog_bytes:
            self.fail(QuotaExceeded("too many steps wait here", field="steps in flight"))
            return False
        self.touched = time.monotonic()
        self.under_way += 1
        return True

    def unqueue(self, size: int) -> None:
        """It is its turn."""
        self.queued, self.queued_bytes = self.queued - 1, self.queued_bytes - size

    def ran(self, step_id: int) -> None:
        """A step has run and left."""
        self._last_run = step_id
        if self._waiters:
            for awaited, waiter in self._waiters:
                if awaited <= step_id and not waiter.done():
                    waiter.set_result(None)

    async def has_run(self, step_id: int) -> None:
        """Wait until a step has run and left."""
        if self._last_run < step_id:
            waiter = step_id, asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            try:
                await waiter[1]
            finally:
                self._waiters.remove(waiter)

    def order(self, data: bytes) -> None:
        """The client wants something; too much that waits ends the session."""
        try:
            self.orders.put(data, len(data))
        except asyncio.QueueFull:
            self.fail(QuotaExceeded("too many orders wait here", field="attach"))

    def finish_with(self, order: Finish | None) -> None:
        """The client wants a receipt, or after all none in this epoch."""
        self.finish = order
        self.finishing.set()

    def link_to_next(self, ready: Opened | Rerouted) -> None:
        """The next stage is to be linked, whatever it was before, and the client told so."""
        self.ready = ready
        self.wanted.set()

    async def connect(self, links: Links) -> None:
        """Link to whoever gets the session's rows now, and tell the client that it is done, or why
        it can't be."""
        self.disconnect()
        if not self.session.last:
            wish = self.session.wish
            broken = partial(self.report, about=wish)
            try:
                self.link = await links.get(wish.next_address, wish.next)
            except HearthringError as error:
                return broken(error)
            self._unuse = self.link.use(broken)
        if self.ready is not None:
            self.post(self.ready)

    def disconnect(self) -> None:
        """Leave the link to the next stage."""
        self._unuse()
        self.link, self._unuse = None, lambda: None

    def report(self, error: HearthringError, node: str = "", about: Open | None = None) -> None:
        """Tell the client what stands in the way: the next stage, or ``node``. Each once an epoch;
        if it is ``about`` another one than the present, not at all: the next stage is another."""
        wish, who = self.session.wish, node or self.session.wish.next
        if about not in (None, wish):
            return
        epoch, named = self._reported
        if epoch != wish.epoch:
            named = frozenset()
        if who not in named:
            self._reported = wish.epoch, named | {who}
            self.post(Trouble(wish.epoch, who, error))

    def pass_on(self, step: Step) -> None:
        """Send a step to the next stage, or from the last one to the client.

        A step that can't leave is not lost: its rows are retained, and the client is told.
        """
        wish = self.session.wish
        if step.epoch != wish.epoch or wish.silent:
            return
        if self.session.last:
            if step.want_output:
                self.post(step)
        elif self.link is not None:
            try:
                self.link.post(encode_step(step))
            except TooLarge as error:
                self.fail(error)
            except HearthringError as error:
                self.report(error)

    def send_again(self, order: Replay, step: Step) -> None:
        """Send what was retained, to whom the order says."""
        if order.next:
            self.feeding.post(order, step)
        else:
            self.pass_on(step)

    def progress(self, number: int) -> Progress:
        """The answer to a client's probe."""
        return Progress(number, self.session.next_step - 1, self.under_way)

    def post(self, frame: AttachDown) -> None:
        """Queue a frame for the client. Never blocks: a client that doesn't read is ended."""
        data = encode_down(frame)
        try:
            self.outbox.put(data, len(data))
        except asyncio.QueueFull:
            self.fail(QuotaExceeded("the client reads too slowly", field="attach"))


class Places:
    """The places of one stage. Everything asked for is checked before it is allocated.

    ``kv_rows`` is the number of KV rows, of all the engine's layers, that all sessions may hold
    together: a session that runs half the layers takes half of each. ``row_bytes`` is what the keys
    and values of one row take in one layer, 0 where nobody counts; ``windows`` are the engine's, if
    it has several.
    """

    def __init__(
        self,
        transport: Transport,
        engine: Engine,
        model_id: str,
        kv_rows: int,
        make_session: MakeSession,
        row_bytes: int = 0,
        windows: Sequence[Window] = (),
    ) -> None:
        self._windows = tuple(windows) or ((engine.start, engine.end),)
        self._row_bytes, self._bytes_per_peer = row_bytes, Counter[str]()
        self._layers = sum(end - start for start, end in self._windows)
        self.empty = asyncio.Event()
        self._free = kv_rows * self._layers
        """Free rows of one layer each."""
        self.empty.set()
        self._transport, self._engine, self._model_id = transport, engine, model_id
        self._make_session = make_session
        self.prefixes = PrefixTree(engine.new_cache, kv_rows)
        """Rows of ended sessions: they have what room the open ones leave."""
        self._taken: dict[bytes, Place] = {}
        self._numbers = count()
        self._per_peer = Counter[str]()

    @property
    def free_rows(self) -> int:
        """KV rows of all layers that are free."""
        return self._free // self._layers

    def __len__(self) -> int:
        """Places taken."""
        return len(self._taken)

    def find(self, session: bytes, start: int) -> Place | None:
        """The place of a session that is open, at the window that begins at ``start``."""
        return self._taken.get(place_key(session, start))

    def end_all(self, error: HearthringError) -> None:
        """End every session."""
        for place in self._taken.values():
            place.fail(error)

    def report_all(self, error: HearthringError, node: str) -> None:
        """Tell every client what stands in its way; sessions go on."""
        for place in self._taken.values():
            place.report(error, node)

    @contextmanager
    def take(self, wish: Open, client: str) -> Iterator[Place]:
        """A place for as long as the block runs. Raises what the wish is refused with."""
        self._check_fit(wish, client)
        self._supersede(wish, client)
        self._check_quota(wish, client)
        session = self._make_session(wish, client, self._engine, self._transport)
        failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        # Whether anybody still listens when a session fails is no reason for a warning.
        failed.add_done_callback(lambda done: done.cancelled() or done.exception())
        place = Place(next(self._numbers), session, Backlog(LIMITS.outbox), failed)
        self._taken[place_key(wish.session, wish.start)] = place
        self.empty.clear()
        self._per_peer[client] += 1
        self._bytes_per_peer[client] += self._bytes(wish)
        self._give(-_layer_rows(wish))
        session.share(self.prefixes)
        try:
            yield place
        finally:
            failed.cancel()
            place.disconnect()
            self._release(place)

    def _release(self, place: Place) -> None:
        """What a place had is free for others, once."""
        wish, client = place.session.wish, place.session.client
        key = place_key(wish.session, wish.start)
        if self._taken.get(key) is not place:
            return
        del self._taken[key]
        self._per_peer[client] -= 1
        self._bytes_per_peer[client] -= self._bytes(wish)
        if not self._per_peer[client]:  # whoever comes once isn't counted for ever
            del self._per_peer[client], self._bytes_per_peer[client]
        self._give(_layer_rows(wish))
        if not self._taken:
            self.empty.set()

    def _bytes(self, wish: Open) -> int:
        """What the keys and values asked for take."""
        return _layer_rows(wish) * self._row_bytes

    def _give(self, layer_rows: int) -> None:
        self._free += layer_rows
        self.prefixes.limit = self.free_rows

    def _check_fit(self, wish: Open, client: str) -> None:
        """Refuse what this stage doesn't serve."""
        numerics = self._engine.numerics
        check_wish(wish)
        if wish.model_id != self._model_id:
            raise LayersOutOfRange("this node serves another model", field="open.model_id")
        fits = (start <= wish.start < wish.end <= end for start, end in self._windows)
        if not any(fits):
            served = ", ".join(f"[{start}, {end})" for start, end in self._windows)
            raise LayersOutOfRange(
                f"[{wish.start}, {wish.end}) is outside {served}", field="open.start"
            )
        if RowType.parse(wish.residual, "open.residual").residual != numerics.residual:
            raise WrongClass(f"this stage has {numerics.residual.value}", field="open.residual")
        if wish.fingerprint != numerics.fingerprint:
            raise WrongClass(f"this stage is {numerics.name}", field="open.fingerprint")
        if any(not wish.start < tap <= wish.end for tap in wish.taps):
            raise LayersOutOfRange("a boundary outside the window", field="open.taps")
        if wish.next != client:
            split_address(wish.next_address, "open.next_address")

    def _supersede(self, wish: Open, client: str) -> None:
        """End a session that its own client opens again in a later epoch: it has lost this one.

        What that had is free at once: the client needs as much again, and may be all who fits here.
        """
        old = self._taken.get(place_key(wish.session, wish.start))
        if old is None or old.session.client != client:
            return
        if wish.epoch > old.session.wish.epoch:
            old.fail(StaleEpoch("opened again in a later epoch", field="open.epoch"))
            self._release(old)

    def _check_quota(self, wish: Open, client: str) -> None:
        """Refuse what is more than one peer, or all together, may hold."""
        if place_key(wish.session, wish.start) in self._taken:
            raise QuotaExceeded("the session is open already", field="open.session")
        if self._per_peer[client] >= LIMITS.sessions_per_peer:
            raise QuotaExceeded(f"more than {LIMITS.sessions_per_peer}", field="sessions per peer")
        if len(self._taken) >= LIMITS.sessions:
            raise QuotaExceeded(f"more than {LIMITS.sessions}", field="sessions")
        if wish.max_rows > LIMITS.session_rows or _layer_rows(wish) > self._free:
            raise QuotaExceeded(
                f"{wish.max_rows} rows asked for, {self.free_rows} are free", field="open.max_rows"
            )
        if self._bytes_per_peer[client] + self._bytes(wish) > LIMITS.kv_bytes_per_peer:
            raise QuotaExceeded(
                f"{self._bytes(wish)} bytes of keys and values on top of "
                f"{self._bytes_per_peer[client]}, and {LIMITS.kv_bytes_per_peer} are a peer's",
                field="KV bytes per peer",
            )
