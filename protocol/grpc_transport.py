"""The transport over gRPC and TLS.

A stream begins with the server's nonce (initial metadata) and the caller's signed ``Hello``; both
sides know each other's identity before the first frame. Frames are bytes to gRPC: what they mean
is ``protocol/wire.py``'s affair, so that limits are checked in one place.
"""

import asyncio
import contextlib
import json
import secrets
from collections import Counter
from collections.abc import Mapping
from typing import Any

from hearthring.protocol import identity, tls
from hearthring.protocol.errors import (
    DeadlineExceeded,
    HearthringError,
    Malformed,
    PeerUnreachable,
    PortInUse,
    QuotaExceeded,
    TooLarge,
    Unauthenticated,
    VersionMismatch,
    WrongSwarm,
    from_wire,
)
from hearthring.protocol.grpc_loading import grpc
from hearthring.protocol.invitation import swarm_id
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


class _Stream:
    """Either side of a gRPC stream."""

    def __init__(self, peer: str, call: Any, where: str) -> None:
        self.peer, self._call, self._where = peer, call, where

    async def send(self, data: bytes) -> None:
        if len(data) > LIMITS.message_bytes:
            raise TooLarge(f"{len(data)} bytes", field="message")
        try:
            async with asyncio.timeout(LIMITS.write):
                await self._call.write(data)
        except TimeoutError:
            raise DeadlineExceeded("the reader is too slow", field=self._where) from None
        except (grpc.aio.AioRpcError, grpc.aio.UsageError, asyncio.InvalidStateError) as error:
            raise await self._ended(error) from None

    async def receive(self) -> bytes | None:
        try:
            data = await self._call.read()
        except (grpc.aio.AioRpcError, grpc.aio.UsageError) as error:
            raise await self._ended(error) from None
        if data is grpc.aio.EOF:
            await self._check_end()
            return None
        return bytes(data)

    async def _check_end(self) -> None:
        """A server sees EOF when its caller half-closes: always a proper end."""

    async def _ended(self, error: BaseException) -> HearthringError:
        return PeerUnreachable("the connection broke", field=self._where)

    async def close(self) -> None:
        """A server's side ends when its handler returns."""


class _ClientStream(_Stream):
    async def _check_end(self) -> None:
        if await self._call.code() is not grpc.StatusCode.OK:
            raise _named(await self._call.code(), await self._call.details(), self._where)

    async def _ended(self, error: BaseException) -> HearthringError:
        if isinstance(error, grpc.aio.AioRpcError):
            return _named(error.code(), error.details(), self._where)
        if self._call.done():
            return _named(await self._call.code(), await self._call.details(), self._where)
        return PeerUnreachable("the stream is closed", field=self._where)

    async def close(self) -> None:
        self._call.cancel()


