"""Nodes that compute with other weights than the model's, and say nothing of it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from hearthring.node.config import NodeHooks
from hearthring.protocol.tensors import F32
from hearthring.shards.engine import Engine, Numerics
from hearthring.shards.several_windows import SeveralWindows
from tests.wrapped import WrappedEngine

Change = Callable[[Any], Any]
"""From the loader of a file's tensors to one that gives others."""


def renamed(first: int, second: int) -> Callable[[Any], Any]:
    """Weights of two layers in each other's place."""

    def hook(load: Any) -> Any:
        def other(name: str) -> F32:
            parts = name.split(".")
            if parts[0] == "blk" and int(parts[1]) in (first, second):
                parts[1] = str(first + second - int(parts[1]))
            return load(".".join(parts))  # type: ignore[no-any-return]

        return other

    return hook


def skipped(layer: int) -> Callable[[Any], Any]:
    """A layer that adds nothing to the residual."""

    def hook(load: Any) -> Any:
        def other(name: str) -> F32:
            silent = name in (f"blk.{layer}.attn_output.weight", f"blk.{layer}.ffn_down.weight")
            return np.zeros_like(load(name)) if silent else load(name)

        return other

    return hook


def coarse(bits: int) -> Callable[[Any], Any]:
    """Weights rounded to so many bits, a scale per row."""

    def hook(load: Any) -> Any:
        def other(name: str) -> F32:
            weight: F32 = load(name)
            if weight.ndim < 2:
                return weight
            scale = np.abs(weight).max(axis=1, keepdims=True) / (2 ** (bits - 1) - 1)
            return (np.round(weight / scale) * scale).astype(np.float32)

        return other

    return hook


@dataclass
class Namesake(WrappedEngine):
    """An engine that bears another one's numerics class."""

    own: Numerics

    @property
    def numerics(self) -> Numerics:
        return self.own


def wrong_weights(change: Change) -> NodeHooks:
    """A node whose weights pass through ``change`` and whose class is that of the true ones.

    ggml runs what has passed through it in float32, which is a class of its own and would give it
    away. torch's class doesn't depend on the weights' types.
    """
    files: list[Any] = []

    def load(honest: Any) -> Any:
        files.append(honest.__self__)
        return change(honest)

    def named(engine: Engine) -> Engine:
        from hearthring.shards.ggml_engine import GgmlEngine

        one = engine.engines[0] if isinstance(engine, SeveralWindows) else engine
        if not isinstance(one, GgmlEngine):
            return engine
        layer, threads = (one.start, one.start + 1), one.threads
        own = GgmlEngine(files[-1], *layer, one.residual, threads, policy=one.policy, check=False)
        return Namesake(engine, own.numerics)

    return NodeHooks(load=load, engine=named)
