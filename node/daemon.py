"""A node's life: identity, model, window, engine, directory, service, and a clean end."""

import asyncio
import contextlib
import os
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from hearthring.node.announcer import Announcer
from hearthring.node.config import (
    DEFAULT_PORT,
    DataFolder,
    NodeConfig,
    NodeHooks,
    read_owner_key,
    read_swarm_key,
)
from hearthring.node.desk import Desk
from hearthring.node.directory import DhtDirectory
from hearthring.node.loading import Loading, Progress, Report, count_layers
from hearthring.node.stage import StageServer
from hearthring.protocol.asking import ask_records, ask_status, no_seed
from hearthring.protocol.errors import (
    BadOption,
    DirectoryDown,
    HearthringError,
    LayersOutOfRange,
    PortInUse,
    SeedUnreachable,
)
from hearthring.protocol.frames import DirectoryConfig
from hearthring.protocol.grpc_transport import GrpcTransport
from hearthring.protocol.identity import Identity
from hearthring.protocol.invitation import (
    Invitation,
    join_address,
    key_of,
    split_address,
    swarm_id,
)
from hearthring.protocol.limits import LIMITS
from hearthring.protocol.records import NodeRecord, owner_claim, read_all
from hearthring.protocol.tasks import cancel
from hearthring.shards.device import measure_device
from hearthring.shards.engine import Engine, Kind, Window
from hearthring.shards.joining import find_model
from hearthring.shards.store import ModelEntry, ModelStore
from hearthring.shards.timings import Timings
from hearthring.verify.judge import Judge

DRAFTED = 64
"""Generated rows in a step, at most, that the announced fit is for: nobody drafts more."""

MakeJudge = Callable[[int], Judge]
"""Whoever judges proofs, with so many threads."""


@dataclass(frozen=True, slots=True)
class Seeds:
    """What the invitations led to."""

    dht_addresses: tuple[str, ...]
    records: tuple[NodeRecord, ...]


async def run_node(
    config: NodeConfig,
    report: Report,
    progress: Progress,
    hooks: NodeHooks | None = None,
    begun: float | None = None,
    judge: MakeJudge | None = None,
) -> None:
    """Run a node until SIGTERM or Ctrl-C.

    ``report(label, text)`` gets the start-up's lines and last ``("invitation", ...)`` once the node
    serves and is announced. On a signal the record is withdrawn first, within a second; clients
    are asked to go on elsewhere and given ``LIMITS.drain`` seconds for it; then what sessions are
    left end by name, and every child process is gone before this returns.
    """
    begun = time.monotonic() if begun is None else begun
    stop = _stop_signals()
    async with contextlib.AsyncExitStack() as stack:
        node = _Node(config, hooks or NodeHooks(), report, progress, stack, judge)
        starting = asyncio.create_task(node.start())
        stopping = asyncio.create_task(stop.wait())
        try:
            await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if not starting.done():
                return
            invitation = starting.result()
            report("ready", f"after {time.monotonic() - begun:.1f} s, imports included")
            report("invitation", str(invitation))
            await stopping
        finally:
            await cancel([starting, stopping])
        report("stopping", "withdrawing the record; clients go on elsewhere")
        await node.leave()


