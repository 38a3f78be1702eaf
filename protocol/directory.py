"""The swarm's directory: hivemind's Kademlia DHT in a process that does nothing else.

``python -m hearthring.protocol.directory`` is started by ``hearthring.node.directory`` and speaks
frames on stdin and stdout: a 4-byte big-endian length, then a JSON object. Requests carry ``id``
and ``op`` (``start`` first, then ``store``, ``fetch``, ``ping``; ``stop`` ends the process),
replies ``id`` and either ``result`` or ``error``. They are served concurrently.

A record stands under one key per layer, with its node's id as the subkey; ``accepts`` is the rule
every node applies to what it is asked to hold and to what it reads, so that nobody can write under
another's subkey. The later expiry wins, and it is part of what is signed.

Guarantees: the process ends, and takes p2pd and its sockets with it, when stdin closes, however
the parent died. If it is killed itself, the next start removes what is left of its files.
"""

import asyncio
import base64
import contextlib
import errno
import functools
import hashlib
import ipaddress
import json
import logging
import math
import os
import shutil
import signal
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from hearthring.protocol import records
from hearthring.protocol.errors import (
    DirectoryDown,
    HearthringError,
    Malformed,
    PortInUse,
    TooLarge,
)
from hearthring.protocol.identity import Identity
from hearthring.protocol.limits import LIMITS

CLOCK_SLACK = 6.0
"""Two clocks may each be 3 s off the swarm's; a record one node holds must pass at every other."""
KEY_BYTES = 256 << 10
"""Records a node holds under one key: a reply carries several keys within hivemind's 4 MiB."""
KEYS = 16_384
"""Keys a node holds for the swarm."""
LAYERS = 4096
_SCRATCH = "hearthring-dht-"
_SOCKET_PATH = 103
"""What fits a unix socket's address everywhere."""
_BULK = 64
"""Entries in one call of a peer: far below hivemind's 4 MiB."""
_PENDING = 64
_DEADLINE = 30.0
_GRACE = 1.0
"""Time the other peers have to answer once one has, and p2pd to go."""

Frame = dict[str, Any]


def layer_key(model_id: str, layer: int) -> bytes:
    """The DHT key of a layer; the DHT itself only ever sees its SHA-1."""
    return f"hearthring/1/{model_id}/{layer}".encode()


@functools.lru_cache(maxsize=16_384)
def _key_hash(model_id: str, layer: int) -> bytes:
    return hashlib.sha1(layer_key(model_id, layer), usedforsecurity=False).digest()


@functools.lru_cache(maxsize=1024)
def _read(signed: bytes) -> records.NodeRecord | None:
    """The record, or None. Remembered: the same bytes come once per layer and replica."""
    try:
        return records.read(signed)
    except HearthringError:
        return None


def _unpack(value: bytes) -> bytes:
    """The bytes inside msgpack's ``bin``, in its shortest form; nothing if it isn't that."""
    if value[:1] == b"\xc4" and len(value) == 2 + int.from_bytes(value[1:2]):
        return value[2:]
    if value[:1] == b"\xc5" and len(value) == 3 + int.from_bytes(value[1:3]) > 3 + 255:
        return value[3:]
    return b""


def accepts(key: bytes, subkey: bytes, value: bytes, expires: float, now: float) -> bool:
    """Whether a DHT entry is what its node signed, where it may stand. Never raises.

    It must not differ between releases, since a reader drops a whole replica over one bad entry:
    versions are judged after reading, and so is expiry.
    """
    if not (isinstance(value, bytes) and isinstance(expires, float) and math.isfinite(expires)):
        return False
    record = _read(_unpack(value))
    return (
        record is not None
        and subkey == b"\xd9" + bytes([len(record.node)]) + record.node.encode()
        and expires == record.expires <= now + LIMITS.record_life_cap + CLOCK_SLACK
        and any(_key_hash(record.model_id, layer) == key for layer in record.layers)
    )


def encode_frame(frame: Frame) -> bytes:
    """A frame as bytes. Raises ``TooLarge``."""
    body = json.dumps(frame, separators=(",", ":")).encode()
    if len(body) > LIMITS.message_bytes:
        raise TooLarge(f"{len(body)} bytes", field="directory frame")
    return len(body).to_bytes(4) + body


async def read_frame(reader: asyncio.StreamReader) -> Frame | None:
    """The next frame; None at the end of the stream, also in the middle of a frame."""
    try:
        length = int.from_bytes(await reader.readexactly(4))
        if length > LIMITS.message_bytes:
            raise TooLarge(f"{length} bytes", field="directory frame")
        body = json.loads(await reader.readexactly(length))
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
    except ValueError:
        raise Malformed("not JSON", field="directory frame") from None
    if not isinstance(body, dict):
        raise Malformed("not an object", field="directory frame")
    return body


