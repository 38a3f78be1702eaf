"""What a session's rows are on the wire: their residual type, exactly, or int8 blocks of it.

The name (``fp16``, ``fp16+int8``) stands in the ``residual`` of a session's ``Open``, of receipts
and proofs. Engines never see the difference: a row that came as int8 is rounded to the residual
type, as every row at a boundary is.
"""

from dataclasses import dataclass

import numpy as np

from hearthring.protocol import int8_rows
from hearthring.protocol.errors import NonFinite, ResidualOverflow, WrongClass
from hearthring.protocol.tensors import F32, Residual, is_finite, pack, rounded, unpack

_INT8 = "+int8"
_SURE = {Residual.FP16: 2.0**15, Residual.BF16: 2.0**127, Residual.FP32: 2.0**127}
"""Below this no value grows out of its type: int8 moves it by less than a hundredth."""
WIRES = ("exact", "int8")
"""How rows may travel."""


@dataclass(frozen=True, slots=True)
class RowType:
    """One session's rows, at every hop; inside a stage rows have the residual type alone."""

    residual: Residual
    int8: bool = False

    @staticmethod
    def parse(name: str, field: str = "residual") -> "RowType":
        """The type of this name. Raises ``WrongClass`` about ``field`` if it isn't known here."""
        plain = name.removesuffix(_INT8)
        if plain not in list(Residual):
            raise WrongClass(f"{name[:40]!r} isn't known here", field=field)
        return RowType(Residual(plain), plain != name)

    def __str__(self) -> str:
        """The name."""
        return self.residual.value + _INT8 * self.int8

    def row_bytes(self, width: int) -> int:
        """Bytes of one row of so many values."""
        return int8_rows.row_bytes(width) if self.int8 else width * self.residual.bytes

    def pack(self, states: F32) -> bytes:
        """States ``[rows, width]`` as wire bytes.

        Raises ``ResidualOverflow`` when a value doesn't fit: the sender's own error.
        """
        if not self.int8:
            return pack(states, self.residual)
        wire = int8_rows.quantise(np.ascontiguousarray(states, np.float32))
        if np.abs(states).max(initial=0.0) < _SURE[self.residual]:
            return wire
        try:
            self.unpack(wire, *states.shape)
        except NonFinite:
            raise ResidualOverflow(
                f"a residual exceeds {self.residual.value}",
                field="residual",
                mend="use --residual bf16 or fp32",
            ) from None
        return wire

    def unpack(self, data: bytes | memoryview, rows: int, width: int) -> F32:
        """Wire bytes as float32 ``[rows, width]``, every value one of the residual type.

        Raises ``BadShape`` or ``NonFinite``; nothing is allocated before the length is right.
        """
        if not self.int8:
            return unpack(data, rows, width, self.residual)
        states = rounded(int8_rows.dequantise(data, rows, width), self.residual)
        if not is_finite(states):
            raise NonFinite(f"a value beyond {self.residual.value}", field="states")
        return states
