"""The shape of a model: every number an engine needs, and nothing about files."""

from dataclasses import KW_ONLY, dataclass, fields, replace
from math import isfinite

from hearthring.protocol.errors import BadModelFile
from hearthring.protocol.limits import LIMITS

MAX_LAYERS = 1024
MAX_COUNT = 1 << 31


@dataclass(frozen=True, slots=True)
class Rope:
    """How a layer rotates queries and keys.

    The first ``width`` channels of each head turn in pairs: (2i, 2i+1) when ``interleaved``, as in
    GGUF's Llama files, otherwise (i, i + width/2), as Hugging Face does. Pair i turns by
    ``position * base ** (-2i / width) / factors[i]``; no factors are ones. Cosine and sine are
    multiplied by ``magnitude``.
    """

    width: int
    base: float
    interleaved: bool
    factors: tuple[float, ...] = ()
    magnitude: float = 1.0


@dataclass(frozen=True, slots=True)
class Shape:
    """A decoder of one of the known families: its numbers. ``families.py`` says how its layers
    are put together.

    Construction checks that the numbers are possible and fit each other; it raises
    ``BadModelFile`` with the number's name as field. Zero, or an empty tuple, means that the model
    has no such thing.

    ``interleaved_rope``: see ``Rope``. ``windows``: per layer, how many of the last positions a
    row sees, itself included; 0 sees all. ``sliding_rope_base``: the base in layers with a window
    when it isn't ``rope_base``; those layers have no factors then. ``query_scale``: what queries
    are multiplied by; 0 is ``head_width ** -0.5``. ``attention_cap``, ``final_cap``: scores and
    logits become ``cap * tanh(x / cap)``. ``ffn``: inner width of the feed-forward block, or of
    each of the ``experts``, of which a row is sent to ``experts_used``; ``experts_normed``: their
    shares of a row sum up to 1.
    """

    architecture: str
    layers: int
    width: int
    heads: int
    kv_heads: int
    head_width: int
    ffn: int
    vocabulary: int
    context: int
    norm_epsilon: float
    rope_base: float
    interleaved_rope: bool = True
    tied_head: bool = True
    _: KW_ONLY
    rope_width: int = 0
    rope_factors: tuple[float, ...] = ()
    rope_magnitude: float = 1.0
    sliding_rope_base: float = 0.0
    windows: tuple[int, ...] = ()
    query_scale: float = 0.0
    attention_cap: float = 0.0
    final_cap: float = 0.0
    embedding_scale: float = 1.0
    experts: int = 0
    experts_used: int = 0
    experts_normed: bool = True

    def __post_init__(self) -> None:
        """Check every number, and how they fit."""
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, tuple):
                good = all(0 <= item < 2**40 for item in value)
            elif isinstance(value, bool | str):
                good = True
            else:
                least = 0 if field.name in _MAY_BE_ZERO else 1 if isinstance(value, int) else 2**-99
                good = isfinite(value) and least <= value < 2**40
            if not good:
                raise BadModelFile(f"{field.name} of the shape is out of range", field=field.name)
        rotated = self.rope_width or self.head_width
        for name, good in (
            ("layers", self.layers <= MAX_LAYERS),
            ("width", self.width <= LIMITS.width),
            ("heads", self.heads <= self.width and self.heads % self.kv_heads == 0),
            ("head_width", self.head_width <= LIMITS.width and self.head_width % 2 == 0),
            ("rope_width", rotated <= self.head_width and rotated % 2 == 0),
            ("rope_factors", len(self.rope_factors) in (0, rotated // 2)),
            ("rope_factors", 0 not in self.rope_factors),
            ("windows", len(self.windows) in (0, self.layers)),
            ("experts", bool(self.experts) == bool(self.experts_used)),
            ("experts_used", self.experts_used <= self.experts <= 4096),
        ):
            if not good:
                raise BadModelFile(f"{name} of the shape doesn't fit the rest", field=name)

    def plain(self) -> dict[str, object]:
        """What stands in the manifest: JSON, without keyword-only numbers at their defaults.

        So a model's id stays when a release learns numbers that only other models have.
        """
        return {
            field.name: getattr(self, field.name)
            for field in fields(self)
            if not field.kw_only or getattr(self, field.name) != field.default
        }

    def window(self, layer: int) -> int:
        """How many of the last positions layer ``layer`` sees; 0 is all."""
        return self.windows[layer] if self.windows else 0

    def rope(self, layer: int) -> Rope:
        """How layer ``layer`` rotates."""
        width = self.rope_width or self.head_width
        if self.sliding_rope_base and self.window(layer):
            return Rope(width, self.sliding_rope_base, self.interleaved_rope)
        return Rope(
            width, self.rope_base, self.interleaved_rope, self.rope_factors, self.rope_magnitude
        )

    @property
    def scale(self) -> float:
        """What queries are multiplied by."""
        return self.query_scale or self.head_width**-0.5

    def single(self, layer: int) -> "Shape":
        """The shape of a model that consists of layer ``layer`` alone."""
        return replace(self, layers=1, windows=self.windows[layer : layer + 1])

    def sorts(self) -> tuple["Shape", ...]:
        """The shapes of one layer each that occur in the model, in order of first occurrence."""
        return tuple(dict.fromkeys(self.single(layer) for layer in range(self.layers)))


_MAY_BE_ZERO = frozenset(
    (
        *("rope_width", "sliding_rope_base", "query_scale", "attention_cap", "final_cap"),
        *("experts", "experts_used"),
    )
)
