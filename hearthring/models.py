"""Models as the command line shows them."""

import json
import os
from typing import Any

from hearthring.shards.disk import ENVIRONMENT, part_files, prune, read_size
from hearthring.shards.parts import describe_parts
from hearthring.shards.store import ModelEntry, ModelStore


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
        "vocabulary": shape.vocabulary,
        "residual": entry.manifest.residual,
        "bytes": entry.path.stat().st_size if entry.whole else entry.parts.bytes(),
        "whole": entry.whole,
        "here": "everything" if entry.whole else describe_parts(entry.parts.here()),
        "layer_sha256": list(entry.manifest.layers),
    }


def keep_within(budget: str | None) -> None:
    """Check a disk budget and make it this process's. Raises ``BadOption``."""
    if budget is not None:
        read_size(budget, "disk-budget")
        os.environ[ENVIRONMENT] = budget


def prune_parts(budget: str) -> None:
    """Remove unused parts until the rest fits a budget, and say what went."""
    removed = prune(ModelStore().root, read_size(budget, "disk-budget"))
    print(f"removed {len(removed)} files, {sum(file.bytes for file in removed) / 2**20:.1f} MiB")
    left = sum(file.bytes for file in part_files(ModelStore().root))
    print(f"{left / 2**20:.1f} MiB of fetched layers are left")


def print_json(value: Any) -> None:
    """One JSON value on standard output."""
    print(json.dumps(value, ensure_ascii=False))
