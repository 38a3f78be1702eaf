"""The transport over gRPC and TLS.

A stream begins with the server's nonce (initial metadata) and the caller's signed ``Hello``; both
sides know each other's identity before the first frame. Frames are bytes to gRPC: what they mean
is ``protocol/wire.py``'s affair, so that limits are checked in one place.
"""

import asyncio
import contextlib
import secrets
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hearthring.protocol import identity, tls
from hearthring.protocol.errors import (
    HearthringError,
    Malformed,
    PeerUnreachable,
    PortInUse,
    QuotaExceeded,
    Unauthenticated,
    VersionMismatch,
    WrongSwarm,
)
from hearthring.protocol.grpc_loading import grpc
from hearthring.protocol.grpc_stream import ClientStream, ServerStream, named, status_of
from hearthring.protocol.invitation import OPEN_SWARM, swarm_id
from hearthring.protocol.limits import LIMITS
from hearthring.protocol.messages import Hello
from hearthring.protocol.tasks import cancel
from hearthring.protocol.transport import Handler, Method
from hearthring.protocol.versions import SPOKEN, Versions
from hearthring.protocol.wire import decode_hello, encode_hello

_SERVICE = "hearthring.v1.Ring"
_NONCE = "hearthring-nonce-bin"
_VERSIONS = "hearthring-versions"
_OPTIONS = [
    ("grpc.max_receive_message_length", LIMITS.message_bytes),
    ("grpc.max_send_message_length", LIMITS.message_bytes),
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.max_pings_without_data", 0),
]
_CLIENT = [
    *_OPTIONS,
    ("grpc.ssl_target_name_override", tls.SERVER_NAME),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_retries", 0),
    ("grpc.enable_http_proxy", 0),
]
_SERVER = [
    *_OPTIONS,
    ("grpc.so_reuseport", 0),
    ("grpc.max_concurrent_streams", LIMITS.streams),
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
]
_THERE = (
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.UNIMPLEMENTED,
)
"""Answers that only a node gives."""


@dataclass(slots=True)
class _Way:
    """A connection to a node, which has proven who it is by this leaf, and the calls on it."""

    channel: grpc.aio.Channel
    leaf: bytes
    calls: int = 0

    def call(self, method: Method) -> Any:
        call: Any = self.channel.stream_stream(f"/{_SERVICE}/{method.value}")(wait_for_ready=False)
        self.calls += 1
        call.add_done_callback(self._over)
        return call

    def _over(self, _: Any) -> None:
        self.calls -= 1


