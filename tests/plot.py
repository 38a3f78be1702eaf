"""Two neighbours in one plot: what one should have sent, both say that it did."""

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from hearthring.node.stage_session import Prepared, StageSession
from hearthring.protocol.messages import HopTime, Receipt, Step
from hearthring.protocol.tensors import bf16_bits
from hearthring.verify import receipts
from hearthring.verify.digest import digests
from hearthring.verify.rowhash import CHUNK, chunk_roots, row_hashes


@dataclass
class Plot:
    """What two neighbours share: the rows that the first should have sent, and their hashes."""

    honest: dict[int, bytes] = field(default_factory=dict)
    states: dict[int, np.ndarray] = field(default_factory=dict)

    def roots(self, ids: list[int]) -> tuple[bytes, ...]:
        return tuple(chunk_roots(range(len(ids)), [self.honest[row] for row in ids]))


def conspirators(plot: Plot) -> tuple[type[StageSession], type[StageSession]]:
    """The first sends noise and signs for it on the way, but its receipt says it sent what it
    should have; the second's receipt says that it got that."""

    class First(StageSession):
        def complete(
            self, prepared: Prepared, output: np.ndarray, time: HopTime, *rest: Any
        ) -> Step:
            rows, wire = prepared.rows, self._rows.pack(output)
            kinds, positions = [r.kind for r in rows], [r.position for r in rows]
            about = self._model, self._class, self.wish.end
            hashes = row_hashes(*about, kinds, positions, wire, len(rows))
            plot.honest.update(zip((r.id for r in rows), hashes, strict=True))
            plot.states.update(zip((r.id for r in rows), output, strict=True))
            noisy = output + np.float32(0.3) * np.roll(output, 1, axis=1)
            sent = self._rows.unpack(self._rows.pack(noisy), *noisy.shape)
            return super().complete(prepared, sent, time, *rest)

        def receipt(self, commit: tuple[int, ...]) -> Receipt | None:
            said = _said(self, super().receipt(commit), "out_roots")
            states = np.stack([plot.states[row.id] for row in self._slots.committed])
            chunks = [bf16_bits(states[at : at + CHUNK]) for at in range(0, len(states), CHUNK)]
            body = replace(receipts.read(said), digests=tuple(digests(chunks)))
            return receipts.sign(body, self._who)

    class Second(StageSession):
        def receipt(self, commit: tuple[int, ...]) -> Receipt | None:
            return _said(self, super().receipt(commit), "in_roots")

    def _said(of: StageSession, honest: Receipt | None, name: str) -> Receipt:
        assert honest is not None
        roots = plot.roots([row.id for row in of._slots.committed])
        return receipts.sign(replace(receipts.read(honest), **{name: roots}), of._who)

    return First, Second
