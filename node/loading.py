"""What a node serves: which layers, fetched if they aren't here, loaded, and timed."""

import asyncio
from collections.abc import Callable, Sequence

from hearthring.node.config import NodeConfig, NodeHooks
from hearthring.node.measure import measured
from hearthring.protocol.records import NodeRecord
from hearthring.protocol.transport import Transport
from hearthring.shards.device import Device
from hearthring.shards.engine import Engine, Window
from hearthring.shards.engines import load_engine
from hearthring.shards.footprint import Footprint, footprint
from hearthring.shards.gguf_file import GgufFile
from hearthring.shards.joining import obtain
from hearthring.shards.parts import describe_parts, window_parts
from hearthring.shards.planner import worst_served
from hearthring.shards.several_windows import SeveralWindows
from hearthring.shards.store import ModelEntry, ModelStore
from hearthring.shards.timings import Timings

Report = Callable[[str, str], None]
Progress = Callable[[str, int, int], None]


def count_layers(windows: Sequence[Window]) -> int:
    """Layers in windows that don't overlap."""
    return sum(end - start for start, end in windows)


class Loading:
    """One node's way from a model to a timed engine."""

    def __init__(
        self,
        config: NodeConfig,
        hooks: NodeHooks,
        transport: Transport,
        report: Report,
        progress: Progress,
    ) -> None:
        self._config, self._hooks, self._transport = config, hooks, transport
        self._report, self._progress = report, progress
        self._opened: GgufFile | None = None

    def windows(
        self, entry: ModelEntry, device: Device, others: Sequence[NodeRecord]
    ) -> tuple[Window, ...]:
        """The layers to serve: those asked for, else what ``others`` serve worst and fits here."""
        if self._config.layers is not None:
            return self._config.layers
        shape = entry.manifest.shape
        service = [0.0] * shape.layers
        for record in others:
            for layer in record.layers:
                if layer < shape.layers:
                    service[layer] += len(record.layers) / (record.row_seconds + 1e-6)
        takes = self.footprint(entry, device, self._config.engine)
        fit = takes.layers(device.free_memory, shape.layers, self._config.max_layers)
        return (worst_served(service, fit),)

    def footprint(self, entry: ModelEntry, device: Device, engine: str) -> Footprint:
        """What layers take of this device's memory with an engine of this name."""
        return footprint(entry.manifest, engine, self._config.options, device.free_memory)

    async def load(
        self, entry: ModelEntry, windows: Sequence[Window], device: Device
    ) -> tuple[Engine, Timings]:
        """The engine of these windows, as the hooks leave it, and what its steps take.

        Raises what fetching and loading do.
        """
        parts = [part for window in windows for part in window_parts(*window)]
        if missing := entry.missing(parts):
            self._report("fetching", f"{describe_parts(missing)} from the swarm")

        def refused(node: str, why: str) -> None:
            self._report("refused", f"{node} {why}; it isn't asked again")

        # Kept open while the node runs, so that no eviction takes what it serves.
        self._opened = await obtain(
            self._transport, self._config.join, entry, parts, self._progress, refused
        )
        return await asyncio.to_thread(self._load, entry, self._opened, windows, device)

    def _load(
        self, entry: ModelEntry, gguf: GgufFile, windows: Sequence[Window], device: Device
    ) -> tuple[Engine, Timings]:
        engines = list[Engine]()
        for window in windows:
            threads = engines[0].threads if engines else self._config.threads
            engines.append(self._engine(entry, gguf, window, threads))
        engine: Engine = engines[0] if len(engines) == 1 else SeveralWindows(engines)
        # Class and times are measured here, off the event loop.
        about = {
            "processor": device.processor,
            "cores": device.cores,
            "threads": engine.threads,
            "model": entry.model_id,
        }
        longest = max(engines, key=lambda one: one.end - one.start)
        times = measured(longest, ModelStore().root / "timings", about).scaled(
            count_layers(windows) / (longest.end - longest.start)
        )
        return self._hooks.engine(engine), times

    def _engine(
        self, entry: ModelEntry, gguf: GgufFile, window: Window, threads: int | None
    ) -> Engine:
        config = self._config
        return load_engine(
            config.engine,
            gguf,
            window,
            config.residual or entry.manifest.residual,
            threads,
            lambda done, total: self._progress("loading layers", done, total),
            self._hooks.load(gguf.dequantised),
            config.options,
            lambda text: self._report("engine", text),
        )
