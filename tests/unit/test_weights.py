"""What a client keeps of its model for checks is bounded, whatever rings it has used."""

from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest

from hearthring.client.weights import KEPT, Weights

LAYERS = 8


def stage(start: int, end: int, fingerprint: str = "f") -> Any:
    return SimpleNamespace(
        start=start, end=end, fingerprint=fingerprint, residual="fp16", numerics="torch"
    )


async def test_layers_for_checks_go_when_they_were_unused_for_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loaded: list[tuple[int, int]] = []

    def load(gguf: object, numerics: str, residual: object, window: tuple[int, int], _: int) -> Any:
        loaded.append(window)
        return object()

    async def obtain(parts: object) -> None:
        return None

    monkeypatch.setattr("hearthring.client.weights.load_cells", load)
    swarm: Any = SimpleNamespace(obtain=obtain, config=SimpleNamespace(threads=1))
    with ThreadPoolExecutor(1) as thread:
        weights = Weights(swarm, thread)
        model: Any = SimpleNamespace(shape=SimpleNamespace(layers=LAYERS))
        weights._model = model
        first = await weights.cells(stage(0, 4))
        for start in range(4):
            await weights.cells(stage(start, start + 4, "other"))
            assert await weights.cells(stage(0, 4)) is first  # in use, so it stays
            assert sum(end - start for start, end, _ in weights._cells) <= KEPT * LAYERS
        assert len(loaded) == 5
        await weights.cells(stage(3, 7, "other"))
        assert len(loaded) == 5
        await weights.cells(stage(0, 4, "other"))  # the longest unused
        assert len(loaded) == 6
        await weights.cells(stage(0, LAYERS, "all"))
        assert sum(end - start for start, end, _ in weights._cells) <= KEPT * LAYERS
