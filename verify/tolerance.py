"""How far apart honest results of different numerics classes may be: thresholds, by model.

A ``Tolerance`` belongs to one sort of route (``sort_of`` its class's name: engine, kernels, types)
and holds, per boundary of the model, the most that an honest request may deviate from a replay in
another class. ``verify/calibrating.py`` sets it from measurements, with a bound on how often an
honest request exceeds it anywhere. Where nobody has calibrated a model, ``GENERIC`` stands in: the
figures of one small model, with no bound for any other.
"""

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any

from hearthring.protocol.errors import Malformed

VERSION = 2
READS = (1, VERSION)
"""Version 1 knew nothing of cells, and had no tail."""
MOST_LAYERS = 4096


@dataclass(frozen=True, slots=True)
class Tolerance:
    """Thresholds of one sort of route; a figure above its threshold is one too many.

    ``exp`` and ``mantissa``: request means of a digest's mismatches and mantissa steps, by
    boundary: entry 0 after the first layer, the last after the final norm. ``chunk_exp``:
    mismatches of one chunk, at any boundary. ``deviation`` and ``deviation_chunk``: a stage's
    output against the replay of its recorded input in all channels, mean of the request and of the
    worst chunk; entry 0 for a stage of one layer. ``token_margin``: logits by which another token
    may be ahead. ``cell_added`` and ``cell_stored``: relative error of what a layer added to its
    rows, and of their K and V, mean of the cells drawn. A list that is shorter than a model goes on
    with its last entry.

    The share of honest requests that exceed a threshold is at most ``bound``, whatever their
    distribution; if the tail of what was measured is exponential, it is ``tail`` at most. Both are
    1 where nothing is known.
    """

    exp: tuple[float, ...] = (10.0,)
    mantissa: tuple[float, ...] = (4.0,)
    chunk_exp: float = 63.0
    deviation: tuple[float, ...] = (0.06,)
    deviation_chunk: tuple[float, ...] = (0.12,)
    token_margin: float = 0.5
    cell_added: float = 0.1
    cell_stored: float = 0.15
    bound: float = 1.0
    tail: float = 1.0

    def digest_at(self, boundary: int) -> tuple[float, float]:
        """Thresholds for the digests after ``boundary`` layers: mismatches, mantissa steps."""
        return _at(self.exp, boundary - 1), _at(self.mantissa, boundary - 1)

    @property
    def norm(self) -> tuple[float, float] | None:
        """Thresholds for the digests of the final norm's output, where there are any."""
        return None if self is GENERIC else (self.exp[-1], self.mantissa[-1])

    def stage(self, layers: int) -> tuple[float, float]:
        """Thresholds for a stage of so many layers: mean deviation, and of the worst chunk."""
        return _at(self.deviation, layers - 1), _at(self.deviation_chunk, layers - 1)


GENERIC = Tolerance()
"""Measured on SmolLM2-135M-Instruct Q4_1, ggml's 8-bit activations against torch in fp32. Over ten
layers deviations had means up to 0.014 (0.038 with 8-bit keys and values) and chunks up to 0.033
(0.047); noise of 5 % of a row's spread gave 0.12 to 0.15, a left-out layer 0.32 to 0.45. A
layer's cells had means of 0.02, and more where a text's first rows were drawn; a skipped or
swapped layer gives about 1, weights rounded to 4 bits 0.3. Noise of 1 % of a row at a layer can't
be told from rounding."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """What was measured of one model: a tolerance per sort of route.

    ``texts`` were used to set thresholds, ``held_out`` only to count how many of them exceeded any
    (``exceeded``).
    """

    model_id: str
    sorts: dict[str, Tolerance]
    texts: int = 0
    held_out: int = 0
    exceeded: int = 0

    def tolerance(self, classes: Iterable[str]) -> Tolerance:
        """For a route of these classes, by their names: the widest of theirs, or ``GENERIC``."""
        found = [self.sorts.get(sort_of(name)) for name in classes]
        known = [one for one in found if one is not None]
        if not known or len(known) < len(found):
            return GENERIC
        return widest(known)

    def to_json(self) -> str:
        """As the file that ``hearthring calibrate`` writes."""
        said = {name: getattr(self, name) for name in ("model_id", "texts", "held_out", "exceeded")}
        sorts = {key: _plain(one) for key, one in sorted(self.sorts.items())}
        return json.dumps({"version": VERSION, **said, "sorts": sorts}, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes) -> "Calibration":
        """Raises ``Malformed`` for anything that ``to_json`` doesn't write."""
        try:
            said = json.loads(text)
            version = said.pop("version")
            if version not in READS:
                raise Malformed("another version", field="calibration.version")
            known = {} if version == VERSION else {name: _plain(GENERIC)[name] for name in _NEW}
            sorts = {str(key): _tolerance(known | one) for key, one in said.pop("sorts").items()}
            counts = {name: int(said.pop(name)) for name in ("texts", "held_out", "exceeded")}
            model_id = str(said.pop("model_id"))
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            raise Malformed("not a calibration", field="calibration") from None
        if said:
            raise Malformed(f"unknown keys: {', '.join(said)}"[:200], field="calibration")
        return cls(model_id, sorts, **counts)


NOTHING = Calibration("", {})
"""Of a model that nobody has calibrated."""


_NEW = ("cell_added", "cell_stored", "tail")


def sort_of(numerics: str) -> str:
    """What of a class's name its rounding hangs on: not the build, nor the machine.

    ``ggml-0.26/q4_1/kv-f16/prompt-openblas-fp32/fp16`` is of the sort
    ``ggml/kv-f16/prompt-fp32/fp16``.
    """
    words = numerics.split("/")
    engine, residual = words[0].partition("-")[0], words[-1]
    if engine != "ggml":
        return "/".join([engine, *words[-3:-2], residual])
    kept = [word for word in words[1:-1] if word.startswith("kv-") or word in ("packed", "inexact")]
    prompt = "prompt-fp32" if any(_is_wide(word) for word in words) else "prompt-dot"
    return "/".join([engine, *kept, prompt, residual])


def widest(tolerances: list[Tolerance]) -> Tolerance:
    """Of each threshold the largest."""
    assert tolerances
    made: dict[str, Any] = {}
    for item in fields(Tolerance):
        values = [getattr(one, item.name) for one in tolerances]
        if isinstance(values[0], tuple):
            length = max(map(len, values))
            made[item.name] = tuple(max(_at(v, i) for v in values) for i in range(length))
        else:
            made[item.name] = max(values)
    return Tolerance(**made)


def _is_wide(word: str) -> bool:
    return word.startswith("prompt-") and word.endswith("-fp32")


def _at(values: tuple[float, ...], index: int) -> float:
    return values[min(max(index, 0), len(values) - 1)]


def _plain(one: Tolerance) -> dict[str, Any]:
    return {name: getattr(one, name) for name in Tolerance.__slots__}


def _tolerance(said: dict[str, Any]) -> Tolerance:
    made: dict[str, Any] = {}
    for item in fields(Tolerance):
        value = said.pop(item.name)
        many = isinstance(item.default, tuple)
        if many != isinstance(value, list) or (many and not 0 < len(value) <= MOST_LAYERS):
            raise ValueError
        numbers = [float(one) for one in value] if many else [float(value)]
        if not all(math.isfinite(number) and number >= 0 for number in numbers):
            raise ValueError
        made[item.name] = tuple(numbers) if many else numbers[0]
    if said:
        raise ValueError
    return Tolerance(**made)
