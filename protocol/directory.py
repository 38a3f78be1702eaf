"""The swarm's directory: a node of hivemind's Kademlia DHT.

The only module that imports hivemind, and only ``directory_process`` imports it: hivemind forks,
prints and is slow to import, so it has a process of its own.
"""

import asyncio
import contextlib
import ipaddress
import math
import time
from pathlib import Path
from typing import Any

import hivemind.dht.protocol as dht_protocol
from hivemind.dht.node import DHTNode
from hivemind.dht.protocol import ValidationError
from hivemind.dht.routing import DHTID
from hivemind.dht.storage import DHTLocalStorage, DictionaryDHTValue
from hivemind.dht.validation import DHTRecord, RecordValidatorBase
from hivemind.p2p import P2P, P2PDaemonError, PeerID
from hivemind.utils.multiaddr import Multiaddr
from hivemind.utils.serializer import MSGPackSerializer
from hivemind.utils.timed_storage import TimedStorage, ValueWithExpiration

from hearthring.protocol import records
from hearthring.protocol.entries import accepts, layer_key
from hearthring.protocol.errors import DirectoryDown, Malformed
from hearthring.protocol.frames import DirectoryConfig, Frame, pack
from hearthring.protocol.identity import Identity
from hearthring.protocol.limits import LIMITS
from hearthring.protocol.ports import listening, multiaddr, reserve
from hearthring.protocol.tasks import cancel

KEY_BYTES = 256 << 10
"""Records a node holds under one key: a reply carries several keys within hivemind's 4 MiB."""
KEYS = 16_384
"""Keys a node holds for the swarm."""
LAYERS = 4096
_BULK = 64
"""Entries in one call of a peer: far below hivemind's 4 MiB."""
_PEERS = 64
"""Known peers in one answer to ``ping``."""
_GRACE = 1.0
"""Time the other peers have to answer once one has, and p2pd to go."""


class Validator(RecordValidatorBase):  # type: ignore[misc]
    """``accepts`` as hivemind wants it."""

    def validate(self, record: DHTRecord) -> bool:
        expires = record.expiration_time
        return accepts(record.key, record.subkey, record.value, expires, time.time())


class Storage(DHTLocalStorage):  # type: ignore[misc]
    """A bounded replacement for hivemind's local storage, which also forgets nothing too early.

    Upstream lets the refusal of an older value shorten the newer one's life, so a replay (or an
    honest late replica) deletes it; and a search writes what it finds into the stored dictionary.
    """

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


class Node:
    """One DHT node and its p2pd. ``close`` takes both down."""

    def __init__(self, p2p: P2P, dht: DHTNode, port: int, peers: tuple[str, ...]) -> None:
        self._p2p, self._dht, self._port, self._peers = p2p, dht, port, peers
        self._replicas: dict[DHTID, dict[DHTID, PeerID]] = {}

    @staticmethod
    async def start(config: DirectoryConfig, scratch: Path) -> "Node":
        """Start p2pd and join. Raises ``Unavailable`` or ``BadIdentityFile``.

        Then, and when cancelled, p2pd isn't left running, or dies with this process's group.
        """

        class PrivateP2P(P2P):  # type: ignore[misc]
            _UNIX_SOCKET_PREFIX = f"/unix{scratch}/"

        dht_protocol.DHTLocalStorage = Storage
        # Without a file of its own kind p2pd would take on another identity.
        await asyncio.to_thread(Identity.load_or_create, Path(config.identity))
        host = await asyncio.to_thread(listening, config.host)
        loopback = ipaddress.ip_address(host).is_loopback
        port = reserve(host, config.port)
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
                record_validator=Validator(),
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
            await cancel(tasks)
        if wrong is not None and not joined:
            raise wrong
        if joined:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LIMITS.connect):
                    await self._dht.find_nearest_nodes([self._dht.node_id])
        return joined

    async def _meet(self, peer: str) -> bool:
        """Connect to one peer, compare clocks, and be in each other's routing table."""
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
        batches: dict[PeerID, list[tuple[DHTID, str, bytes, float]]] = {}
        for key, here in entries.items():
            for peer in set(self._replicas[key].values()):
                batches.setdefault(peer, []).extend((key, *entry) for entry in here)
        done: set[DHTID] = set()
        for key, node, value, expires in batches.pop(self._dht.peer_id, ()):
            if self._dht.protocol.storage.store_subkey(key, node, value, expires):
                done.add(key)

        async def send(peer: PeerID, batch: list[tuple[DHTID, str, bytes, float]]) -> None:
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
            await cancel(tasks)
        return {"keys": len(entries), "stored": len(done)}

    async def fetch(self, model_id: str, layers: int) -> Frame:
        """The newest live record of each node, from all replicas of all layers."""
        if not 0 < layers <= LAYERS:
            raise Malformed(f"{layers} layers", field="layers")
        keys = [DHTID.generate(layer_key(model_id, layer)) for layer in range(layers)]
        found = await self._dht.get_many_by_id(keys, sufficient_expiration_time=math.inf)
        newest: dict[str, tuple[int, bytes]] = {}
        now = time.time()
        for item in found.values():
            entries = list(item.value.values()) if item and isinstance(item.value, dict) else []
            for entry in entries[: LIMITS.records_per_layer]:
                record = records.read_or_none(entry.value)
                if record is not None and record.expires > now:
                    known = newest.get(record.node, (-1, b""))
                    newest[record.node] = max(known, (record.sequence, entry.value))
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
        return {"port": self._port, "addresses": addresses, "peers": peers[:_PEERS]}

    async def close(self) -> None:
        """Stop p2pd; if it doesn't go, it dies with this process's group."""
        self._dht.is_alive = False
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_GRACE):
                await self._p2p.shutdown()
