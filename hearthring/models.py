"""Models as the command line shows them."""

import json
import os
from pathlib import Path
from typing import Any

from hearthring.protocol.errors import BadOption
from hearthring.protocol.tensors import Residual
from hearthring.shards.atomic import replace_whole
from hearthring.shards.disk import ENVIRONMENT, budget, part_files, prune, read_size
from hearthring.shards.parts import describe_parts
from hearthring.shards.store import ModelEntry, ModelStore
from hearthring.terminal import Bars


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


def disk_use() -> str:
    """What fetched layers take of the disk, and of which budget."""
    used, most = sum(file.bytes for file in part_files(ModelStore().root)), budget()
    limit = "without a budget" if most is None else f"of a budget of {most / 2**20:.1f} MiB"
    return f"fetched layers take {used / 2**20:.1f} MiB, {limit} ({ENVIRONMENT})"


def print_json(value: Any) -> None:
    """One JSON value on standard output."""
    print(json.dumps(value, ensure_ascii=False))


def calibrate_model(
    model: str,
    texts: int,
    residuals: list[str],
    seed: int,
    output: Path | None,
    threads: int | None,
) -> None:
    """Measure, keep the thresholds, and say what they are worth."""
    from hearthring.client.calibrating import calibrate
    from hearthring.client.calibrations import save
    from hearthring.client.config import threads_of

    if wrong := [name for name in residuals if name not in list(Residual)]:
        raise BadOption(f"{wrong[0]!r} isn't one of fp32, fp16, bf16", field="residual")
    kinds = [Residual(name) for name in residuals] or list(Residual)
    if output is not None and not output.absolute().parent.is_dir():
        raise BadOption(f"there is no folder {output.absolute().parent}", field="output")
    with Bars() as bars:
        entry = ModelStore().find(model, bars)
        found = calibrate(
            entry.open(), entry.model_id, texts, threads_of(threads), kinds, seed, bars
        )
    try:
        where = save(found) if output is None else str(output)
        if output is not None:
            replace_whole(output, found.to_json())
    except OSError as error:
        raise BadOption(f"{error.filename}: {error.strerror}", field="output") from None
    for sort, tolerance in sorted(found.sorts.items()):
        print(
            f"  {sort:<32}honest requests beyond a threshold: at most {tolerance.bound:.1%}, "
            f"estimated {tolerance.tail:.2%}"
        )
    print(f"  held out  {found.exceeded} of {found.held_out} texts were beyond a threshold")
    print(f"  kept in   {where}")
