"""Every field of a proof altered by the client that may sign it: rejected, and the reason is said.

The reader meets bytes that are signed and still not what they should be; what it reads, the audit
judges. Nothing but a named error or a verdict may come of it.
"""

import asyncio
import math
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hearthring.client.replay import EngineReplayer
from hearthring.proto import proof_pb2
from hearthring.protocol.errors import BadProof
from hearthring.protocol.identity import Identity
from hearthring.protocol.tensors import Residual
from hearthring.shards.store import ModelEntry, ModelStore
from hearthring.verify.audit import audit
from hearthring.verify.consistency import contradiction
from hearthring.verify.hiding import pack_ids
from hearthring.verify.proof import Proof, read
from hearthring.verify.verdict import Outcome
from tests.memory_ring import memory_swarm
from tests.tiny import write_tiny_gguf

LAYERS, HEAD, SIGNATURE = 4, 22, 64
DESCRIPTIVE = {"model_name", "created_ms", "numerics"}
"""Words about the answer that nothing follows from: whoever signs them is believed."""
SAMPLING: dict[str, Any] = {
    "temperature": 100.0,
    "top_k": 1,
    "top_p": 0.001,
    "min_p": 1.0,
    "repetition_penalty": 50.0,
    "seed": 5,
}
"""Other sampling, so far off that it can't have chosen these tokens."""


@dataclass(frozen=True)
class Bench:
    """Two proofs of one client, its key, and weights to replay them with."""

    proofs: tuple[Proof, Proof]
    who: Identity
    replayer: EngineReplayer

    def body(self, number: int = 0) -> proof_pb2.ProofBody:
        data = self.proofs[number].file
        (length,) = struct.unpack(">I", data[HEAD - 4 : HEAD])
        return proof_pb2.ProofBody.FromString(data[HEAD : HEAD + length])

    def signed(self, body: bytes, ids: bytes | None = None) -> bytes:
        data = b"hearthring proof\n\x02" + struct.pack(">I", len(body)) + body
        ids = pack_ids(self.proofs[0].token_ids) if ids is None else ids
        return data + self.who.sign(b"hearthring/proof/2" + data) + ids

    def reason(self, data: bytes) -> str:
        """Why it isn't accepted; empty if it is."""
        try:
            proof = read(data)
        except BadProof as error:
            return str(error)
        verdict = contradiction(proof, LAYERS) or audit(proof, LAYERS, self.replayer)
        return "" if verdict.outcome is Outcome.ACCEPTED else verdict.reason


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    folder = tmp_path_factory.mktemp("fuzz")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HEARTHRING_MODELS", str(folder / "models"))
        patch.setenv("XDG_DATA_HOME", str(folder / "data"))
        entry = ModelStore().find(str(write_tiny_gguf(folder / "tiny.gguf")))
        proofs, who = asyncio.run(_proofs(entry))
        yield Bench(proofs, who, EngineReplayer(entry.open(), Residual.FP32, 1))


async def _proofs(entry: ModelEntry) -> tuple[tuple[Proof, Proof], Identity]:
    async with memory_swarm(entry, (0, 1, LAYERS)) as swarm:
        await swarm.node((0, LAYERS), row_seconds=1.0)
        client = swarm.client()
        sampling = {"temperature": 1.0, "top_k": 200, "top_p": 0.99, "seed": 4}
        options: Any = {"max_tokens": 8} | sampling
        one = await client.generate(prompt_ids=list(range(10, 50)), **options)
        two = await client.generate(prompt_ids=list(range(60, 100)), **options)
        return (one.proof, two.proof), client.transport().identity


# -- every field ---------------------------------------------------------------------------------

Change = Callable[[Any], Any]


def changes(field: FieldDescriptor) -> list[Change]:
    """Ways to alter a value of a field's type."""
    if field.name in SAMPLING:
        return [lambda _: SAMPLING[field.name]]
    match field.cpp_type:
        case FieldDescriptor.CPPTYPE_STRING if field.type == FieldDescriptor.TYPE_BYTES:
            return [
                lambda v: bytes([v[0] ^ 1]) + v[1:] if v else b"\x01",
                lambda v: v[:-1],
                lambda v: v + b"\0",
                lambda _: b"",
            ]
        case FieldDescriptor.CPPTYPE_STRING:
            return [lambda v: v + "x", lambda v: v[::-1], lambda _: ""]
        case FieldDescriptor.CPPTYPE_DOUBLE:
            return [lambda v: v + 1.0, lambda _: math.nan]
        case _:
            return [lambda v: v + 1, lambda v: max(0, v - 1), lambda _: 0]


