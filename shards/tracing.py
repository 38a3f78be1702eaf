"""Engines that show what they computed inside: the residual after every layer, as exact bytes."""

from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from hearthring.protocol.tensors import F32, Residual, pack
from hearthring.shards.engine import Engine, Segment, Window

Trace = NDArray[np.uint8]


class Traced(NamedTuple):
    """What ``Engine.forward`` returns, and the trace.

    ``trace`` is ``[layers, rows, bytes of a row]``: the residual after each layer of the window,
    in wire bytes of the engine's residual type. Its last layer packs ``out``.
    """

    out: F32
    tapped: dict[int, F32]
    trace: Trace


@runtime_checkable
class TracingEngine(Protocol):
    """What an engine has beside ``Engine`` if its rows can be traced."""

    def forward_traced(
        self, segments: tuple[Segment, ...], states: F32, taps: frozenset[int] = frozenset()
    ) -> Traced:
        """As ``Engine.forward``, with the trace. It changes no bit of any row."""


def trace_by_taps(
    engine: Engine, segments: tuple[Segment, ...], states: F32, taps: frozenset[int]
) -> Traced:
    """A trace by way of taps at every boundary, for engines that have no shorter one."""
    start, end = window_of(engine, segments)
    out, tapped = engine.forward(segments, states, taps | set(range(start + 1, end)))
    kind = engine.numerics.residual
    layers = [pack(tapped[boundary], kind) for boundary in range(start + 1, end)]
    trace = empty_trace((start, end), len(out), out.shape[1], kind)
    for place, wire in enumerate([*layers, pack(out, kind)]):
        trace[place] = np.frombuffer(wire, np.uint8).reshape(trace.shape[1:])
    return Traced(out, {b: states for b, states in tapped.items() if b in taps}, trace)


def window_of(engine: Engine, segments: tuple[Segment, ...]) -> Window:
    """The layers that a batch runs through."""
    return segments[0].cache.window if segments else (engine.start, engine.end)


def empty_trace(window: Window, rows: int, width: int, kind: Residual) -> Trace:
    """Room for a trace."""
    return np.empty((window[1] - window[0], rows, width * kind.bytes), np.uint8)
