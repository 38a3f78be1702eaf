"""Fetching parts of a model from peers.

A part is asked for in pieces of 1 MiB, from all peers that have it at once. A peer first vouches
for the part with the hashes of its pieces; peers that vouch for the same are one group, and the
largest group is asked first. A piece that isn't what its sender vouched for convicts the sender, a
part that isn't what the manifest says convicts the group: each is convicted by its own words, and
isn't asked again. A peer that dies or stalls costs the piece it had in hand, which another sends.
"""

import asyncio
import hashlib
import random
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field

from hearthring.protocol.asking_layers import LayersPeer
from hearthring.protocol.errors import HearthringError, Malformed, ModelNotHere, TooLarge
from hearthring.protocol.layers import Outline
from hearthring.protocol.limits import LIMITS
from hearthring.protocol.tasks import all_or_none, race
from hearthring.protocol.transport import Transport
from hearthring.shards.layer_store import ComingPart, LayerStore
from hearthring.shards.manifest import Progress
from hearthring.shards.parts import size_of

LANES = 2
"""Pieces of one part that one peer is asked for at once."""
PARTS_AT_ONCE = 3
VOUCHERS = 8
"""Peers whose hashes are asked for, per part."""
FAILURES = 3
"""Failures in a row after which a peer is left alone for the rest of an attempt."""
STRAGGLER = 2.0
"""Seconds after which a piece in hand is asked of another peer too, when no other is left."""
PAUSE, LONGEST_PAUSE = 0.25, 4.0


@dataclass(frozen=True, slots=True)
class Source:
    """A node that may have parts, and where it is."""

    node: str
    address: str


FindSources = Callable[[], Awaitable[Sequence[Source]]]


@dataclass(slots=True)
class _Known:
    """What was learnt of a peer."""

    peer: LayersPeer
    parts: frozenset[str]