def altered(message: Message, path: str = "") -> Iterator[tuple[str, Callable[[], None]]]:
    """Every field of a message, and of those in it, with ways to alter it in place."""
    for field in message.DESCRIPTOR.fields:
        name, value = f"{path}{field.name}", getattr(message, field.name)
        if field.is_repeated:
            yield f"{name} without the last", lambda v=value: v and v.pop()
            yield f"{name} with one twice", lambda v=value: v and v.append(v[0])
            yield f"{name} in reverse", lambda v=value: v.reverse()
            yield f"{name} gone", lambda m=message, f=field: m.ClearField(f.name)
        if field.message_type is not None:
            for n, item in enumerate(value if field.is_repeated else [value]):
                yield from altered(item, f"{name}[{n}]." if field.is_repeated else f"{name}.")
            continue
        for number, change in enumerate(changes(field)):

            def alter(m: Any = message, f: FieldDescriptor = field, c: Change = change) -> None:
                if f.is_repeated:
                    values = getattr(m, f.name)
                    if values:
                        values[len(values) // 2] = c(values[len(values) // 2])
                else:
                    setattr(m, f.name, c(getattr(m, f.name)))

            yield f"{name} altered ({number})", alter


def test_every_altered_field_is_rejected_with_a_reason(bench: Bench) -> None:
    honest = bench.body().SerializeToString(deterministic=True)
    assert bench.reason(bench.signed(honest)) == ""
    names = [name for name, _ in altered(bench.body())]
    tried, passed = 0, []
    for number, name in enumerate(names):
        body = bench.body()
        _, alter = list(altered(body))[number]
        try:
            alter()
            data = body.SerializeToString(deterministic=True)
        except (ValueError, UnicodeError):
            continue  # protobuf itself doesn't take it
        if data == honest or name.split(" ")[0] in DESCRIPTIVE:
            continue
        tried += 1
        if not bench.reason(bench.signed(data)):
            passed.append(name)
    assert passed == []
    assert tried > 100


def test_every_field_of_another_proof_is_rejected_with_a_reason(bench: Bench) -> None:
    honest, tried, passed = bench.body().SerializeToString(deterministic=True), 0, []
    for field in bench.body().DESCRIPTOR.fields:
        body, other = bench.body(), bench.body(1)
        body.ClearField(field.name)
        part = proof_pb2.ProofBody()
        part.CopyFrom(other)
        for name in (f.name for f in other.DESCRIPTOR.fields if f.name != field.name):
            part.ClearField(name)
        body.MergeFrom(part)
        data = body.SerializeToString(deterministic=True)
        if data == honest or field.name in DESCRIPTIVE:
            continue
        tried += 1
        if not bench.reason(bench.signed(data)):
            passed.append(field.name)
    assert passed == []
    assert tried > 5
    ids = pack_ids(bench.proofs[1].token_ids)
    assert "hash" in bench.reason(bench.signed(honest, ids))


def test_a_receipt_of_another_stage_or_session_is_rejected(bench: Bench) -> None:
    """Receipts in each other's place, or those of an earlier session, prove nothing."""
    body, other = bench.body(), bench.body(1)
    for place, stage in enumerate(other.stages):
        body = bench.body()
        body.stages[place].CopyFrom(stage)
        assert "another session" in bench.reason(bench.signed(body.SerializeToString()))
    body = bench.body()
    one, two = body.stages
    one.receipt, two.receipt = two.receipt, one.receipt
    one.signature, two.signature = two.signature, one.signature
    assert "another node" in bench.reason(bench.signed(body.SerializeToString()))


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_signed_rubbish_never_breaks_the_reader(bench: Bench, data: st.DataObject) -> None:
    """Bytes of the body altered, cut or added, and signed again by the client."""
    body = bytearray(bench.body().SerializeToString(deterministic=True))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(body) - 1))
        match data.draw(st.sampled_from(["flip", "cut", "add", "double"])):
            case "flip":
                body[at] ^= data.draw(st.integers(1, 255))
            case "cut":
                del body[at : at + data.draw(st.integers(1, 40))]
            case "add":
                body[at:at] = data.draw(st.binary(max_size=20))
            case _:
                body[at:at] = body[at : at + 60]
        if not body:
            break
    try:
        proof = read(bench.signed(bytes(body)))
    except BadProof:
        return
    verdict = contradiction(proof, LAYERS)
    assert verdict is None or verdict.reason