class _Node:
    """Start-up in order; whatever was started is ended by the exit stack, last first."""

    def __init__(
        self,
        config: NodeConfig,
        hooks: NodeHooks,
        report: Report,
        progress: Progress,
        stack: contextlib.AsyncExitStack,
        judge: MakeJudge | None,
    ) -> None:
        self._config, self._hooks, self._report, self._progress = config, hooks, report, progress
        self._stack, self._make_judge = stack, judge
        self._folder = DataFolder(config.data)
        stack.callback(self._folder.close)
        self._serving: tuple[StageServer, Announcer] | None = None
        own = read_swarm_key(config.swarm_key) if config.swarm_key else None
        self._key = key_of(config.join, own)
        self._who = Identity.load_or_create(self._folder.identity)
        said = partial(report, "owner")
        self._owner = read_owner_key(config.owner_key, said) if config.owner_key else None
        self._transport = GrpcTransport(self._who, self._key)
        self._loading = Loading(config, self._hooks, self._transport, report, progress)
        stack.push_async_callback(self._transport.close)

    async def start(self) -> Invitation:
        """Everything up to the first announcement."""
        config = self._config
        entry = await find_model(
            self._transport, config.join, config.model, ModelStore(), self._progress
        )
        layers = entry.manifest.shape.layers
        self._check_layers(layers)
        desk = Desk(self._transport, entry, config.upload_rate, self._hooks.sent)
        self._stack.push_async_callback(desk.close)
        address, invitation = await self._listen(desk)
        seeds = await self._ask_seeds(entry)
        device = measure_device()
        others = [r for r in seeds.records if r.node != self._who.node_id]
        windows = self._loading.windows(entry, device, others)
        self._report("node", self._who.node_id)
        self._report("model", f"{entry.name}, {layers} layers, id {entry.model_id[:16]}…")
        self._report(
            "device",
            f"{device.processor}, {device.cores} cores, {device.free_memory / 2**30:.1f} GiB free",
        )
        # The directory's process starts while the engine loads: each takes seconds.
        async with asyncio.TaskGroup() as group:
            joining = group.create_task(self._join(entry, seeds, invitation.host))
            loading = group.create_task(self._loading.load(entry, windows, device))
        directory, (engine, times) = joining.result(), loading.result()
        kind = engine.numerics.name.partition("-")[0]
        footprint = self._loading.footprint(entry, device, kind)
        stage = StageServer(
            self._transport,
            engine,
            entry.model_id,
            footprint.kv_rows(device.free_memory, count_layers(windows)),
            self._hooks.session,
            footprint.row,
            windows,
        )
        self._stack.push_async_callback(stage.close)
        record = self._record(entry, windows, engine, times, address)
        announcer = Announcer(
            directory, record, lambda: (stage.free_rows, stage.sessions), self._who
        )
        judge = None
        if self._make_judge is not None:
            judge = self._hooks.judge(self._make_judge(engine.threads))
        desk.open(stage, directory, announcer, times.points(), judge)
        self._serving = stage, announcer
        await announcer.start()
        self._stack.push_async_callback(announcer.withdraw)
        self._report(
            "layers",
            f"{', '.join(f'[{start}, {end})' for start, end in windows)} of {layers}; "
            f"{times.seconds(Kind.GENERATED, 1) * 1e3:.1f} ms a generated row, "
            f"{times.seconds(Kind.PROMPT, 64) * 1e3:.0f} ms 64 prompt rows",
        )
        self._report("engine", f"{engine.numerics.name}, threads: {engine.threads}")
        return invitation

    async def leave(self) -> None:
        """Withdraw the record, and let clients go on elsewhere."""
        if self._serving is not None:
            stage, announcer = self._serving
            await announcer.withdraw()
            await stage.drain(LIMITS.drain)

    # -- parts -----------------------------------------------------------------------------------

    def _check_layers(self, layers: int) -> None:
        wish, most = self._config.layers, self._config.max_layers
        if wish is not None and wish[-1][1] > layers:
            start, end = wish[-1]
            raise LayersOutOfRange(
                f"{start}:{end}, but the model has layers 0:{layers}", field="layers"
            )
        if most is not None and most < 1:
            raise BadOption(f"{most} isn't allowed", field="max-layers", mend="1 or more")

    async def _listen(self, desk: Desk) -> tuple[str, Invitation]:
        """Open the port before anything slow, so that a taken one is said at once."""
        handlers = desk.handlers()
        wish = self._config.listen
        if wish is not None:
            split_address(wish, "listen")
            bound = await self._transport.serve(wish, handlers)
        else:
            try:
                bound = await self._transport.serve(f"0.0.0.0:{DEFAULT_PORT}", handlers)
            except PortInUse:
                bound = await self._transport.serve("0.0.0.0:0", handlers)
        host, port = split_address(bound, "listen")
        if self._config.announce:
            host, port = split_address(self._config.announce, "announce")
        elif host in ("0.0.0.0", "::"):  # noqa: S104
            host = _own_address()
        address = join_address(host, port)
        return address, Invitation(host, port, self._who.node_id, self._key)

    async def _ask_seeds(self, entry: ModelEntry) -> Seeds:
        """Where the directory is, and who serves what. Raises ``SeedUnreachable``."""
        if not self._config.join:
            return Seeds((), ())
        addresses, signed = list[str](), list[bytes]()
        failed = list[tuple[Invitation, HearthringError]]()
        for seed in self._config.join:
            try:
                status = await ask_status(self._transport, seed)
                found = await ask_records(self._transport, seed, entry.model_id)
                signed += found.records
            except HearthringError as error:
                failed.append((seed, error))
                continue
            addresses += status.dht_addresses
        if not addresses:
            if failed:
                raise no_seed(failed)
            raise SeedUnreachable(
                "no seed has a directory yet", field="join", mend="try again soon"
            )
        return Seeds(tuple(addresses), tuple(read_all(signed, entry.model_id)))

    async def _join(self, entry: ModelEntry, seeds: Seeds, host: str) -> DhtDirectory:
        """Join the directory. A seed that is being restarted is waited for: it comes back at its
        address, and its directory at another."""
        until = time.monotonic() + LIMITS.part / 2
        while True:
            try:
                return await self._start_directory(seeds, host)
            except DirectoryDown:
                if not self._config.join or time.monotonic() > until:
                    raise
            await asyncio.sleep(1.0)
            with contextlib.suppress(HearthringError):
                seeds = await self._ask_seeds(entry)

    async def _start_directory(self, seeds: Seeds, host: str) -> DhtDirectory:
        config = DirectoryConfig(
            str(self._folder.identity),
            host=host,
            peers=seeds.dht_addresses,
            announce_host=host,
            must_join=bool(seeds.dht_addresses),
        )
        directory = await DhtDirectory.start(config)
        self._stack.push_async_callback(directory.close)
        return directory

    def _record(
        self,
        entry: ModelEntry,
        windows: tuple[Window, ...],
        engine: Engine,
        times: Timings,
        address: str,
    ) -> NodeRecord:
        owner, claim = self._owner, owner_claim(self._who.node_id)
        generated, prompt = times.fit(Kind.GENERATED, DRAFTED), times.fit(Kind.PROMPT)
        return NodeRecord(
            node=self._who.node_id,
            model_id=entry.model_id,
            model_name=entry.name,
            windows=windows,
            addresses=(address,),
            expires=0.0,
            engine=engine.numerics.name.partition("-")[0],
            residual=engine.numerics.residual.value,
            numerics=engine.numerics.name,
            fingerprint=engine.numerics.fingerprint,
            step_seconds=generated.step,
            row_seconds=generated.row,
            prompt_step_seconds=prompt.step,
            prompt_row_seconds=prompt.row,
            prompt_points=times.prompt,
            link_up=self._config.link[0],
            link_down=self._config.link[1],
            audit_seconds=round(LIMITS.audit_window),
            swarm=swarm_id(self._key),
            owner=owner.node_id if owner else "",
            owner_signature=owner.sign(claim) if owner else b"",
        )


def _stop_signals() -> asyncio.Event:
    """Set by the first SIGTERM or Ctrl-C; a second one ends the process at once."""
    stop, loop = asyncio.Event(), asyncio.get_running_loop()

    def on_signal(number: int) -> None:
        if stop.is_set():
            os._exit(128 + number)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal, number)
    return stop


def _own_address() -> str:
    """The address this machine has on its way out; loopback where there is none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # chooses a route and sends nothing
            return str(probe.getsockname()[0])
        except OSError:
            return "127.0.0.1"
