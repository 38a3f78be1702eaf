"""Answers with proofs, without a network: outputs of three stages, signed as a ring signs them.

Whoever wants a dishonest answer hands in other outputs than honest ones, so that a bench runs a
thousand of them over the same few forward passes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from hearthring.client.sampler import Sampling, choose
from hearthring.protocol.identity import Identity
from hearthring.protocol.messages import GENERATED, PROMPT, Evidence, SignedRows
from hearthring.protocol.row_type import RowType
from hearthring.protocol.tensors import F32, bf16_bits
from hearthring.shards.ends import Ends
from hearthring.shards.engine import Engine, EngineRow, Kind, KvCache, Segment
from hearthring.verify import receipts
from hearthring.verify.beacon import commitment
from hearthring.verify.claims import claim
from hearthring.verify.digest import digests
from hearthring.verify.proof import Proof, ProofSampling, StageProof, sign
from hearthring.verify.receipts import ReceiptBody
from hearthring.verify.rowhash import CHUNK, chunk_roots, row_hashes

NONCE = bytes(32)
CLIENT, STAGES = Identity.new(), tuple(Identity.new() for _ in range(3))
GENERATED_ROWS = 16
TEMPERATURE = 0.8


@dataclass(frozen=True, slots=True)
class Asked:
    """Token ids of a prompt and its answer; the last has no row."""

    ids: tuple[int, ...]
    prompt: int
    seed: int

    @property
    def rows(self) -> int:
        """Rows that went round."""
        return len(self.ids) - 1

    @property
    def kinds(self) -> tuple[int, ...]:
        """Kind of each row, as on the wire."""
        return (PROMPT,) * self.prompt + (GENERATED,) * (self.rows - self.prompt)

    @property
    def sampling(self) -> Sampling:
        """How its tokens were chosen."""
        return Sampling(temperature=TEMPERATURE, seed=self.seed)


def rows_of(kinds: Sequence[int], start: int = 0) -> tuple[EngineRow, ...]:
    """Rows of a chain, from position ``start`` on."""
    slots = np.arange(len(kinds), dtype=np.int64)
    return tuple(EngineRow(Kind(kinds[p]), p, p, slots[: p + 1]) for p in range(start, len(kinds)))


def run(engine: Engine, kinds: Sequence[int], states: F32, taps: bool = False) -> dict[int, F32]:
    """The residual after the engine's last layer, and with ``taps`` after each."""
    segment = Segment(engine.new_cache(len(states)), rows_of(kinds))
    wanted = frozenset(range(engine.start + 1, engine.end + 1)) if taps else frozenset()
    out, tapped = engine.forward((segment,), states, wanted)
    return tapped | {engine.end: out}


def ask(
    engine: Engine, ends: Ends, prompts: Sequence[Sequence[int]], seeds: Sequence[int]
) -> list[Asked]:
    """Answer prompts with the whole model; all take a step together."""
    ids = [list(prompt) for prompt in prompts]
    caches: list[KvCache] = [engine.new_cache(len(p) + GENERATED_ROWS) for p in prompts]
    tips: list[F32] = []
    for prompt, cache in zip(prompts, caches, strict=True):
        rows = rows_of((PROMPT,) * len(prompt))
        tips.append(engine.forward((Segment(cache, rows),), ends.embed(prompt))[0][-1])
    for step in range(GENERATED_ROWS):
        logits = ends.logits(ends.norm(np.stack(tips)))
        for one, row, seed in zip(ids, logits, seeds, strict=True):
            said = Sampling(temperature=TEMPERATURE, seed=seed)
            one.append(choose(row, one, len(one), said))
        if step + 1 == GENERATED_ROWS:
            break
        segments = []
        for one, cache in zip(ids, caches, strict=True):
            slots = np.arange(len(one), dtype=np.int64)
            at = len(one) - 1
            segments.append(Segment(cache, (EngineRow(Kind.GENERATED, at, at, slots),)))
        tips = list(engine.forward(tuple(segments), ends.embed([one[-1] for one in ids]))[0])
    return [
        Asked(tuple(one), len(prompt), seed)
        for one, prompt, seed in zip(ids, prompts, seeds, strict=True)
    ]