def pack(signed: bytes) -> str:
    """Record bytes for a frame."""
    return base64.b64encode(signed).decode()


def _temporary() -> str:
    """Where the socket folders go: the temporary directory, unless sockets' names won't fit."""
    where = tempfile.gettempdir()
    name = len(f"/{_SCRATCH}12345678/p2pclient-12345678901.sock")
    return where if len(os.fsencode(where)) + name <= _SOCKET_PATH else "/tmp"  # noqa: S108


def sweep() -> None:
    """Remove the socket folders of directory processes that were killed.

    Only folders of this user whose lock nobody holds: the kernel drops a lock with its process.
    """
    import fcntl

    for path in Path(_temporary()).glob(f"{_SCRATCH}*"):
        with contextlib.suppress(OSError), (path / "lock").open("rb") as lock:
            if os.fstat(lock.fileno()).st_uid == os.getuid():
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def _scratch() -> Iterator[Path]:
    """A private folder for p2pd's sockets, locked while this process lives, gone afterwards."""
    import fcntl

    path = Path(tempfile.mkdtemp(prefix=_SCRATCH, dir=_temporary()))
    try:
        with (path / "lock.new").open("wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            # Under its final name only once it is held, so that no sweep comes between.
            (path / "lock.new").rename(path / "lock")
            yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def multiaddr(host: str, port: int) -> str:
    """``/ip4/…/tcp/…`` or ``/ip6/…``; ``/dns4/…`` where the host is a name."""
    try:
        kind = f"ip{ipaddress.ip_address(host).version}"
    except ValueError:
        kind = "dns4"
    return f"/{kind}/{host}/tcp/{port}"


@dataclass(frozen=True, slots=True)
class DirectoryConfig:
    """How to run the directory.

    ``peers`` are multiaddrs that end in ``/p2p/NODE_ID``. With ``must_join`` the start fails when
    none of them answers; without, the directory starts alone and goes on trying.
    """

    identity: str
    host: str = "127.0.0.1"
    port: int = 0
    peers: tuple[str, ...] = ()
    announce_host: str = ""
    must_join: bool = True


def make_validator() -> Any:
    """``accepts`` as hivemind wants it."""
    from hivemind.dht.validation import DHTRecord, RecordValidatorBase

    class Validator(RecordValidatorBase):  # type: ignore[misc]
        def validate(self, record: DHTRecord) -> bool:
            return accepts(
                record.key, record.subkey, record.value, record.expiration_time, time.time()
            )

    return Validator()


def make_storage() -> type[Any]:
    """A bounded replacement for hivemind's local storage, which also forgets nothing too early.

    Upstream lets the refusal of an older value shorten the newer one's life, so a replay (or an
    honest late replica) deletes it; and a search writes what it finds into the stored dictionary.
    """
    from hivemind.dht.storage import DHTLocalStorage, DictionaryDHTValue
    from hivemind.utils.timed_storage import TimedStorage, ValueWithExpiration

    class Storage(DHTLocalStorage):  # type: ignore[misc]
        def get(self, key: int) -> Any:
            found = super().get(key)
            if found is None:
                return None
            copy = DictionaryDHTValue()
            for subkey, entry in found.value.items():
                copy.store(subkey, entry.value, entry.expiration_time)
            return ValueWithExpiration(copy, found.expiration_time)

        def store(self, key: int, value: Any, expires: float, subkey: Any = None) -> bool:
            return subkey is not None and self.store_subkey(key, subkey, value, expires)

        def store_subkey(self, key: int, subkey: str, value: bytes, expires: float) -> bool:
            now = time.time()
            if not now < expires <= now + LIMITS.record_life_cap:
                return False
            found = super().get(key)
            book = DictionaryDHTValue() if found is None else found.value
            known = book.get(subkey)
            if known is not None and expires <= known.expiration_time:
                return bool(known.value == value)
            if found is None and len(self) >= KEYS:
                return False
            others = [len(entry.value) for name, entry in book.items() if name != subkey]
            if len(others) >= LIMITS.records_per_layer or sum(others) + len(value) > KEY_BYTES:
                return False
            book.store(subkey, value, expires)
            if found is None or expires > found.expiration_time:
                TimedStorage.store(self, key, book, expires)
            return True

    return Storage


class Node:
    """One DHT node and its p2pd. ``close`` takes both down."""

    def __init__(self, p2p: Any, dht: Any, port: int, peers: tuple[str, ...]) -> None:
        self._p2p, self._dht, self._port, self._peers = p2p, dht, port, peers
        self._replicas: dict[int, dict[int, Any]] = {}

    @staticmethod
    async def start(config: DirectoryConfig, scratch: Path) -> "Node":
        """Start p2pd and join. Raises ``Unavailable`` or ``BadIdentityFile``.

        Then, and when cancelled, p2pd isn't left running, or dies with this process's group.
        """
        import hivemind.dht.protocol as protocol
        from hivemind.dht import DHTNode
        from hivemind.dht.routing import DHTID
        from hivemind.p2p import P2P, P2PDaemonError

        class PrivateP2P(P2P):  # type: ignore[misc]
            _UNIX_SOCKET_PREFIX = f"/unix{scratch}/"

        protocol.DHTLocalStorage = make_storage()
        # Without a file of its own kind p2pd would take on another identity.
        await asyncio.to_thread(Identity.load_or_create, Path(config.identity))
        host = await asyncio.to_thread(_listening, config.host)
        loopback = ipaddress.ip_address(host).is_loopback
        port = _reserve(host, config.port)
        listen = multiaddr(host, port)
        quic = listen.replace("/tcp/", "/udp/") + "/quic-v1"
        announced = [multiaddr(config.announce_host, port)] if config.announce_host else None
        try:
            p2p = await PrivateP2P.create(
                host_maddrs=[listen] if loopback else [listen, quic],
                announce_maddrs=announced,
                identity_path=config.identity,
                # The check would start a second p2pd and take the key for RSA.
                check_if_identity_free=False,
                nat_port_map=not loopback,
                auto_nat=not loopback,
            )
        except P2PDaemonError as error:
            raise DirectoryDown(f"p2pd doesn't start at {listen}: {error}") from None
        try:
            dht = await DHTNode.create(
                p2p=p2p,
                # Of the key, so that a node that comes back isn't a second one to its peers.
                node_id=DHTID.generate(p2p.peer_id.to_bytes()),
                record_validator=make_validator(),
                # Readers ask every replica for the latest: a cache would only add staleness.
                cache_locally=False,
                cache_nearest=0,
                cache_on_store=False,
                cache_refresh_before_expiry=0,
                reuse_get_requests=False,
            )
            node = Node(p2p, dht, port, config.peers)
            if config.peers and not await node.join() and config.must_join:
                raise DirectoryDown(
                    f"none of the swarm's {len(config.peers)} known addresses answers",
                    field="directory",
                )
        except BaseException:
            await p2p.shutdown()
            raise
        return node

    async def join(self) -> bool:
        """Call on the known peers; whether any answered. Takes 10 s at most.

        Raises ``DirectoryDown`` when those that answered have another time. Not left to p2pd and
        hivemind: there a single peer that swallows packets holds up the start.
        """
        tasks = [asyncio.create_task(self._meet(peer)) for peer in self._peers]
        joined, wrong = False, None
        try:
            for task in asyncio.as_completed(tasks, timeout=LIMITS.connect):
                try:
                    joined = joined or await task
                except DirectoryDown as error:
                    wrong = error
                if joined:
                    await asyncio.wait(tasks, timeout=_GRACE)
                    break
        except TimeoutError:
            pass
        finally:
            for other in tasks:
                other.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        if wrong is not None and not joined:
            raise wrong
        if joined:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LIMITS.connect):
                    await self._dht.find_nearest_nodes([self._dht.node_id])
        return joined

    async def _meet(self, peer: str) -> bool:
        """Connect to one peer, compare clocks, and be in each other's routing table."""
        from hivemind.dht.protocol import ValidationError
        from hivemind.p2p import P2PDaemonError, PeerID
        from hivemind.utils.multiaddr import Multiaddr

        address, _, name = peer.rpartition("/p2p/")
        try:
            peer_id = PeerID.from_base58(name)
            await self._p2p._client.connect(peer_id, [Multiaddr(address)])
            return await self._dht.protocol.call_ping(peer_id, validate=True) is not None
        except ValidationError as error:
            if "local time" in str(error):
                raise DirectoryDown(
                    "this machine's clock is more than 3 s away from the swarm's",
                    field="clock",
                    mend="set the time, for example by turning on network time",
                ) from None
            return False
        except (P2PDaemonError, OSError, ValueError):
            return False

    async def rejoin(self) -> None:
        """For ever: when this node knows nobody any more, call on those it was started with."""
        while True:
            await asyncio.sleep(LIMITS.connect)
            if self._peers and not self._dht.protocol.routing_table.uid_to_peer_id:
                with contextlib.suppress(DirectoryDown):
                    await self.join()

    async def addresses(self) -> list[str]:
        """Multiaddrs of this node, those of other machines' reach first."""
        found = [str(address) for address in await self._p2p.get_visible_maddrs(latest=True)]
        found.sort(key=lambda address: ("/127." in address or "/::1/" in address, address))
        return found[: LIMITS.addresses_per_record]

    async def store(self, signed: list[bytes], within: float) -> Frame:
        """Put records at the nearest nodes of each of their keys, one call per node.

        After ``within`` seconds it stops waiting. A record that is leaving goes where the one
        before it went, without looking for nearer nodes: its node has no time for that.
        """
        from hivemind.dht.routing import DHTID
        from hivemind.utils.serializer import MSGPackSerializer

        entries: dict[DHTID, list[tuple[str, bytes, float]]] = {}
        leaving = True
        for data in signed:
            record = records.read(data)
            leaving = leaving and record.leaving
            entry = record.node, MSGPackSerializer.dumps(data), record.expires
            for layer in record.layers:
                key = DHTID.generate(layer_key(record.model_id, layer))
                entries.setdefault(key, []).append(entry)
        if not leaving or not entries.keys() <= self._replicas.keys():
            self._replicas = await self._dht.find_nearest_nodes(
                list(entries), k_nearest=self._dht.num_replicas
            )
        batches: dict[Any, list[tuple[DHTID, str, bytes, float]]] = {}
        for key, here in entries.items():
            for peer in set(self._replicas[key].values()):
                batches.setdefault(peer, []).extend((key, *entry) for entry in here)
        done: set[int] = set()
        for key, node, value, expires in batches.pop(self._dht.peer_id, ()):
            if self._dht.protocol.storage.store_subkey(key, node, value, expires):
                done.add(key)

        async def send(peer: Any, batch: list[tuple[DHTID, str, bytes, float]]) -> None:
            keys, nodes, values, expiries = (list(column) for column in zip(*batch, strict=True))
            kept = await self._dht.protocol.call_store(peer, keys, values, expiries, subkeys=nodes)
            done.update(key for key, ok in zip(keys, kept or (), strict=False) if ok)

        tasks = [
            asyncio.create_task(send(peer, batch[i : i + _BULK]))
            for peer, batch in batches.items()
            for i in range(0, len(batch), _BULK)
        ]
        try:
            if tasks:
                await asyncio.wait(tasks, timeout=within)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        return {"keys": len(entries), "stored": len(done)}

    async def fetch(self, model_id: str, layers: int) -> Frame:
        """The newest live record of each node, from all replicas of all layers."""
        from hivemind.dht.routing import DHTID

        if not 0 < layers <= LAYERS:
            raise Malformed(f"{layers} layers", field="layers")
        keys = [DHTID.generate(layer_key(model_id, layer)) for layer in range(layers)]
        found = await self._dht.get_many_by_id(keys, sufficient_expiration_time=math.inf)
        newest: dict[str, tuple[int, bytes]] = {}
        now = time.time()
        for item in found.values():
            entries = list(item.value.values()) if item and isinstance(item.value, dict) else []
            for entry in entries[: LIMITS.records_per_layer]:
                record = _read(entry.value)
                if record is not None and record.expires > now:
                    newest[record.node] = max(
                        newest.get(record.node, (-1, b"")), (record.sequence, entry.value)
                    )
        kept, room = [], LIMITS.message_bytes // 2
        for _, signed in newest.values():
            room -= len(signed)
            if room > 0:
                kept.append(pack(signed))
        return {"records": kept}

    async def ping(self) -> Frame:
        """Ask p2pd who it is and whom it knows. It fails when p2pd is gone."""
        addresses = await self.addresses()
        peers = [
            f"{address}/p2p/{info.peer_id.to_base58()}"
            for info in await self._p2p.list_peers()
            for address in info.addrs
        ]
        return {"port": self._port, "addresses": addresses, "peers": peers[:_PENDING]}

    async def close(self) -> None:
        """Stop p2pd; if it doesn't go, it dies with this process's group."""
        self._dht.is_alive = False
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_GRACE):
                await self._p2p.shutdown()


