"""Honest answers under the same audits: how many checks, and whom do they accuse?

A check is a chunk at a boundary. Within a class the rows of an answer are computed again in other
steps, trees, chunks and threads: a bit that differs would be an accusation. Between classes every
boundary's digests are judged as if a stage ended there, and every stage by its recorded input.
"""

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np

from bench.answers import Asked, chunks, rows_of, run
from bench.cases import KV8, LOW, Bench
from bench.replays import Replays
from hearthring.protocol.row_type import RowType
from hearthring.protocol.tensors import F32
from hearthring.shards.engine import Engine, EngineRow, Kind, Segment
from hearthring.shards.engines import EngineOptions, load_engine
from hearthring.verify.audit import audit, exceeds
from hearthring.verify.digest import compare_all, digests
from hearthring.verify.rowhash import CHUNK
from hearthring.verify.stage_audit import Opened, audit_stage
from hearthring.verify.verdict import Outcome

FAST = EngineOptions(prompt="fast", prompt_memory=None)
STEPS = ((1, 0, 1), (5, 0, 2), (8, 0, 1), (3, 2, 1), (6, 2, 2))
"""Generated rows per step, wrong guesses beside them, threads."""


class Honest:
    """Engines for honest variants, and what the audits of a bench say of them."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        whole = (0, bench.cuts[-1])
        self.engines = {
            threads: load_engine("ggml", bench.gguf, whole, bench.residual, threads, options=LOW)
            for threads in (1, 2)
        }
        self.routes = {
            "low": (bench.route, bench.other),
            "fast": (bench.replays("ggml", FAST), bench.other),
            "kv": (bench.replays("ggml", KV8), bench.other),
            "torch": (bench.other, bench.route),
        }

    def in_class(self, asked: Asked) -> dict[str, int]:
        """Rows in other steps than the plain pass: checks, and how many differ."""
        states = self.bench.ends.embed(asked.ids[: asked.rows])
        plain = run(self.engines[1], asked.kinds, states, taps=True)
        checks = wrong = 0
        for rows, decoys, threads in STEPS:
            found = stepwise(self.engines[threads], asked, states, rows, decoys)
            for boundary, true in plain.items():
                for at in range(0, asked.rows, CHUNK):
                    part = slice(at, at + CHUNK)
                    checks += 1
                    wrong += not np.array_equal(true[part], found[boundary][part])
        return {"checks": checks, "accused": wrong}

    def between_classes(self, asked: Asked) -> dict[str, int]:
        """Routes of every policy, each judged in another class."""
        count = dict.fromkeys(("checks", "accused", "tokens", "different"), 0)
        for route, auditor in self.routes.values():
            for key, value in self._judge(asked, route, auditor).items():
                count[key] += value
        for route, _ in self.routes.values():
            route.kept.clear()
        return count

    def lossy(self, asked: Asked) -> dict[str, Any]:
        """A route that sends its rows as int8, each stage judged in its class and in another."""
        bench = self.bench
        forge = replace(bench.forge, rows=RowType(bench.residual, int8=True))
        sent = [bench.ends.embed(asked.ids[: asked.rows])]
        for window in bench.windows:
            sent.append(bench.route.run(*window, forge.arrived(sent[-1]), asked.kinds))
        proof = forge.proof(asked, sent[1:])
        wires = [Opened(forge.rows.pack(states)) for states in sent]
        verdicts = [
            audit_stage(proof, place, sent[0].shape[1], auditor, *wires[place : place + 2])
            for auditor in (bench.route, bench.other)
            for place in range(len(bench.windows))
        ]
        said = Counter(one.outcome for one in verdicts[: len(bench.windows)])
        chunk = -(-asked.rows // CHUNK)
        return {
            "checks": len(bench.windows) * chunk,
            "accused": chunk * (len(bench.windows) - said[Outcome.ACCEPTED]),
            "elsewhere": [one.outcome.value for one in verdicts[len(bench.windows) :]],
        }

    def _judge(self, asked: Asked, route: Replays, auditor: Replays) -> dict[str, int]:
        bench, states = self.bench, self.bench.ends.embed(asked.ids[: asked.rows])
        theirs, mine = (
            one.boundaries(bench.windows, states, asked.kinds) for one in (route, auditor)
        )
        outputs = [theirs[end] for _, end in bench.windows]
        proof = bench.forge_of(route).proof(asked, outputs)
        whole = audit(proof, bench.cuts[-1], auditor, calibration=bench.calibration)
        stages = [
            bench.from_record(asked, outputs, place, proof, auditor)
            for place in range(len(bench.windows))
        ]
        checks = len(stages) * -(-asked.rows // CHUNK)
        accused = sum(verdict.outcome is not Outcome.ACCEPTED for verdict in (whole, *stages))
        limits = bench.calibration.tolerance([route.engine(*bench.windows[0]).numerics.name])
        for boundary, after in theirs.items():
            found = compare_all(digests(chunks(after)), chunks(mine[boundary]))
            checks += len(found.chunks)
            accused += exceeds(found, limits.digest_at(boundary), limits.chunk_exp)
        return {
            "checks": checks,
            "accused": accused,
            "tokens": whole.figures.get("tokens_checked", 0),
            "different": whole.figures.get("tokens_different", 0),
        }


def stepwise(engine: Engine, asked: Asked, states: F32, rows: int, decoys: int) -> dict[int, F32]:
    """The answer in steps of ``rows`` generated rows, the prompt in chunks, with wrong guesses."""
    kinds, count = asked.kinds, len(states)
    cache = engine.new_cache(count + decoys)
    chain = rows_of(kinds)
    taps = frozenset(range(engine.start + 1, engine.end + 1))
    pieces: list[dict[int, F32]] = []
    at = 0
    while at < count:
        size = 7 * rows if at < asked.prompt else rows
        end = min(at + size, asked.prompt if at < asked.prompt else count)
        batch, inputs = list(chain[at:end]), list(states[at:end])
        if at >= asked.prompt:
            for decoy in range(decoys):
                slot = count + decoy
                path = np.append(chain[at].path[:-1], slot)
                batch.append(EngineRow(Kind.GENERATED, at, slot, path))
                inputs.append(states[(at + decoy + 3) % count])
        segment = Segment(cache, tuple(batch))
        _, tapped = engine.forward((segment,), np.stack(inputs), taps)
        pieces.append({boundary: found[: end - at] for boundary, found in tapped.items()})
        at = end
    return {b: np.concatenate([piece[b] for piece in pieces]) for b in sorted(taps)}
