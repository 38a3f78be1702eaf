"""Fixed weights as files with luck have them: matrices of one operand one behind the other."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hearthring.shards.ggml_check import FixedWeights
from hearthring.shards.ggml_weights import JOINED

WITH_KEYS, WITHOUT_KEYS = JOINED[:2], JOINED[::2]
"""Which lie together: gate and up, and queries and values, with the keys between them or not."""


class SideBySide(FixedWeights):
    """The weights of ``FixedWeights``, those of each of ``runs`` in one piece of memory."""

    runs = WITH_KEYS

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._behind: dict[str, tuple[int, tuple[int, ...], NDArray[np.uint8]]] = {}
        for layer in range(self.shape.layers):
            for run in self.runs:
                self._lay([f"blk.{layer}.{part}" for part in run])

    def _lay(self, names: list[str]) -> None:
        found = {name: super(SideBySide, self).raw(name) for name in names}
        whole, at = np.concatenate([data for *_, data in found.values()]), 0
        for name, (kind, dims, data) in found.items():
            self._behind[name] = kind, dims, whole[at : at + len(data)]
            at += len(data)

    def raw(self, name: str) -> tuple[int, tuple[int, ...], NDArray[np.uint8]]:
        """As ``FixedWeights.raw``."""
        return self._behind.get(name) or super().raw(name)


class WithoutKeys(SideBySide):
    """Keys lie elsewhere, as in files sorted by name."""

    runs = WITHOUT_KEYS
