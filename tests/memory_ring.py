"""A whole swarm in this process: real engines and stages over the transport's twin."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from hearthring.client.api import AsyncClient
from hearthring.client.auditing import OfflineJudge
from hearthring.node.announcer import Announcer
from hearthring.node.config import NodeHooks
from hearthring.node.desk import Desk
from hearthring.node.memory_directory import MemoryDirectory
from hearthring.node.stage import StageServer
from hearthring.protocol.invitation import Invitation, split_address
from hearthring.protocol.memory import MemoryNetwork, MemoryTransport
from hearthring.protocol.records import NodeRecord
from hearthring.protocol.tensors import Residual
from hearthring.shards.engine import Engine, Numerics
from hearthring.shards.engines import load_engine
from hearthring.shards.several_windows import SeveralWindows
from hearthring.shards.store import ModelEntry
from hearthring.verify.judge import Judge

_CLASSES: dict[tuple[str, str, Residual, bool], Numerics] = {}


def _know_class(engine: Engine, name: str, model_id: str, honest: bool) -> None:
    """Windows of a model are of one class, which takes as long to measure as a short answer does:
    that is done once in a process."""
    key = name, model_id, engine.residual, honest
    if key in _CLASSES:
        engine.__dict__["numerics"] = _CLASSES[key]  # a cached property of either engine
    else:
        _CLASSES[key] = engine.numerics


@dataclass
class MemoryNode:
    """One node of the swarm."""

    transport: MemoryTransport
    stage: StageServer
    announcer: Announcer
    invitation: Invitation

    @property
    def node_id(self) -> str:
        return self.transport.identity.node_id


@dataclass
class MemorySwarm:
    """Nodes and clients that share a network and a directory."""

    entry: ModelEntry
    stack: AsyncExitStack
    network: MemoryNetwork = field(default_factory=MemoryNetwork)
    shared: dict[tuple[str, str], bytes] = field(default_factory=dict)
    nodes: list[MemoryNode] = field(default_factory=list)

    async def node(
        self,
        window: tuple[int, int],
        residual: Residual = Residual.FP32,
        hooks: NodeHooks | None = None,
        kv_rows: int = 1 << 14,
        engine: str = "torch",
        row_seconds: float = 0.001,
        judge: Judge | None = None,
        several: Sequence[tuple[int, int]] = (),
    ) -> MemoryNode:
        """Start a node of this window, or of ``several`` in it."""
        hooks = hooks or NodeHooks()
        transport = MemoryTransport(self.network)
        self.stack.push_async_callback(transport.close)
        gguf = self.entry.open()
        load = hooks.load(gguf.dequantised)
        engines = [
            load_engine(engine, gguf, one, residual, 1, load=load) for one in several or (window,)
        ]
        for one in engines:
            _know_class(one, engine, self.entry.model_id, load == gguf.dequantised)
        loaded = hooks.engine(SeveralWindows(engines) if several else engines[0])
        directory = MemoryDirectory(self.shared)
        desk = Desk(transport, self.entry)
        address = await transport.serve("127.0.0.1:0", desk.handlers())
        who = transport.identity
        stage = StageServer(
            transport, loaded, self.entry.model_id, kv_rows, hooks.session, windows=several
        )
        self.stack.push_async_callback(stage.close)
        record = NodeRecord(
            node=who.node_id,
            model_id=self.entry.model_id,
            windows=tuple(several) or (window,),
            addresses=(address,),
            expires=0.0,
            residual=residual.value,
            numerics=loaded.numerics.name,
            fingerprint=loaded.numerics.fingerprint,
            row_seconds=row_seconds,
        )
        announcer = Announcer(directory, record, lambda: (stage.free_rows, stage.sessions), who)
        desk.open(stage, directory, announcer, judge=judge or OfflineJudge(1))
        self.stack.push_async_callback(desk.close)
        await announcer.start()
        self.stack.push_async_callback(announcer.withdraw)
        host, port = split_address(address)
        node = MemoryNode(transport, stage, announcer, Invitation(host, port, who.node_id))
        self.nodes.append(node)
        return node

    async def kill(self, node: MemoryNode) -> None:
        """End a node as SIGKILL would: its streams break, its record stays."""
        await node.transport.close()
        await node.stage.close()

    def client(self, **options: Any) -> AsyncClient:
        """A client that knows the first node only."""
        client = AsyncClient(
            [self.nodes[0].invitation],
            str(self.entry.path),
            threads=1,
            transport=MemoryTransport(self.network),
            **options,
        )
        self.stack.push_async_callback(client.close)
        return client


@asynccontextmanager
async def memory_swarm(
    entry: ModelEntry,
    cuts: Sequence[int],
    residual: Residual = Residual.FP32,
    hooks: Mapping[int, NodeHooks] | None = None,
) -> AsyncIterator[MemorySwarm]:
    """A ring of nodes whose windows lie between ``cuts``; ``hooks`` by place."""
    async with AsyncExitStack() as stack:
        swarm = MemorySwarm(entry, stack)
        for place, window in enumerate(pairwise(cuts)):
            await swarm.node(window, residual, (hooks or {}).get(place))
        yield swarm
