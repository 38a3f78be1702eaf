"""What a node's layers take of its memory, by engine and options. Pure."""

from dataclasses import dataclass
from math import prod

from hearthring.shards.engines import FREE_SHARE, PACKABLE, WIDE, EngineOptions, prompt_policy
from hearthring.shards.families import layer_parts
from hearthring.shards.ggml_kv import kv_bytes
from hearthring.shards.ggml_policy import FAST
from hearthring.shards.gguf_header import KINDS
from hearthring.shards.manifest import Manifest
from hearthring.shards.parts import layer_part, tensors_of
from hearthring.shards.planner import layers_that_fit

KV_SHARE, KV_LEAST, KV_MOST = 4, 16, 1 << 20
"""Keys and values get a fourth of the free memory, if weights leave so much, and at any rate a
sixteenth, since mapped weights can be read again; never more rows than this."""


@dataclass(frozen=True, slots=True)
class Footprint:
    """Bytes: ``layer`` of a layer's weights, mapped or copied; ``wide`` of a layer's float32 copies
    for prompts, while they fit into ``budget``; ``row`` of a row's keys and values per layer."""

    layer: int
    row: int
    wide: int = 0
    budget: int = 0

    def weights(self, layers: int) -> int:
        """What so many layers take."""
        return layers * self.layer + min(self.budget, layers * self.wide)

    def layers(self, free: int, layers: int, most: int | None = None) -> int:
        """How many of a model's layers a device with so much free memory takes."""
        fit = layers_that_fit(self.layer + self.wide, layers, free, most)
        if fit * self.wide < self.budget:
            return fit
        return layers_that_fit(self.layer, layers, free - 2 * self.budget, most)

    def kv_rows(self, free: int, layers: int) -> int:
        """Rows of keys and values that a device has room for beside so many layers."""
        room = min(free // KV_SHARE, max(free - self.weights(layers), free // KV_LEAST))
        return min(KV_MOST, room // (self.row * layers))


def footprint(manifest: Manifest, engine: str, options: EngineOptions, free: int) -> Footprint:
    """The footprint of a model's layers, of which the largest stands for all.

    ``engine``: one of ``ENGINES``; ``free``: bytes of memory.
    """
    shape = manifest.shape
    values = sum(prod(size) for size in layer_parts(shape).values())
    heads = 2 * shape.kv_heads
    kinds = {KINDS[name] for name in manifest.types[0]}
    on_cpu = options.device == "cpu" and options.compute is None
    if engine == "torch" or (engine == "auto" and not (on_cpu and kinds - WIDE)):
        size = 4 if options.compute in (None, "fp32") and options.device == "cpu" else 2
        return Footprint(size * values, size * heads * shape.head_width)
    layers = [tensors_of(manifest, layer_part(layer)) for layer in range(shape.layers)]
    mapped = max(sum(tensor.size for tensor in layer) for layer in layers)
    packed = max(
        sum(t.size for t in layer if t.kind in PACKABLE and len(t.shape) == 2) for layer in layers
    )
    budget = 0
    if prompt_policy(options, kinds) == FAST:
        budget = free // FREE_SHARE if options.prompt_memory is None else options.prompt_memory
    return Footprint(
        mapped + (packed if options.repack else 0),
        heads * kv_bytes(options.kv, shape.head_width),
        4 * values if budget else 0,
        budget,
    )
