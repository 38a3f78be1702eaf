"""A proof as JSON, for people and other programs; the file itself stays the truth."""

import json
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from hearthring.protocol.messages import Receipt
from hearthring.verify import receipts

if TYPE_CHECKING:
    from hearthring.verify.proof import Proof

_APART = ("stages", "sampling", "received", "candidates", "text", "_file")


def as_json(proof: "Proof", version: int) -> dict[str, Any]:
    """Bytes in hex; the key ``hidden`` tells whether ``token_ids`` are left out.

    A receipt stands as what it says; its signature was checked when the proof was read.
    """
    view: dict[str, Any] = {"format": version}
    for item in fields(proof):
        if item.name not in _APART:
            view[item.name] = plain(getattr(proof, item.name))
    view |= {"hidden": proof.is_hidden} | slots(proof.text_hash)
    view["sampling"] = slots(proof.sampling)
    view["candidates"] = [slots(one) for one in proof.candidates]
    view["stages"] = []
    for stage in proof.stages:
        one: dict[str, Any] = {"node": stage.node, "start": stage.start, "end": stage.end}
        if stage.receipt is not None:
            one["receipt"] = _receipt(stage.receipt)
        view["stages"].append(one)
    return json.loads(json.dumps(view))  # type: ignore[no-any-return]


def slots(item: Any) -> dict[str, Any]:
    """The fields of a slotted dataclass by their names."""
    return {name: plain(getattr(item, name)) for name in type(item).__slots__}


def plain(value: Any) -> Any:
    """Bytes as hex, tuples as lists."""
    if isinstance(value, bytes):
        return value.hex()
    return [plain(item) for item in value] if isinstance(value, tuple) else value


def _receipt(receipt: Receipt) -> dict[str, Any]:
    return slots(receipts.read(receipt))
