"""Both sides of a gRPC stream, and what its end means: an error has its name, message, field and
mend in the status."""

import asyncio
import contextlib
import json
from typing import Any

from hearthring.protocol.errors import (
    DeadlineExceeded,
    HearthringError,
    PeerUnreachable,
    TooLarge,
    VersionMismatch,
    from_wire,
)
from hearthring.protocol.grpc_loading import grpc
from hearthring.protocol.limits import LIMITS

_OVER = (
    grpc.aio.AioRpcError,
    grpc.aio.UsageError,
    asyncio.InvalidStateError,
    grpc.aio.InternalError,
)
"""What gRPC raises over a stream that has ended."""


class ServerStream:
    """A node's side of a stream."""

    def __init__(self, peer: str, call: Any, where: str) -> None:
        self.peer, self._call, self._where = peer, call, where

    async def send(self, data: bytes) -> None:
        if len(data) > LIMITS.message_bytes:
            raise TooLarge(f"{len(data)} bytes", field="message")
        try:
            async with asyncio.timeout(LIMITS.write):
                await self._write(data)
        except TimeoutError:
            raise DeadlineExceeded("the reader is too slow", field=self._where) from None
        except _OVER as error:
            raise await self._ended(error) from None

    async def _write(self, data: bytes) -> None:
        await self._call.write(data)

    async def receive(self) -> bytes | None:
        try:
            data = await self._call.read()
        except (grpc.aio.AioRpcError, grpc.aio.UsageError) as error:
            raise await self._ended(error) from None
        except asyncio.CancelledError:
            self._check_cancelled()
            raise
        if data is grpc.aio.EOF:
            await self._check_end()
            return None
        return bytes(data)

    async def _check_end(self) -> None:
        """A server sees EOF when its caller half-closes: always a proper end."""

    def _check_cancelled(self) -> None:
        """A server's read is cancelled with its handler, and by nothing else."""

    async def _ended(self, error: BaseException) -> HearthringError:
        return PeerUnreachable("the connection broke", field=self._where)

    async def close(self) -> None:
        """A server's side ends when its handler returns."""


class ClientStream(ServerStream):
    """The side of whoever has opened a stream."""

    async def _write(self, data: bytes) -> None:
        """As ``call.write``, which would put an error of its own in the place of the one that the
        peer has ended the stream with, if it ends while something is written."""
        if self._call.done():
            raise asyncio.InvalidStateError
        try:
            await self._call._cython_call.send_serialized_message(data)
        except asyncio.CancelledError:
            self._call.cancel()
            raise

    async def _check_end(self) -> None:
        if await self._call.code() is not grpc.StatusCode.OK:
            raise named(await self._call.code(), await self._call.details(), self._where)

    def _check_cancelled(self) -> None:
        """gRPC says so of a stream that this side has ended, too, for example over a reader that is
        too slow: whoever reads wasn't cancelled by that, and must be told."""
        task = asyncio.current_task()
        if self._call.done() and task is not None and not task.cancelling():
            raise PeerUnreachable("the stream is closed", field=self._where) from None

    async def _ended(self, error: BaseException) -> HearthringError:
        if isinstance(error, grpc.aio.AioRpcError):
            return named(error.code(), error.details(), self._where)
        if self._call.done() or isinstance(error, grpc.aio.InternalError):
            with contextlib.suppress(TimeoutError):  # the peer's last word is under way
                async with asyncio.timeout(LIMITS.goodbye):
                    return named(await self._call.code(), await self._call.details(), self._where)
        return PeerUnreachable("the stream is closed", field=self._where)

    async def close(self) -> None:
        self._call.cancel()


def status_of(error: HearthringError) -> str:
    """An error in the words of a status."""
    return json.dumps([type(error).__name__, error.message, error.field, error.mend])


def named(code: grpc.StatusCode, details: str | None, where: str) -> HearthringError:
    """The error that a stream has ended with; ``where`` names the peer."""
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
