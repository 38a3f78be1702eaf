"""Steps and wishes that no stage may take, and the error and field that each is refused with."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from hearthring.protocol.errors import (
    BadInvitation,
    BadShape,
    BadSignature,
    HearthringError,
    LayersOutOfRange,
    Malformed,
    NonFinite,
    OutOfOrder,
    OutOfSlots,
    QuotaExceeded,
    TooLarge,
    UnknownRow,
    WrongClass,
)
from hearthring.protocol.identity import Identity
from hearthring.protocol.limits import LIMITS
from hearthring.protocol.messages import (
    GENERATED,
    PROMPT,
    HopTime,
    Row,
    Step,
)
from hearthring.protocol.tensors import Residual, pack
from tests.stage_peer import (
    NEXT,
    WIDTH,
    Peer,
    chain,
    states_of,
    wire,
)


def with_value(value: float) -> bytes:
    states = states_of([4])
    states[0, WIDTH // 2] = value
    return wire(states)


def resigned(peer: Peer, **changes: Any) -> Step:
    """The next step with other contents, as signed as can be."""
    return peer.signed(replace(peer.step(NEXT), **changes))


def numbered(peer: Peer, step_id: int) -> Step:
    return resigned(peer, step_id=step_id)


Wrong = Callable[[Peer], Step]


STEPS: dict[str, tuple[type[HearthringError], str, Wrong]] = {
    "no signature": (BadSignature, "signature", lambda p: p.step(NEXT, signature=b"")),
    "zeros for a signature": (
        BadSignature,
        "signature",
        lambda p: p.step(NEXT, signature=bytes(64)),
    ),
    "somebody else's signature": (
        BadSignature,
        "signature",
        lambda p: p.signed(p.step(NEXT), Identity.new()),
    ),
    "a signature of other states": (
        BadSignature,
        "signature",
        lambda p: replace(p.step(NEXT), states=wire(states_of([5]))),
    ),
    "a signature of another step": (
        BadSignature,
        "signature",
        lambda p: replace(p.step(NEXT), signature=p.signed(p.step(NEXT)).signature, step_id=2),
    ),
    "a signature of another id": (
        BadSignature,
        "signature",
        lambda p: replace(p.step(NEXT), rows=(replace(NEXT[0], id=5),)),
    ),
    "a signature of another position": (
        BadSignature,
        "signature",
        lambda p: replace(p.step(NEXT), rows=(replace(NEXT[0], position=4),)),
    ),
    "a signature of another kind": (
        BadSignature,
        "signature",
        lambda p: replace(p.step(NEXT), rows=(replace(NEXT[0], kind=PROMPT),)),
    ),
    "a later epoch": (OutOfOrder, "step.epoch", lambda p: resigned(p, epoch=1)),
    "a step again": (OutOfOrder, "step.step_id", lambda p: numbered(p, 1)),
    "a step left out": (OutOfOrder, "step.step_id", lambda p: numbered(p, 3)),
    "step zero": (OutOfOrder, "step.step_id", lambda p: numbered(p, 0)),
    "an id again": (OutOfOrder, "id", lambda p: p.step([Row(3, 2, 2, GENERATED)])),
    "a smaller id": (OutOfOrder, "id", lambda p: p.step([Row(6, 3, 3, 2), Row(5, 3, 3, 2)])),
    "an id twice": (OutOfOrder, "id", lambda p: p.step([Row(4, 3, 3, 2)] * 2)),
    "a parent never seen": (UnknownRow, "parent", lambda p: p.step([Row(9, 8, 3, 2)])),
    "a position too far": (OutOfOrder, "position", lambda p: p.step([Row(4, 3, 4, 2)])),
    "the parent's position": (OutOfOrder, "position", lambda p: p.step([Row(4, 3, 2, 2)])),
    "a root not at the start": (OutOfOrder, "position", lambda p: p.step([Row(4, 0, 3, 2)])),
    "the largest position": (OutOfOrder, "position", lambda p: p.step([Row(4, 3, 2**32 - 1, 2)])),
    "a NaN": (NonFinite, "states", lambda p: resigned(p, states=with_value(np.nan))),
    "an infinity": (NonFinite, "states", lambda p: resigned(p, states=with_value(-np.inf))),
    "states too short": (BadShape, "states", lambda p: resigned(p, states=with_value(0)[:-1])),
    "states too long": (BadShape, "states", lambda p: resigned(p, states=with_value(0) + b"\0")),
    "a row too many": (BadShape, "states", lambda p: resigned(p, states=with_value(0) * 2)),
    "no states": (BadShape, "states", lambda p: resigned(p, states=b"")),
    "states without rows": (BadShape, "states", lambda p: resigned(p, rows=())),
    "states in another type": (
        BadShape,
        "states",
        lambda p: resigned(p, states=pack(states_of([4]), Residual.FP16)),
    ),
    "states of a dead row": (BadShape, "states", lambda p: resigned(p, dead=(4,))),
    "a dead row of another step": (Malformed, "step.dead", lambda p: p.step(NEXT, dead=(2,))),
    "a commit of a row never seen": (UnknownRow, "commit", lambda p: p.step(NEXT, commit=(9,))),
    "a commit of a row that comes with it": (
        UnknownRow,
        "commit",
        lambda p: p.step(NEXT, commit=(1, 2, 3, 4)),
    ),
    "a commit with a gap": (OutOfOrder, "commit", lambda p: p.step(NEXT, commit=(1, 3))),
    "a commit that starts late": (OutOfOrder, "commit", lambda p: p.step(NEXT, commit=(2,))),
    "a drop of a row never seen": (UnknownRow, "step.drop", lambda p: p.step(NEXT, drop=(9,))),
    "a drop of a row that comes with it": (
        UnknownRow,
        "step.drop",
        lambda p: p.step(NEXT, drop=(4,)),
    ),
    "a drop of the root": (UnknownRow, "drop", lambda p: p.step(NEXT, drop=(0,))),
    "a child of a dropped row's place": (
        UnknownRow,
        "commit",
        lambda p: p.step([Row(4, 2, 2, 2)], drop=(3,), commit=(1, 2, 3, 4)),
    ),
    "more rows than it asked for": (OutOfSlots, "rows", lambda p: p.step(chain(4, 62, 3))),
    "stages without end": (
        TooLarge,
        "step.times",
        lambda p: p.step(NEXT, times=(HopTime(0, 0),) * LIMITS.hops),
    ),
}


OPENS: dict[str, tuple[type[HearthringError], str, dict[str, Any]]] = {
    "no rows": (BadShape, "open.max_rows", {"max_rows": 0}),
    "more rows than there are": (QuotaExceeded, "open.max_rows", {"max_rows": 10_000}),
    "rows without end": (QuotaExceeded, "open.max_rows", {"max_rows": 2**32 - 1}),
    "another model": (LayersOutOfRange, "open.model_id", {"model_id": "ba" * 32}),
    "a model that is none": (BadShape, "open.model_id", {"model_id": "ab" * 31 + "zz"}),
    "a model in capitals": (BadShape, "open.model_id", {"model_id": "AB" * 32}),
    "layers before": (LayersOutOfRange, "open.start", {"start": 0}),
    "layers beyond": (LayersOutOfRange, "open.start", {"end": 4}),
    "no layers": (LayersOutOfRange, "open.start", {"start": 2, "end": 2}),
    "layers backwards": (LayersOutOfRange, "open.start", {"start": 2, "end": 1}),
    "another residual type": (WrongClass, "open.residual", {"residual": "fp16"}),
    "a residual type that is none": (WrongClass, "open.residual", {"residual": "int4"}),
    "another class": (WrongClass, "open.fingerprint", {"fingerprint": "ef" * 32}),
    "a class that is none": (BadShape, "open.fingerprint", {"fingerprint": ""}),
    "a sender's class that is none": (
        BadShape,
        "open.previous_fingerprint",
        {"previous_fingerprint": "xy"},
    ),
    "a sender that is nobody": (Malformed, "node id", {"previous": "me"}),
    "a next stage that is nobody": (Malformed, "node id", {"next": ""}),
    "a tap before the window": (LayersOutOfRange, "open.taps", {"taps": (1,)}),
    "a tap after the window": (LayersOutOfRange, "open.taps", {"taps": (2, 4)}),
    "no address for the next stage": (
        BadInvitation,
        "open.next_address",
        {"next": Identity.new().node_id},
    ),
}