class GrpcTransport:
    """A process's gRPC server, if it serves, and its connections, the last few of which stay open
    without calls."""

    def __init__(self, who: identity.Identity, swarm_key: bytes | None = None) -> None:
        self.identity = who
        self._swarm_key, self._swarm = swarm_key, swarm_id(swarm_key)
        self._versions = SPOKEN
        self._server: grpc.aio.Server | None = None
        self._leaf = b""
        self._ways: dict[tuple[str, str], _Way] = {}
        self._opening: dict[tuple[str, str], asyncio.Lock] = {}
        self._streams = Counter[str]()
        self._serving = set[asyncio.Future[None]]()
        self._closing = False

    # -- calling ---------------------------------------------------------------------------------

    async def dial(self, address: str, node_id: str, method: Method) -> ClientStream:
        known = (address, node_id) in self._ways
        try:
            return await self._open(address, node_id, method)
        except PeerUnreachable:
            if not known:
                raise
        # A node that was restarted has another leaf: look at it anew, once.
        return await self._open(address, node_id, method)

    async def _open(self, address: str, node_id: str, method: Method) -> ClientStream:
        where = f"{node_id} at {address}"
        way = await self._way(address, node_id)
        call = way.call(method)
        try:
            async with asyncio.timeout(LIMITS.connect):
                metadata = await call.initial_metadata()
                nonce = metadata.get(_NONCE) if metadata is not None else None
                if not isinstance(nonce, bytes):
                    await self._look_back(address, node_id, way, await call.code())
                    raise named(await call.code(), await call.details(), where)
                offer = str(metadata.get(_VERSIONS, ""))
                await call.write(encode_hello(self._hello(nonce, way.leaf, offer)))
        except TimeoutError:
            call.cancel()
            raise PeerUnreachable("no answer in time", field=where) from None
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            await self._look_back(address, node_id, way, await call.code())
            raise named(await call.code(), await call.details(), where) from None
        except BaseException:
            call.cancel()
            raise
        return ClientStream(node_id, call, where)

    def _hello(self, nonce: bytes, leaf: bytes, offer: str) -> Hello:
        me, version = self.identity, self._versions.common(Versions.parse(offer))
        signed = tls.hello_bytes(nonce, leaf, me.node_id, version, self._swarm, offer)
        proof = tls.membership(self._swarm_key, signed)
        return Hello(version, me.node_id, self._swarm, me.sign(signed), proof)

    async def _look_back(
        self, address: str, node_id: str, way: _Way, code: grpc.StatusCode
    ) -> None:
        """Close a way that led nowhere, and no other: a node that only refuses the call serves
        other streams on it, and somebody may have opened a new one meanwhile."""
        key = (address, node_id)
        if code not in _THERE and self._ways.get(key) is way:
            del self._ways[key]
            await way.channel.close()

    async def _way(self, address: str, node_id: str) -> _Way:
        """The way to a node, opened once for all who want it.

        Whoever waits for it while others try has the same time as they. Raises as ``tls.probe``.
        """
        key = (address, node_id)
        try:
            async with (
                asyncio.timeout(LIMITS.connect),
                self._opening.setdefault(key, asyncio.Lock()),
            ):
                if key not in self._ways:
                    await self._tidy()
                    certificate, digest = await tls.probe(address, node_id)
                    if key not in self._ways:
                        credentials = grpc.ssl_channel_credentials(certificate)
                        channel = grpc.aio.secure_channel(address, credentials, _CLIENT)
                        self._ways[key] = _Way(channel, digest)
                way = self._ways[key] = self._ways.pop(key)  # now the most recently asked for
                return way
        except TimeoutError:
            raise PeerUnreachable("no answer in time", field=f"{node_id} at {address}") from None
        finally:  # a lock for every address that was ever tried would be too many
            self._opening.pop(key, None)

    async def _tidy(self) -> None:
        """Close the ways without calls that nobody has asked for for longest, but a few."""
        unused = [key for key, way in self._ways.items() if not way.calls]
        for key in unused[: -LIMITS.unused]:
            if (way := self._ways.get(key)) is not None and not way.calls:
                del self._ways[key]
                await way.channel.close()

    # -- serving ---------------------------------------------------------------------------------

    async def serve(self, address: str, handlers: Mapping[Method, Handler]) -> str:
        leaf = tls.make_leaf(self.identity)
        self._leaf = leaf.digest
        self._server = grpc.aio.server(options=_SERVER)
        self._server.add_generic_rpc_handlers((_Router(self, handlers),))
        credentials = grpc.ssl_server_credentials([(leaf.key, leaf.certificate)])
        host, _, _ = address.rpartition(":")
        try:
            port = self._server.add_secure_port(address, credentials)
        except RuntimeError:
            port = 0
        if not port:
            self._server = None
            raise PortInUse(
                "can't listen there; the port is taken, or the address isn't this machine's",
                field=address,
                mend="choose another with --listen HOST:PORT",
            )
        await self._server.start()
        return f"{host}:{port}"

    async def accept(self, handler: Handler, context: Any) -> None:
        """Authenticate a caller, let the handler serve it, and tell it what that ended with.

        Who doesn't read is told nothing: after ``LIMITS.goodbye`` seconds only gRPC's own few bytes
        of the stream are left here, until the caller reads them or is gone.
        """
        with contextlib.ExitStack() as stack:
            said = await self._serve(handler, context, stack)
            if said:  # outside of the handler's frames: they hold whatever it had
                with contextlib.suppress(TimeoutError, grpc.aio.InternalError):  # or it has left
                    async with asyncio.timeout(LIMITS.goodbye):
                        await context.abort(grpc.StatusCode.FAILED_PRECONDITION, said)

    async def _serve(self, handler: Handler, context: Any, stack: contextlib.ExitStack) -> str:
        """The error that a stream has ended with, in words for the caller; empty for none.

        ``stack`` uncounts the stream.
        """
        nonce = secrets.token_bytes(32)
        try:
            offer = (_VERSIONS, str(self._versions))
            await context.send_initial_metadata(((_NONCE, nonce), offer))
            caller = await self._authenticate(context, nonce)
            self._streams[caller] += 1
            stack.callback(self._left, caller)
            if self._streams[caller] > LIMITS.streams_per_peer:
                raise QuotaExceeded(f"more than {LIMITS.streams_per_peer}", field="streams")
            await self._run(handler, ServerStream(caller, context, caller))
        except HearthringError as error:
            return status_of(error)
        return ""

    def _left(self, caller: str) -> None:
        self._streams[caller] -= 1
        if not self._streams[caller]:
            del self._streams[caller]

    async def _run(self, handler: Handler, stream: ServerStream) -> None:
        """Run a handler so that ``close`` can end it by name; gRPC would do it with a traceback."""
        task = asyncio.ensure_future(handler(stream))
        self._serving.add(task)
        try:
            await task
        except asyncio.CancelledError:
            if not self._closing:
                raise
            raise PeerUnreachable("the node is stopping", field=self.identity.node_id) from None
        finally:
            self._serving.discard(task)

    async def _authenticate(self, context: Any, nonce: bytes) -> str:
        try:
            async with asyncio.timeout(LIMITS.hello):
                data = await context.read()
        except TimeoutError:
            raise Unauthenticated("no hello in time", field="hello") from None
        if data is grpc.aio.EOF:
            raise Malformed("the stream ended before its hello", field="hello")
        hello = decode_hello(data)
        if hello.version not in self._versions:
            raise VersionMismatch(
                f"{hello.version}, this node speaks {self._versions}", field="hello.version"
            )
        if hello.swarm != self._swarm:
            raise self._wrong_swarm(hello.swarm)
        said = (hello.caller, hello.version, hello.swarm, str(self._versions))
        signed = tls.hello_bytes(nonce, self._leaf, *said)
        identity.verify(hello.caller, signed, hello.signature)
        if not secrets.compare_digest(tls.membership(self._swarm_key, signed), hello.membership):
            raise self._wrong_swarm(hello.swarm)
        return hello.caller

    def _wrong_swarm(self, named: str) -> WrongSwarm:
        """What is said to strangers: that the swarm is private, if it is, and nothing else."""
        if self._swarm_key is None:
            return WrongSwarm(
                "this swarm is open, and a key was given",
                field="swarm key",
                mend="leave ?key= or --swarm-key away, or ask for another invitation",
            )
        given = "no key was given" if named == OPEN_SWARM else "the key that was given isn't its"
        return WrongSwarm(
            f"this swarm is private, and {given}",
            field="swarm key",
            mend="join with the whole invitation, ?key= included, or --swarm-key FILE of a node",
        )

    async def close(self) -> None:
        self._closing = True
        await cancel(self._serving)
        ways, self._ways = self._ways, {}
        for way in ways.values():
            await way.channel.close()
        server, self._server = self._server, None
        if server is not None:
            await server.stop(0.2)


class _Router(grpc.GenericRpcHandler):
    def __init__(self, transport: GrpcTransport, handlers: Mapping[Method, Handler]) -> None:
        self._handlers = {
            f"/{_SERVICE}/{method.value}": self._serve(transport, handler)
            for method, handler in handlers.items()
        }

    @staticmethod
    def _serve(transport: GrpcTransport, handler: Handler) -> Any:
        async def accept(_: Any, context: Any) -> None:
            await transport.accept(handler, context)

        return grpc.stream_stream_rpc_method_handler(accept)

    def service(self, details: Any) -> Any:
        return self._handlers.get(details.method)
