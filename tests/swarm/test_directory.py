"""The real DHT: processes on loopback, killed and lied to."""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hearthring.node.directory import DhtDirectory
from hearthring.protocol import frames, records, scratch
from hearthring.protocol.errors import BadIdentityFile, DirectoryDown, PortInUse
from hearthring.protocol.frames import DirectoryConfig
from hearthring.protocol.identity import Identity
from tests.swarm.stranger import LAYERS, MODEL, record

pytestmark = pytest.mark.swarm
ROOT = Path(__file__).parents[2]


async def eventually(holds: Callable[[], Awaitable[bool]], seconds: float = 30.0) -> None:
    async with asyncio.timeout(seconds):
        while not await holds():  # noqa: ASYNC110
            await asyncio.sleep(0.1)


def group_of(leader: int) -> dict[str, int]:
    """Processes of a group that still run; zombies wait for whoever adopted them."""
    table = subprocess.run(
        ["ps", "-eo", "pgid=,pid=,stat=,comm="], capture_output=True, text=True, check=True
    ).stdout
    rows = [line.split(None, 3) for line in table.splitlines()]
    return {
        name: int(pid)
        for group, pid, state, name in rows
        if int(group) == leader and not state.startswith("Z")
    }


def p2pd_of(leader: int) -> int:
    return next(pid for name, pid in group_of(leader).items() if name.endswith("p2pd"))


def left(temp: Path, pattern: str = f"{scratch.PREFIX}*") -> list[Path]:
    """What the directory's processes have in the temporary directory."""
    return list(temp.rglob(pattern))