class Fetcher:
    """Fetches parts of one model into its store; see ``fetch``.

    ``find_sources`` is asked again whenever nobody known can send what is missing.
    ``refused(node, why)`` is called once for each peer that sent what it shouldn't.
    """

    def __init__(
        self,
        transport: Transport,
        store: LayerStore,
        find_sources: FindSources,
        progress: Progress,
        refused: Callable[[str, str], None] = lambda node, why: None,
        patience: float = LIMITS.part,
    ) -> None:
        self._transport, self._store, self._find = transport, store, find_sources
        self._progress, self._refused, self._patience = progress, refused, patience
        self._peers: dict[str, _Known] = {}
        self._met: list[LayersPeer] = []
        self._bad = set[str]()
        self._why: dict[str, str] = {}
        self._looking = asyncio.Lock()
        self._moved = self._looked = -1e9
        self._done = self._total = 0
        self._here = Counter[str]()
        """Bytes on the disk by part, as far as they were counted."""

    async def fetch(self, wanted: Iterable[str], got: Callable[[str], None]) -> None:
        """Fetch these parts; ``got`` is called on a thread with each once it is whole.

        Whatever else happens, a part bears its name only when its bytes have the manifest's hash.
        After an error or a cancellation nothing runs on, and what was written is found by the next
        attempt. Raises ``ModelNotHere`` when no new piece came for ``patience`` seconds, neither
        here nor to another process that has a part in hand, and ``DiskFull``.
        """
        wanted = tuple(wanted)
        self._here.clear()
        self._done, self._total = 0, sum(size_of(self._store.manifest, p) or 0 for p in wanted)
        self._moved = _now()
        gate = asyncio.Semaphore(PARTS_AT_ONCE)

        async def one(part: str) -> None:
            async with gate:
                await self._until_here(part)
                await asyncio.to_thread(got, part)

        try:
            await all_or_none(*(one(part) for part in wanted))
        finally:
            met, self._met, self._peers = self._met, [], {}
            for peer in met:
                await peer.close()

    async def _until_here(self, part: str) -> None:
        """Try, pause and look for other peers until the part is here or patience ends."""
        pause = PAUSE
        if not any(part in known.parts for known in self._peers.values()):
            await self._look()
        while True:
            before = self._moved
            if await self._attempt(part):
                return
            if _now() - self._moved > self._patience:
                raise ModelNotHere(
                    f"{part} couldn't be fetched: {self._reasons(part)}",
                    field="join",
                    mend="is a node that has it running, and reachable?",
                )
            pause = PAUSE if self._moved > before else min(LONGEST_PAUSE, 2 * pause)
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311
            await self._look()

    def _reasons(self, part: str) -> str:
        said = "; ".join(f"{node[-8:]}: {why}" for node, why in sorted(self._why.items()))
        return said or f"none of {len(self._peers)} nodes has it"

    async def _look(self) -> None:
        """Find peers and ask them what they have, at most once per pause."""
        async with self._looking:
            if _now() - self._looked < PAUSE:
                return
            try:
                sources = await self._find()
            except HearthringError as error:
                self._why["directory"] = error.message
                sources = ()
            await all_or_none(*(self._meet(source) for source in sources))
            self._looked = _now()

    async def _meet(self, source: Source) -> None:
        if source.node in self._bad:
            return
        known = self._peers.get(source.node)
        peer = known.peer if known else None
        if peer is None or peer.address != source.address:
            peer = LayersPeer(
                self._transport, source.address, source.node, self._store.manifest.model_id
            )
            self._met.append(peer)
        try:
            parts = frozenset(await peer.holdings())
        except HearthringError as error:
            self._why[source.node] = error.message
            await peer.close()
            self._peers.pop(source.node, None)
            return
        self._why.pop(source.node, None)
        self._peers[source.node] = _Known(peer, parts)

    async def _attempt(self, part: str) -> bool:
        """Whether the part is here now."""
        for outline, peers in await self._outlines(part):
            coming = await self._begin(part, outline.size)
            if coming is None:
                return True
            try:
                if not await _Download(self, part, coming, outline, peers).run():
                    continue
                if await asyncio.to_thread(coming.finish):
                    return True
                for peer in peers:
                    self.convict(peer, f"vouched for hashes that aren't those of {part}")
            finally:
                # Not on the loop: a thread that still writes or hashes for who was cancelled is
                # waited for.
                await _wholly(coming.close)
        return not self._store.missing((part,))

    async def _outlines(self, part: str) -> list[tuple[Outline, list[LayersPeer]]]:
        """Who vouches for what, the most vouched for first."""
        holders = [known.peer for known in self._peers.values() if part in known.parts]
        random.shuffle(holders)
        size, groups = size_of(self._store.manifest, part), dict[Outline, list[LayersPeer]]()

        async def ask(peer: LayersPeer) -> None:
            try:
                outline = await peer.outline(part)
            except HearthringError as error:
                self.failed(peer, error)
                return
            if outline.size > LIMITS.text_part_bytes if size is None else outline.size != size:
                self.convict(peer, f"gave {part} a size of {outline.size}")
                return
            groups.setdefault(outline, []).append(peer)

        await all_or_none(*(ask(peer) for peer in holders[:VOUCHERS]))
        return sorted(groups.items(), key=lambda group: -len(group[1]))

    async def _begin(self, part: str, size: int) -> ComingPart | None:
        """The part to be written, or ``None`` when another process has made it meanwhile.

        Who has it in hand is waited for as long as bytes come there. Raises ``ModelNotHere``.
        """
        seen = self._store.stirred(part)
        while self._store.missing((part,)):
            coming = await asyncio.to_thread(self._store.begin, part, size)
            if coming is not None:
                return coming
            now = self._store.stirred(part)
            if now != seen:
                seen, self._moved = now, _now()
            elif _now() - self._moved > self._patience:
                raise ModelNotHere(
                    f"{part} couldn't be fetched: another process has it in hand, and gets nothing",
                    field="join",
                    mend="end that process, or start this one again when it has the part",
                )
            await asyncio.sleep(PAUSE)
        return None

    # -- told by downloads -----------------------------------------------------------------------

    def convict(self, peer: LayersPeer, why: str) -> None:
        """Note who sent what it shouldn't; it isn't asked again."""
        if peer.node not in self._bad:
            self._bad.add(peer.node)
            self._peers.pop(peer.node, None)
            self._why[peer.node] = why
            self._refused(peer.node, why)

    def failed(self, peer: LayersPeer, error: HearthringError) -> None:
        """Note why a peer didn't answer. One that breaks the protocol's rules is convicted."""
        self._why[peer.node] = error.message
        if isinstance(error, Malformed | TooLarge):
            self.convict(peer, error.message)

    def found(self, part: str, count: int) -> None:
        """So many bytes of a part are on the disk. Only what wasn't counted before is a move."""
        if count > self._here[part]:
            self.gone(part, count - self._here[part])

    def gone(self, part: str, count: int) -> None:
        """So many more bytes of a part are on the disk."""
        self._moved = _now()
        self._here[part] += count
        self._done += count
        self._progress("fetching", self._done, max(self._total, self._done))


