"""What do audits catch, what do they let pass, and whom do they accuse wrongly?

A model answers prompts that it wrote itself, as a ring of three stages would; the middle one cheats
in each of the listed ways (where it says "first": the first one), the stage after it computes
honestly on what it was sent. Every proof goes through the audits that users run:

bits      replay in the route's class: caught, and the guilty stage named
digest    replay from the prompt in another class (torch in fp32), by digests and token scores
channels  replay of the recorded input in another class, all channels compared

Thresholds of the last two are those of `hearthring calibrate`. Honest answers go through the same,
in steps of 1, 5 and 8 rows, trees, chunks and threads (a check is a chunk at a boundary), and by
routes of every kernel policy. Results are kept by text, so that a run can be broken off and gone on
with, and several can share the work.

Run: python bench/detection.py [--model smollm2] [--residual bf16] [--first 0 --last 100]
     [--results FILE.jsonl] [--short] [--report]
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from answers import GENERATED_ROWS, STAGES, Asked, Forge, ask, rows_of, run
from cheats import OUTPUTS, Cheat, by_engine, cut_context, edited, hooks, of_output, stale_kv

from hearthring.client.calibrations import calibration_of
from hearthring.client.sampler import lead
from hearthring.client.texts import write_texts
from hearthring.protocol.tensors import F32, Residual, pack
from hearthring.shards.ends import Ends, open_ends
from hearthring.shards.engine import Engine, EngineRow, Kind, Segment
from hearthring.shards.engines import EngineOptions, load_engine
from hearthring.shards.gguf_file import GgufFile
from hearthring.shards.store import ModelStore
from hearthring.verify.audit import audit
from hearthring.verify.proof import Proof
from hearthring.verify.rowhash import CHUNK
from hearthring.verify.stage_audit import Opened, audit_stage
from hearthring.verify.verdict import Outcome, Verdict

LOW, FAST = EngineOptions(prompt="low"), EngineOptions(prompt="fast", prompt_memory=None)
ALL = 1 << 20
KV8 = EngineOptions(prompt="low", kv="q8_0")


@dataclass
class Replays:
    """``verify.audit.Replayer`` that remembers: honest rows are replayed once for all cases."""

    gguf: GgufFile
    residual: Residual
    name: str
    options: EngineOptions
    ends: Ends
    engines: dict[tuple[int, int], Engine] = field(default_factory=dict)
    kept: dict[Any, Any] = field(default_factory=dict)

    def engine(self, start: int, end: int) -> Engine:
        if (start, end) not in self.engines:
            self.engines[start, end] = load_engine(
                self.name, self.gguf, (start, end), self.residual, 1, options=self.options
            )
        return self.engines[start, end]

    @property
    def fingerprint(self) -> str:
        return self.engine(*next(iter(self.engines))).numerics.fingerprint

    @property
    def ends_fingerprint(self) -> str:
        return self.ends.numerics.fingerprint

    def embed(self, token_ids: Sequence[int]) -> F32:
        return self.ends.embed(token_ids)

    def norm(self, states: F32) -> F32:
        return self.ends.norm(states)

    def run(self, start: int, end: int, states: F32, kinds: Sequence[int]) -> F32:
        key = (start, end, sha256(states.tobytes()).digest(), tuple(kinds))
        if key not in self.kept:
            self.kept[key] = run(self.engine(start, end), kinds, states)[end]
        found: F32 = self.kept[key]
        return found

    def choose(self, proof: Proof, row: int, state: F32) -> tuple[int, float]:
        key = sha256(state.tobytes()).digest()
        if key not in self.kept:
            self.kept[key] = self.ends.logits(self.ends.norm(state[None])[0])
        said = Asked(proof.token_ids, proof.prompt_tokens, proof.sampling.seed).sampling
        history = proof.token_ids[: row + 1]
        return lead(self.kept[key], history, row + 1, said, proof.token_ids[row + 1])


class Bench:
    """Engines and thresholds for one model."""

    def __init__(self, name: str, residual: Residual) -> None:
        entry = ModelStore().find(name)
        self.gguf, self.residual, self.model_id = entry.open(), residual, entry.model_id
        layers = self.gguf.shape.layers
        self.cuts = (0, layers // 3, 2 * layers // 3, layers)
        self.windows = list(pairwise(self.cuts))
        self.ends = open_ends("torch", self.gguf, residual, 1)
        self.calibration = calibration_of(entry.model_id)
        self.route, self.other = self.replays("ggml", LOW), self.replays("torch", EngineOptions())
        self.forge = self.forge_of(self.route)
        self.cheats = self.middle()

    def replays(self, name: str, options: EngineOptions) -> Replays:
        """Engines of all windows in one class."""
        made = Replays(self.gguf, self.residual, name, options, self.ends)
        for window in self.windows:
            made.engine(*window)
        return made

    def forge_of(self, route: Replays) -> Forge:
        numerics = route.engine(*self.windows[0]).numerics
        said = numerics.name, numerics.fingerprint
        return Forge(self.model_id, self.cuts, self.residual, said, self.ends)

    def middle(self) -> dict[str, Cheat]:
        """The ways in which the middle stage cheats."""
        start, end = window = self.windows[1]
        honest = self.route.engine(start, end)
        made: dict[str, Cheat] = {}
        for name, hook in hooks(start).items():
            load = hook(self.gguf.dequantised)
            made[name] = by_engine(
                load_engine("ggml", self.gguf, window, self.residual, 1, load=load, options=LOW)
            )
        quantised = load_engine("ggml", self.gguf, window, self.residual, 1, options=KV8)
        made["8-bit keys and values"] = by_engine(quantised)
        made["another engine under the class's name"] = by_engine(self.other.engine(*window))
        made["context cut to 16 rows"] = cut_context(honest)
        made["stale keys and values"] = stale_kv(honest)
        return made | {name: of_output(change, self.residual) for name, change in OUTPUTS.items()}

    def prompts(self, first: int, last: int) -> list[Asked]:
        """Answered prompts; text i is the same in every run."""
        whole = load_engine("ggml", self.gguf, (0, self.cuts[-1]), self.residual, 1, options=LOW)
        found: list[Asked] = []
        for i in range(first, last):
            [text] = write_texts(self.gguf, whole, self.ends, 1, 10_000 + i)
            found += ask(whole, self.ends, [text.ids], [i])
        return found

    def honest(self, asked: Asked, route: Replays) -> list[F32]:
        """What each stage of an honest route sends."""
        outputs, states = [], self.ends.embed(asked.ids[: asked.rows])
        for window in self.windows:
            states = route.run(*window, states, asked.kinds)
            outputs.append(states)
        return outputs

    def judge(self, asked: Asked, outputs: list[F32], place: int, proof: Proof) -> dict[str, Any]:
        """All audits of one answer whose stage ``place`` cheated."""
        bits = audit(proof, self.cuts[-1], self.route)
        digest = audit(proof, self.cuts[-1], self.other, calibration=self.calibration)
        channels = self.from_record(asked, outputs, place, proof)
        guilty = [STAGES[place].node_id]
        figures = (digest.figures.get("stages") or [{}] * 3)[place]
        return {
            "bits": bits.outcome is Outcome.REJECTED,
            "located": [g.node for g in bits.guilty] == guilty,
            "digest": digest.outcome is Outcome.REJECTED,
            "channels": channels.outcome is Outcome.REJECTED,
            "exp": figures.get("exp_mismatches_mean", 0.0),
            "mantissa": figures.get("mantissa_mean", 0.0),
            "deviation": channels.figures.get("deviation_mean", 0.0),
            "tokens": digest.figures.get("tokens_different", 0),
        }

    def from_record(self, asked: Asked, outputs: list[F32], place: int, proof: Proof) -> Verdict:
        """A stage's recorded input replayed in another class."""
        sent = [self.ends.embed(asked.ids[: asked.rows]), *outputs]
        taken, gave = (Opened(pack(sent[p], self.residual)) for p in (place, place + 1))
        width = self.gguf.shape.width
        return audit_stage(proof, place, width, self.other, taken, gave, self.calibration)

    def dishonest(self, asked: Asked) -> dict[str, dict[str, Any]]:
        """Every case of one text."""
        honest = self.honest(asked, self.route)
        found: dict[str, dict[str, Any]] = {}
        last = self.windows[2]
        for name, cheat in self.cheats.items():
            wrong = cheat(asked, honest[0], honest[1])
            outputs = [honest[0], wrong, run(self.route.engine(*last), asked.kinds, wrong)[last[1]]]
            found[name] = self.judge(asked, outputs, 1, self.forge.proof(asked, outputs))
        for words, name in (
            (1, "first: one word of the prompt edited"),
            (ALL, "first: another prompt"),
        ):
            outputs = self.honest(edited(asked, self.gguf.shape.vocabulary, words), self.route)
            found[name] = self.judge(asked, outputs, 0, self.forge.proof(asked, outputs))
        found |= self.by_the_client(asked, honest)
        return found

    def by_the_client(self, asked: Asked, honest: list[F32]) -> dict[str, dict[str, Any]]:
        """Tokens swapped after sampling, and a receipt of another session."""
        other = list(asked.ids)
        other[-1] = (other[-1] + 1) % self.gguf.shape.vocabulary
        swapped = self.forge.proof(asked, honest, said_ids=tuple(other))
        other = list(asked.ids)
        other[asked.prompt] = (other[asked.prompt] + 1) % self.gguf.shape.vocabulary
        middle = self.forge.proof(asked, honest, said_ids=tuple(other))
        replayed = self.forge.proof(asked, honest, stale={1: b"another session."})
        found = {}
        for name, proof in (
            ("client: last token swapped after sampling", swapped),
            ("client: first token of the answer swapped", middle),
            ("a receipt of another session", replayed),
        ):
            verdicts = [
                audit(proof, self.cuts[-1], replayer, calibration=self.calibration)
                for replayer in (self.route, self.other)
            ]
            caught = [one.outcome is Outcome.REJECTED for one in verdicts]
            nobody = not any(one.guilty for one in verdicts)
            found[name] = {"bits": caught[0], "located": nobody, "digest": caught[1]}
        return found

    def in_class(self, asked: Asked, engines: dict[int, Engine]) -> dict[str, int]:
        """Honest rows in other steps, trees, chunks and threads: checks, and how many differ."""
        states = self.ends.embed(asked.ids[: asked.rows])
        plain = run(engines[1], asked.kinds, states, taps=True)
        checks = wrong = 0
        for rows, decoys, threads in ((1, 0, 1), (5, 0, 2), (8, 0, 1), (3, 2, 1), (6, 2, 2)):
            found = stepwise(engines[threads], asked, states, rows, decoys)
            for boundary, true in plain.items():
                for at in range(0, asked.rows, CHUNK):
                    part = slice(at, at + CHUNK)
                    checks += 1
                    wrong += not np.array_equal(true[part], found[boundary][part])
        return {"checks": checks, "accused": wrong}

    def between_classes(self, asked: Asked, routes: dict[str, Replays]) -> dict[str, int]:
        """Honest routes of every policy judged in another class."""
        checks = accused = tokens = different = 0
        for route in routes.values():
            route.kept.clear()
            outputs = self.honest(asked, route)
            proof = self.forge_of(route).proof(asked, outputs)
            verdicts = [audit(proof, self.cuts[-1], self.other, calibration=self.calibration)]
            verdicts += [self.from_record(asked, outputs, place, proof) for place in range(3)]
            checks += 2 * 3 * -(-asked.rows // CHUNK)
            accused += sum(verdict.outcome is not Outcome.ACCEPTED for verdict in verdicts)
            tokens += verdicts[0].figures.get("tokens_checked", 0)
            different += verdicts[0].figures.get("tokens_different", 0)
        return {"checks": checks, "accused": accused, "tokens": tokens, "different": different}


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


def report(results: Path) -> int:
    """Print the table; the exit code tells whether it is as it should be."""
    lines = [json.loads(line) for line in results.read_text().splitlines()]
    by_text = {line["text"]: line for line in lines}
    print(f"{len(by_text)} answers of {GENERATED_ROWS} tokens; caught / runs")
    print(
        f"{'case':<44}{'bits':>9}{'located':>9}{'digest':>9}{'channels':>9}   mismatches, "
        "mantissa, deviation (least to most)"
    )
    good, missed = True, []
    for name in next(iter(by_text.values()))["cases"]:
        cases = [line["cases"][name] for line in by_text.values()]
        runs = len(cases)

        def count(key: str, cases: list[dict[str, Any]] = cases) -> str:
            return str(sum(case[key] for case in cases)) if key in cases[0] else "-"

        good &= all(case["bits"] and case["located"] for case in cases)
        spans = [
            f"{min(case[key] for case in cases):g} to {max(case[key] for case in cases):g}"
            for key in ("exp", "mantissa", "deviation")
            if key in cases[0]
        ]
        if not all(case["digest"] or case.get("channels") for case in cases):
            missed.append(name)
        columns = "".join(f"{count(key):>9}" for key in ("bits", "located", "digest", "channels"))
        print(f"{name:<44}{columns}   {', '.join(spans)}  of {runs}")
    print("in another class not always caught: " + "; ".join(missed))
    for key, label in (("in_class", "in one class"), ("between", "between classes")):
        some = [line[key] for line in by_text.values() if key in line]
        checks, accused = (sum(one[what] for one in some) for what in ("checks", "accused"))
        print(f"honest, {label}: {checks} checks, {accused} accusations")
        good &= accused == 0
        if tokens := sum(one.get("tokens", 0) for one in some):
            different = sum(one["different"] for one in some)
            print(
                f"  tokens chosen again from another class's logits: {different} of {tokens} differ"
            )
    return 0 if good else 1


def main() -> int:
    """Run what isn't there yet, or report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--residual", default="bf16")
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--last", type=int, default=100)
    parser.add_argument("--results", type=Path, default=Path("detection.jsonl"))
    parser.add_argument("--short", action="store_true", help="two answers, two minutes")
    parser.add_argument("--report", action="store_true", help="only print what is there")
    options = parser.parse_args()
    if options.report:
        return report(options.results)
    bench = Bench(options.model, Residual(options.residual))
    layers = (0, bench.cuts[-1])
    engines = {
        threads: load_engine("ggml", bench.gguf, layers, bench.residual, threads, options=LOW)
        for threads in (1, 2)
    }
    routes = {
        "low": bench.route,
        "fast": bench.replays("ggml", FAST),
        "kv": bench.replays("ggml", KV8),
    }
    last = options.first + 2 if options.short else options.last
    done = set()
    if options.results.exists():
        done = {json.loads(line)["text"] for line in options.results.read_text().splitlines()}
    for number in range(options.first, last):
        if number in done:
            continue
        [asked] = bench.prompts(number, number + 1)
        line: dict[str, Any] = {"text": number, "cases": bench.dishonest(asked)}
        line["in_class"] = bench.in_class(asked, engines)
        line["between"] = bench.between_classes(asked, routes)
        with options.results.open("a") as file:
            file.write(json.dumps(line) + "\n")
        for replays in (bench.route, bench.other):
            replays.kept.clear()
        print(f"answer {number + 1} of {last}", file=sys.stderr, flush=True)
    return report(options.results)


if __name__ == "__main__":
    raise SystemExit(main())