@pytest.fixture
def temp(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A temporary directory of our own, with a name short enough for sockets."""
    with tempfile.TemporaryDirectory(prefix="hr") as path:
        monkeypatch.setenv("TMPDIR", path)
        monkeypatch.setattr(tempfile, "tempdir", path)
        yield Path(path)


def config(temp: Path, name: str, **fields: Any) -> tuple[Identity, DirectoryConfig]:
    path = temp / f"{name}.key"
    return Identity.load_or_create(path), DirectoryConfig(identity=str(path), **fields)


@contextlib.asynccontextmanager
async def running(settings: DirectoryConfig) -> AsyncIterator[DhtDirectory]:
    directory = await DhtDirectory.start(settings)
    try:
        yield directory
    finally:
        await directory.close()


@contextlib.asynccontextmanager
async def swarm(temp: Path, size: int = 4) -> AsyncIterator[list[tuple[Identity, DhtDirectory]]]:
    """Nodes of which all but the first know only the first's addresses."""
    async with contextlib.AsyncExitStack() as stack:
        who, settings = config(temp, "0")
        nodes = [(who, await stack.enter_async_context(running(settings)))]
        for count in range(1, size):
            who, settings = config(temp, str(count), peers=nodes[0][1].addresses)
            nodes.append((who, await stack.enter_async_context(running(settings))))
        yield nodes


async def seen(directory: DhtDirectory, layers: int = LAYERS) -> set[str]:
    found = records.read_all(await directory.fetch(MODEL, layers), MODEL)
    return {offer.node for offer in found}


async def test_announce_fetch_withdraw_expire(temp: Path) -> None:
    async with swarm(temp) as nodes:
        groups = [directory.pid for _, directory in nodes]
        for who, directory in nodes:
            await directory.announce(records.sign(record(who), who))
        everyone = {who.node_id for who, _ in nodes}
        for _, directory in nodes:
            assert await seen(directory) == everyone
        assert await seen(nodes[1][1], layers=1) == everyone

        leaver, leaving = nodes[3]
        newest = record(leaver, life=25.0, sequence=1)
        await leaving.announce(records.sign(newest, leaver))
        await leaving.withdraw(records.sign(newest.withdrawn(), leaver))
        await leaving.close()
        assert await seen(nodes[1][1]) == everyone - {leaver.node_id}

        brief, directory = nodes[2][0], nodes[1][1]
        other = {"model_id": "cd" * 32}
        await nodes[2][1].announce(records.sign(record(brief, life=2.0, **other), brief))
        assert len(await directory.fetch("cd" * 32, LAYERS)) == 1

        async def expired() -> bool:
            return not await directory.fetch("cd" * 32, LAYERS)

        await eventually(expired)
    assert [group_of(group) for group in groups] == [{}, {}, {}, {}]
    assert not left(temp)


async def test_a_newer_record_outlives_the_replay_of_an_older(temp: Path) -> None:
    async with swarm(temp, 2) as [(who, one), (_, other)]:
        old = records.sign(record(who, life=3.0), who)
        new = records.sign(record(who, life=24.0, sequence=1), who)
        await one.announce(old)
        await one.announce(new)
        await other._ask(10.0, "store", records=[frames.pack(old)], within=5.0)
        await asyncio.sleep(4.0)
        assert await one.fetch(MODEL, LAYERS) == [new]
        assert await other.fetch(MODEL, LAYERS) == [new]


@contextlib.asynccontextmanager
async def stranger(order: dict[str, Any]) -> AsyncIterator[str]:
    """A process that runs ``stranger.py``, and the line it printed when it was done."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.swarm.stranger",
        json.dumps(order),
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdin
    assert process.stdout
    try:
        async with asyncio.timeout(60):
            yield (await process.stdout.readline()).decode().strip()
    finally:
        process.stdin.close()
        async with asyncio.timeout(20):
            await process.wait()


async def test_forgeries_are_invisible(temp: Path) -> None:
    async with swarm(temp) as nodes:
        victim, announcing = nodes[1]
        signed = records.sign(record(victim, life=120.0), victim)
        await announcing.announce(signed)
        liar, _ = config(temp, "liar")
        order = {
            "identity": str(temp / "liar.key"),
            "peers": nodes[0][1].addresses,
            "victim": victim.node_id,
            "signed": signed.hex(),
        }
        async with stranger(order):
            for _, directory in nodes:
                found = await directory.fetch(MODEL, LAYERS)
                assert signed in found
                offers = [records.read(data) for data in found]
                assert {offer.node for offer in offers} == {victim.node_id, liar.node_id}
                assert {offer.sequence for offer in offers if offer.node == liar.node_id} == {7}


async def test_a_wrong_clock_is_said(temp: Path) -> None:
    config(temp, "early")
    async with stranger({"identity": str(temp / "early.key"), "ahead": 10.0}) as address:
        _, settings = config(temp, "late", peers=(address,))
        with pytest.raises(DirectoryDown, match="clock"):
            await DhtDirectory.start(settings)


async def test_a_killed_child_is_replaced_and_announces_again(temp: Path) -> None:
    who, settings = config(temp, "alone")
    async with running(settings) as directory:
        await directory.announce(records.sign(record(who, life=120.0), who))
        before, addresses = directory.pid, directory.addresses
        os.kill(before, signal.SIGKILL)

        async def back() -> bool:
            return await seen(directory) == {who.node_id}

        await eventually(back, 60)
        assert directory.restarts == 1
        assert directory.addresses == addresses
        assert directory.pid != before
        assert not group_of(before)
        assert len(left(temp)) == 1


async def test_the_first_node_finds_the_swarm_again(temp: Path) -> None:
    async with swarm(temp, 3) as nodes:
        first = nodes[0][1]
        await nodes[1][1].announce(records.sign(record(nodes[1][0], life=120.0), nodes[1][0]))

        async def knows_both() -> bool:
            return len({peer.rpartition("/")[2] for peer in first.peers}) == 2

        await eventually(knows_both)
        os.kill(p2pd_of(first.pid), signal.SIGKILL)

        async def restarted() -> bool:
            return first.restarts == 1

        await eventually(restarted, 60)
        assert await seen(first) == {nodes[1][0].node_id}


async def test_requests_during_a_restart_wait_or_say_so(temp: Path) -> None:
    _, settings = config(temp, "alone")
    async with running(settings) as directory:
        os.kill(directory.pid, signal.SIGKILL)
        assert await directory.fetch(MODEL, LAYERS) == []
        os.kill(directory.pid, signal.SIGKILL)
        with pytest.raises(DirectoryDown):
            await directory._ask(0.2, "fetch", model_id=MODEL, layers=LAYERS)
    with pytest.raises(DirectoryDown, match="closed"):
        await directory.fetch(MODEL, LAYERS)


async def test_nobody_there_is_said(temp: Path) -> None:
    gone = f"/ip4/127.0.0.1/tcp/9/p2p/{Identity.new().node_id}"
    _, settings = config(temp, "lost", peers=(gone, "garbage", "/ip4/1.2.3/p2p/xyz"))
    with pytest.raises(DirectoryDown, match="none of"):
        await DhtDirectory.start(settings)
    assert not left(temp)


async def test_a_taken_port_is_said(temp: Path) -> None:
    async with await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0) as server:
        _, settings = config(temp, "second", port=server.sockets[0].getsockname()[1])
        with pytest.raises(PortInUse):
            await DhtDirectory.start(settings)


async def test_an_unusable_identity_is_said(temp: Path) -> None:
    (temp / "bad.key").write_bytes(b"nonsense")
    with pytest.raises(BadIdentityFile):
        await DhtDirectory.start(DirectoryConfig(identity=str(temp / "bad.key")))


async def test_a_start_that_is_cancelled_leaves_nothing(temp: Path) -> None:
    async def silence(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async with await asyncio.start_server(silence, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        peer = f"/ip4/127.0.0.1/tcp/{port}/p2p/{Identity.new().node_id}"
        _, settings = config(temp, "cancelled", peers=(peer,))
        starting = asyncio.create_task(DhtDirectory.start(settings))

        async def p2pd_runs() -> bool:
            return bool(left(temp, "p2pd*.sock"))

        await eventually(p2pd_runs)
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting
    assert not left(temp)


PARENT = """
import asyncio, sys
from hearthring.node.directory import DhtDirectory
from hearthring.protocol.frames import DirectoryConfig

async def main():
    directory = await DhtDirectory.start(DirectoryConfig(identity=sys.argv[1]))
    print(directory.pid, flush=True)
    await asyncio.sleep(600)

asyncio.run(main())
"""


async def test_nothing_outlives_a_killed_parent(temp: Path) -> None:
    config(temp, "orphan")
    parent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PARENT, str(temp / "orphan.key"), cwd=ROOT, stdout=subprocess.PIPE
    )
    assert parent.stdout
    async with asyncio.timeout(60):
        group = int(await parent.stdout.readline())
    assert len(group_of(group)) == 2
    assert left(temp, "*.sock")
    parent.kill()
    await parent.wait()

    async def gone() -> bool:
        return not group_of(group) and not left(temp, "*.sock")

    await eventually(gone)
    assert not left(temp)


async def test_the_next_start_sweeps_what_a_kill_left(temp: Path) -> None:
    _, settings = config(temp, "swept")
    stale = temp / f"{scratch.PREFIX}stale"
    stale.mkdir()
    (stale / "lock").touch()
    (stale / "p2pd-x.sock").touch()
    strange = temp / f"{scratch.PREFIX}strange"
    strange.mkdir()
    async with running(settings) as directory:
        mine = [path for path in left(temp) if path != strange]
        assert stale not in mine
        assert len(mine) == 1
        scratch.sweep()
        assert mine[0].exists()
        assert await directory.fetch(MODEL, 1) == []
    assert strange.exists()