@dataclass(slots=True)
class _Download:
    """The pieces of one part on their way from the peers that vouch for one outline."""

    fetcher: Fetcher
    part: str
    coming: ComingPart
    outline: Outline
    peers: Sequence[LayersPeer]
    todo: deque[int] = field(default_factory=deque)
    asked: dict[int, float] = field(default_factory=dict)
    """When each piece in hand was last asked for."""
    left: set[int] = field(default_factory=set)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self) -> bool:
        """Whether every piece is there now, each with the hash that was vouched for."""
        lacking = await asyncio.to_thread(self.coming.lacks, self.outline.hashes)
        here = len(self.outline.hashes) - len(lacking)
        self.fetcher.found(self.part, min(here * LIMITS.piece_bytes, self.outline.size))
        self.todo.extend(lacking)
        self.left.update(lacking)
        workers = [self._work(peer) for peer in self.peers for _ in range(LANES)]
        await race(self._whole(), all_or_none(*workers))
        return not self.left

    async def _whole(self) -> None:
        while self.left:
            await self.changed.wait()
            self.changed.clear()

    async def _work(self, peer: LayersPeer) -> None:
        """Ask one peer for piece after piece, until all are there or the peer is no good."""
        failures = 0
        while self.left and failures < FAILURES and peer.node not in self.fetcher._bad:
            index = self._next()
            if index is None:
                await asyncio.sleep(PAUSE)
                continue
            try:
                self.asked[index] = _now()
                data = await peer.piece(self.part, index)
            except HearthringError as error:
                self.fetcher.failed(peer, error)
                self._again(index)
                failures += 1
                await asyncio.sleep(PAUSE * 2**failures * random.uniform(0.5, 1.0))  # noqa: S311
                continue
            failures = 0
            if not await asyncio.to_thread(self._put, index, data):
                self.fetcher.convict(peer, f"sent wrong bytes of {self.part}")
                self._again(index)
            elif index in self.left:
                self.left.discard(index)
                self.asked.pop(index, None)
                self.fetcher.gone(self.part, len(data))
                self.changed.set()

    def _next(self) -> int | None:
        """A piece nobody has in hand, or else one that is long in coming."""
        if self.todo:
            return self.todo.popleft()
        late = [i for i, since in self.asked.items() if i in self.left and _late(since)]
        return min(late, key=self.asked.__getitem__, default=None)

    def _again(self, index: int) -> None:
        if index in self.left and index not in self.todo:
            self.asked.pop(index, None)
            self.todo.appendleft(index)

    def _put(self, index: int, data: bytes) -> bool:
        """Write a piece if it is the one that was vouched for."""
        if hashlib.sha256(data).digest() != self.outline.hashes[index]:
            return False
        if index in self.left:
            self.coming.write(index, data)
        return True


async def _wholly(work: Callable[[], None]) -> None:
    """Call it on a thread. It has ended when this does; a cancellation is raised after that."""
    task, cancelled = asyncio.ensure_future(asyncio.to_thread(work)), False
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            cancelled = True
    task.result()
    if cancelled:
        raise asyncio.CancelledError


def _late(since: float) -> bool:
    return _now() - since > STRAGGLER


def _now() -> float:
    return asyncio.get_running_loop().time()
