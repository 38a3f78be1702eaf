"""Auditing a whole proof by cells: each stage opens what the proof's beacon draws.

It costs a small part of a replay, and catches whoever computed something cheaper. A single altered
row it may miss, and tokens it doesn't look at: both are for a replay.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from hearthring.client.calibrations import calibration_of
from hearthring.client.cells import audit_cells
from hearthring.protocol.errors import EngineUnavailable, HearthringError
from hearthring.protocol.limits import LIMITS
from hearthring.protocol.opening import answers_status
from hearthring.protocol.records import NodeRecord
from hearthring.protocol.row_type import RowType
from hearthring.protocol.tensors import Residual
from hearthring.protocol.transport import Transport
from hearthring.shards.cell_runner import EngineCells
from hearthring.shards.engine import Window
from hearthring.shards.engines import load_engine, options_of
from hearthring.shards.gguf_file import GgufFile
from hearthring.verify.beacon import beacon
from hearthring.verify.consistency import bodies_of, contradiction
from hearthring.verify.proof import Proof
from hearthring.verify.receipts import ReceiptBody
from hearthring.verify.verdict import Outcome, Strength, Verdict, inconclusive

Progress = Callable[[str, int, int], None]


async def audit_by_cells(
    transport: Transport,
    records: Sequence[NodeRecord],
    proof: Proof,
    gguf: GgufFile,
    threads: int,
    progress: Progress = lambda *_: None,
) -> Verdict:
    """The verdict over all stages of an own proof; ``figures["stages"]`` has each one's.

    Stages open their cells to their client alone. One that is alive and doesn't, within the audit
    window, makes the verdict inconclusive, and is named in ``figures["withheld"]``. Never raises
    for what peers do; ``BadModelFile`` when this machine's thresholds are damaged.
    """
    if verdict := contradiction(proof, gguf.shape.layers):
        return verdict
    if proof.client != transport.identity.node_id:
        return inconclusive("stages open their cells to their own client only")
    addresses = {record.node: record.addresses[0] for record in records if record.addresses}
    chance, verdicts, withheld = beacon(proof), list[Verdict](), list[str]()
    known = await asyncio.to_thread(calibration_of, proof.model_id)
    for place, body in enumerate(bodies_of(proof)):
        assert body is not None  # contradiction() says so otherwise
        progress("checking cells", place, len(proof.stages))
        address = addresses.get(body.node, "")
        try:
            own = await asyncio.to_thread(_cells_like, body, proof, gguf, threads)
        except HearthringError as error:  # this machine's own trouble is no fault of the stage
            verdicts.append(inconclusive(f"its layers can't be run here: {error}"))
            continue
        about = transport, address, body, proof.kinds, gguf.shape, chance, own
        try:
            verdicts.append(await audit_cells(*about, calibration=known))
        except HearthringError as error:
            reason = f"{body.node} didn't open its cells: {type(error).__name__}: {error}"
            if time.time() * 1000 > proof.created_ms + LIMITS.audit_window * 1000:
                reason = f"the audit window is over; {reason}"
            elif address and await answers_status(transport, address, body.node):
                withheld.append(body.node)
            verdicts.append(inconclusive(reason))
    progress("checking cells", len(verdicts), len(verdicts))
    return _together(proof, verdicts, withheld)


def load_cells(
    gguf: GgufFile, numerics: str, residual: Residual, window: Window, threads: int
) -> EngineCells:
    """Layers of a window with the engine of this class's name where this machine has it, so that
    bits can be compared; else with torch."""
    values = gguf.shape.kv_heads * gguf.shape.head_width
    if numerics.startswith("ggml-"):
        with contextlib.suppress(EngineUnavailable):
            options = options_of(numerics)
            engine = load_engine("ggml", gguf, window, residual, threads, options=options)
            return EngineCells(engine, values)
    return EngineCells(load_engine("torch", gguf, window, residual, threads), values)


def _cells_like(body: ReceiptBody, proof: Proof, gguf: GgufFile, threads: int) -> EngineCells:
    residual = RowType.parse(proof.residual).residual
    return load_cells(gguf, body.numerics, residual, (body.start, body.end), threads)


def _together(proof: Proof, verdicts: Sequence[Verdict], withheld: list[str]) -> Verdict:
    """One verdict of those over the stages: that which rejects, else that which can't say."""
    stages = [
        {"node": stage.node, "start": stage.start, "end": stage.end, "verdict": v.outcome.value}
        | dict(v.figures)
        for stage, v in zip(proof.stages, verdicts, strict=True)
    ]
    figures = {"cell_stages": stages} | ({"withheld": withheld} if withheld else {})
    rejecting = [v for v in verdicts if v.outcome is Outcome.REJECTED]
    open_ = [v for v in verdicts if v.outcome is Outcome.INCONCLUSIVE]
    if rejecting:
        guilty = tuple(g for v in rejecting for g in v.guilty)
        return replace(rejecting[0], guilty=guilty, figures=figures)
    if open_:
        return replace(open_[0], figures=figures)
    weakest = Strength.BITS
    if any(v.strength is not Strength.BITS for v in verdicts):
        weakest = Strength.TOLERANCE
    cells = sum(v.figures["cells"] for v in verdicts)
    reason = (
        f"all {cells} cells that the beacon drew are what the model gives; no token was replayed"
    )
    return Verdict(Outcome.ACCEPTED, reason, (), weakest, figures)