class GrpcTransport:
    """A process's gRPC server, if it serves, and its pool of channels."""

    def __init__(self, who: identity.Identity, swarm_key: bytes | None = None) -> None:
        self.identity = who
        self._swarm_key, self._swarm = swarm_key, swarm_id(swarm_key)
        self._versions = SPOKEN
        self._server: grpc.aio.Server | None = None
        self._leaf = b""
        self._channels: dict[tuple[str, str], tuple[grpc.aio.Channel, bytes]] = {}
        self._opening: dict[tuple[str, str], asyncio.Lock] = {}
        self._streams = Counter[str]()
        self._serving = set[asyncio.Future[None]]()
        self._closing = False

    # -- calling ---------------------------------------------------------------------------------

    async def dial(self, address: str, node_id: str, method: Method) -> _ClientStream:
        known = (address, node_id) in self._channels
        try:
            return await self._open(address, node_id, method)
        except PeerUnreachable:
            if not known:
                raise
        # A node that was restarted has another leaf: look at it anew, once.
        return await self._open(address, node_id, method)

    async def _open(self, address: str, node_id: str, method: Method) -> _ClientStream:
        where = f"{node_id} at {address}"
        channel, leaf = await self._channel(address, node_id)
        call: Any = channel.stream_stream(f"/{_SERVICE}/{method.value}")(wait_for_ready=False)
        try:
            async with asyncio.timeout(LIMITS.connect):
                metadata = await call.initial_metadata()
                nonce = metadata.get(_NONCE) if metadata is not None else None
                if not isinstance(nonce, bytes):
                    await self._look_back(address, node_id, channel, await call.code())
                    raise _named(await call.code(), await call.details(), where)
                offer = str(metadata.get(_VERSIONS, ""))
                await call.write(encode_hello(self._hello(nonce, leaf, offer)))
        except TimeoutError:
            call.cancel()
            raise PeerUnreachable("no answer in time", field=where) from None
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            await self._look_back(address, node_id, channel, await call.code())
            raise _named(await call.code(), await call.details(), where) from None
        except BaseException:
            call.cancel()
            raise
        return _ClientStream(node_id, call, where)

    def _hello(self, nonce: bytes, leaf: bytes, offer: str) -> Hello:
        me, version = self.identity, self._versions.common(Versions.parse(offer))
        signed = tls.hello_bytes(nonce, leaf, me.node_id, version, self._swarm, offer)
        proof = tls.membership(self._swarm_key, signed)
        return Hello(version, me.node_id, self._swarm, me.sign(signed), proof)

    async def _look_back(
        self, address: str, node_id: str, channel: grpc.aio.Channel, code: grpc.StatusCode
    ) -> None:
        """Close a channel that led nowhere, and no other: a node that only refuses the call serves
        other streams on it, and somebody may have opened a new one meanwhile."""
        key = (address, node_id)
        if code not in _THERE and self._channels.get(key, (None,))[0] is channel:
            del self._channels[key]
            await channel.close()

    async def _channel(self, address: str, node_id: str) -> tuple[grpc.aio.Channel, bytes]:
        """The channel to a node, opened once for all who want it.

        Whoever waits for it while others try has the same time as they. Raises as ``tls.probe``.
        """
        key = (address, node_id)
        try:
            async with (
                asyncio.timeout(LIMITS.connect),
                self._opening.setdefault(key, asyncio.Lock()),
            ):
                if key not in self._channels:
                    certificate, digest = await tls.probe(address, node_id)
                    if key not in self._channels:
                        credentials = grpc.ssl_channel_credentials(certificate)
                        channel = grpc.aio.secure_channel(address, credentials, _CLIENT)
                        self._channels[key] = channel, digest
                return self._channels[key]
        except TimeoutError:
            raise PeerUnreachable("no answer in time", field=f"{node_id} at {address}") from None
        finally:  # a lock for every address that was ever tried would be too many
            self._opening.pop(key, None)

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
            await self._run(handler, _Stream(caller, context, caller))
        except HearthringError as error:
            return json.dumps([type(error).__name__, error.message, error.field, error.mend])
        return ""

    def _left(self, caller: str) -> None:
        self._streams[caller] -= 1
        if not self._streams[caller]:
            del self._streams[caller]

    async def _run(self, handler: Handler, stream: _Stream) -> None:
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
            raise WrongSwarm("this node is in another swarm", field="hello.swarm")
        said = (hello.caller, hello.version, hello.swarm, str(self._versions))
        signed = tls.hello_bytes(nonce, self._leaf, *said)
        identity.verify(hello.caller, signed, hello.signature)
        if not secrets.compare_digest(tls.membership(self._swarm_key, signed), hello.membership):
            raise WrongSwarm("doesn't know the swarm's key", field="hello.membership")
        return hello.caller

    async def close(self) -> None:
        self._closing = True
        await cancel(self._serving)
        channels, self._channels = self._channels, {}
        for channel, _ in channels.values():
            await channel.close()
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


def _named(code: grpc.StatusCode, details: str | None, where: str) -> HearthringError:
    if code is grpc.StatusCode.FAILED_PRECONDITION:
        with contextlib.suppress(ValueError, TypeError):
            name, message, field, mend = json.loads(details or "")
            return from_wire(str(name), str(message)[:500], str(field)[:200], str(mend)[:500])
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        return TooLarge("a message over the limit", field=where)
    if code is grpc.StatusCode.UNIMPLEMENTED:
        return VersionMismatch("the peer doesn't offer this call", field=where)
    if code is grpc.StatusCode.UNAVAILABLE:
        return PeerUnreachable("no connection", field=where)
    return PeerUnreachable(f"the stream ended ({code.name.lower()})", field=where)