@dataclass(frozen=True, slots=True)
class Forge:
    """Signs proofs for one model and route."""

    model_id: str
    cuts: tuple[int, ...]
    rows: RowType
    engine: tuple[str, str]
    """Name and fingerprint of the stages' class."""
    ends: Ends

    def hashes(self, asked: Asked, states: F32, fingerprint: str, boundary: int) -> Sequence[bytes]:
        """Hashes of rows as they are on the wire."""
        wire, rows = self.rows.pack(states), asked.rows
        model, kind = bytes.fromhex(self.model_id), bytes.fromhex(fingerprint)
        return row_hashes(model, kind, boundary, asked.kinds, range(rows), wire, rows)

    def arrived(self, states: F32) -> F32:
        """States as whoever is sent them has them."""
        return self.rows.unpack(self.rows.pack(states), *states.shape)

    def evidence(self, session: bytes, place: int, hashes: Sequence[bytes]) -> Evidence:
        """What a stage signed on the way, all rows in one step."""
        ids = tuple(range(1, len(hashes) + 1))
        signed = claim(session, 0, 1, self.cuts[place + 1], ids, hashes)
        return Evidence((SignedRows(0, 1, ids, tuple(hashes), STAGES[place].sign(signed)),))

    def proof(
        self,
        asked: Asked,
        outputs: Sequence[F32],
        said_ids: tuple[int, ...] | None = None,
        session: bytes = bytes(16),
        stale: dict[int, bytes] | None = None,
        claimed: dict[int, F32] | None = None,
        prints: dict[int, str] | None = None,
    ) -> Proof:
        """The proof of an answer whose stages sent ``outputs``.

        ``said_ids``: other ids than the stages ran. By place: ``stale``, a receipt of another
        session; ``claimed``, a receipt of other outputs than were sent, which the receiver shows;
        ``prints``, a fingerprint of its own.
        """
        sent = [self.ends.embed(asked.ids[: asked.rows]), *outputs]
        kinds = [self.ends.numerics.fingerprint, *[self.engine[1]] * 3]
        for place, other in (prints or {}).items():
            kinds[place + 1] = other
        hashes = [
            self.hashes(asked, states, kind, boundary)
            for states, kind, boundary in zip(sent, kinds, self.cuts, strict=True)
        ]
        roots = [_roots(some) for some in hashes]
        claims, shown = list(roots), dict[int, Evidence]()
        says = list(outputs)
        for place, states in (claimed or {}).items():
            kind, boundary = kinds[place + 1], self.cuts[place + 1]
            claims[place + 1] = _roots(self.hashes(asked, states, kind, boundary))
            says[place] = states
            shown[place + 1] = self.evidence(session, place, hashes[place + 1])
        stages = []
        for place, (start, end) in enumerate(pairwise(self.cuts)):
            its = (stale or {}).get(place, session)
            ends = roots[place], claims[place + 1]
            body = self._body(asked.rows, place, its, kinds, ends, says[place])
            receipt = receipts.sign(body, STAGES[place])
            stages.append(StageProof(body.node, start, end, receipt, shown.get(place)))
        said = asked.sampling
        return sign(
            Proof(
                client=CLIENT.node_id,
                session=session,
                nonce=NONCE,
                model_id=self.model_id,
                model_name="",
                residual=str(self.rows),
                numerics=self.ends.numerics.name,
                fingerprint=self.ends.numerics.fingerprint,
                token_ids=said_ids or asked.ids,
                prompt_tokens=asked.prompt,
                sampling=ProofSampling(temperature=said.temperature, seed=asked.seed),
                stages=tuple(stages),
                in_roots=roots[0],
                out_roots=roots[-1],
                digests=tuple(digests(chunks(self.ends.norm(self.arrived(outputs[-1]))))),
                row_ids=tuple(range(1, asked.rows + 1)),
                received=shown.get(3),
            ),
            CLIENT,
        )

    def _body(
        self,
        rows: int,
        place: int,
        session: bytes,
        kinds: Sequence[str],
        ends: tuple[tuple[bytes, ...], tuple[bytes, ...]],
        states: F32,
    ) -> ReceiptBody:
        """What a stage signs of ``states``: ``kinds`` and ``ends`` are fingerprints and roots."""
        names = [CLIENT.node_id, *(one.node_id for one in STAGES), CLIENT.node_id]
        return ReceiptBody(
            node=names[place + 1],
            client=CLIENT.node_id,
            session=session,
            epoch=0,
            nonce_hash=commitment(NONCE, ()),
            model_id=self.model_id,
            start=self.cuts[place],
            end=self.cuts[place + 1],
            residual=str(self.rows),
            numerics=self.engine[0],
            fingerprint=kinds[place + 1],
            previous=names[place],
            previous_fingerprint=kinds[place],
            next=names[place + 2],
            rows=rows,
            in_roots=ends[0],
            out_roots=ends[1],
            digests=tuple(digests(chunks(self.arrived(states)))),
        )


def _roots(hashes: Sequence[bytes]) -> tuple[bytes, ...]:
    return tuple(chunk_roots(range(len(hashes)), hashes))


def chunks(states: F32) -> list[np.ndarray]:
    """bf16 patterns of 32 rows each."""
    return [bf16_bits(states[at : at + CHUNK]) for at in range(0, len(states), CHUNK)]