def _listening(host: str) -> str:
    """The address of a host to listen on: p2pd takes no names."""
    try:
        return str(socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0][4][0])
    except OSError:
        raise DirectoryDown(f"{host} is no address of this machine", field="host") from None


def _reserve(host: str, port: int) -> int:
    """A port nobody listens on, any if 0. Raises ``PortInUse``.

    p2pd announces only explicit ports, and would share one with another process without a word.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.create_server((host, port), family=family) as server:
            return int(server.getsockname()[1])
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise PortInUse(
                f"{port} is taken", field="port", mend="choose another, or 0 for any"
            ) from None
        raise DirectoryDown(f"{host} is no address of this machine", field="host") from None


class _Service:
    """The conversation with the parent."""

    def __init__(self, scratch: Path, writer: asyncio.StreamWriter) -> None:
        self._scratch, self._writer = scratch, writer
        self._node: Node | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def serve(self, reader: asyncio.StreamReader) -> None:
        """Answer requests until ``stop`` or the end of stdin, then take everything down."""
        try:
            while (request := await read_frame(reader)) and request.get("op") != "stop":
                if len(self._tasks) < _PENDING:
                    task = asyncio.create_task(self._answer(request))
                    self._tasks.add(task)
                    task.add_done_callback(self._tasks.discard)
                else:
                    self._reply(request, error=DirectoryDown("too many requests at once"))
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            if self._node is not None:
                await self._node.close()

    async def _answer(self, request: Frame) -> None:
        try:
            async with asyncio.timeout(_DEADLINE):
                self._reply(request, result=await self._do(request))
        except HearthringError as error:
            self._reply(request, error=error)
        except Exception as error:
            # hivemind raises what it likes; the process goes on, the parent judges by ``ping``.
            logging.getLogger(__name__).debug("request failed", exc_info=True)
            self._reply(request, error=DirectoryDown(f"{type(error).__name__}: {error}"))
        if request.get("op") == "start" and self._node is not None:
            await self._node.rejoin()

    async def _do(self, request: Frame) -> Frame:
        match request:
            case {"op": "start", "config": dict(config)} if self._node is None:
                config["peers"] = tuple(config["peers"])
                self._node = await Node.start(DirectoryConfig(**config), self._scratch)
                return await self._node.ping()
            case _ if self._node is None:
                raise DirectoryDown("not started")
            case {"op": "store", "records": list(signed), "within": float(within)}:
                return await self._node.store([base64.b64decode(text) for text in signed], within)
            case {"op": "fetch", "model_id": str(model_id), "layers": int(layers)}:
                return await self._node.fetch(model_id, layers)
            case {"op": "ping"}:
                return await self._node.ping()
        raise Malformed("unknown request", field="directory frame")

    def _reply(self, request: Frame, result: Frame | None = None, error: Any = None) -> None:
        if error is None:
            reply = {"id": request.get("id"), "result": result}
        else:
            about = [type(error).__name__, error.message, error.field, error.mend]
            reply = {"id": request.get("id"), "error": about}
        self._writer.write(encode_frame(reply))


async def _main(source: BinaryIO, sink: BinaryIO) -> None:
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), source)
    transport, protocol = await loop.connect_write_pipe(asyncio.streams.FlowControlMixin, sink)
    writer = asyncio.StreamWriter(transport, protocol, None, loop)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, reader.feed_eof)
    sweep()
    with _scratch() as scratch:
        await _Service(scratch, writer).serve(reader)


def main() -> None:
    """Run the directory on this process's stdin and stdout."""
    debug = bool(os.environ.get("HEARTHRING_DEBUG"))
    # The frames get descriptors of their own: hivemind and p2pd print to stdout and inherit stdin.
    source, sink = os.fdopen(os.dup(0), "rb", 0), os.fdopen(os.dup(1), "wb", 0)
    quiet = os.open(os.devnull, os.O_RDWR)
    os.dup2(quiet, 0)
    if not debug:
        os.dup2(quiet, 2)
    os.dup2(2, 1)
    os.environ["HIVEMIND_LOGLEVEL"] = "DEBUG" if debug else "CRITICAL"
    try:
        _import_hivemind()
        import uvloop

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_main(source, sink))
    except Exception:
        traceback.print_exc()
    # Without the interpreter's farewell: hivemind's ``__del__`` methods need a running loop. The
    # group, if it is ours, takes along what a start that was cut short may have left.
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(0)


def _import_hivemind() -> None:
    """Import the DHT without hivemind's training half: a third of the CPU time, 48 MB.

    ``hivemind/__init__`` imports averaging, experts and optimisers (and scipy) for convenience.
    Its modules don't need it, so the package is entered without being run.
    """
    from importlib.util import find_spec, module_from_spec

    spec = find_spec("hivemind")
    if spec is not None:
        sys.modules["hivemind"] = module_from_spec(spec)
    import hivemind.dht  # noqa: F401


if __name__ == "__main__":
    main()
