"""Which thresholds this machine has for a model: its own, else those that came with the package."""

import re
from dataclasses import replace
from importlib.resources import files

from hearthring.protocol.errors import BadModelFile, Malformed
from hearthring.shards.atomic import replace_whole
from hearthring.shards.store import ModelStore
from hearthring.verify.tolerance import NOTHING, Calibration

FOLDER = "calibrations"


def calibration_of(model_id: str) -> Calibration:
    """What ``save`` kept, and for other sorts of routes what the package has; else ``NOTHING``.

    Raises ``BadModelFile`` when the kept file is damaged.
    """
    if not re.fullmatch("[0-9a-f]{64}", model_id):
        return NOTHING
    found = NOTHING
    kept = ModelStore().root / FOLDER / f"{model_id}.json"
    shipped = files("hearthring.verify") / "thresholds" / f"{model_id}.json"
    for place in (shipped, kept):
        if place.is_file():
            try:
                one = Calibration.from_json(place.read_bytes())
            except Malformed as error:
                raise BadModelFile(str(error), field=str(place)) from None
            found = replace(one, sorts=found.sorts | one.sorts)
    return found


def save(calibration: Calibration) -> str:
    """Keep a calibration for this machine's audits; returns where. Raises ``OSError``."""
    path = ModelStore().root / FOLDER / f"{calibration.model_id}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_whole(path, calibration.to_json())
    return str(path)
