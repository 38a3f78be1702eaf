"""Models as the command line shows them."""

import json
from typing import Any

from hearthring.shards.store import ModelEntry


def describe(entry: ModelEntry) -> dict[str, Any]:
    """The keys of ``hearthring model show --json``."""
    shape = entry.manifest.shape
    return {
        "id": entry.model_id,
        "name": entry.name,
        "path": str(entry.path),
        "architecture": shape.architecture,
        "layers": shape.layers,
        "width": shape.width,
        "types": sorted({kind for layer in entry.manifest.types for kind in layer}),
        "context": shape.context,
        "bytes": entry.path.stat().st_size,
        "layer_sha256": list(entry.manifest.layers),
    }


def print_json(value: Any) -> None:
    """One JSON value on standard output."""
    print(json.dumps(value, ensure_ascii=False))
