"""The results of ``bench/detection.py``, judged by the thresholds of now, as a table."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.answers import TEMPERATURE
from hearthring.client.calibrations import calibration_of
from hearthring.shards.store import ModelStore
from hearthring.verify.tolerance import Tolerance

AUDITS = ("bits", "located", "digest", "channels")
FIGURES = (("exp", 0), ("mantissa", 1), ("deviation", 3))
Case = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Limits:
    """Thresholds of a route of stages of ``layers`` layers each."""

    of: Tolerance
    cuts: Sequence[int]

    def judge(self, case: Case) -> Case:
        """A case with verdicts in place of its figures, as the audits come to them."""
        found, digest = dict(case), case["digest"]
        if digest is not True:
            found["digest"] = self._digest(digest["boundaries"], digest["lead"])
        ways = [case[way] for way in ("channels", "near") if way in case]
        if ways:
            mean, worst = self.of.stage(self.cuts[1] - self.cuts[0])
            found["channels"] = any(way[0] > mean or way[1] > worst for way in ways)
            found["deviation"] = ways[0][0]
        return found

    def _digest(self, boundaries: Sequence[Sequence[float]], lead: float) -> bool:
        norm = self.of.norm
        limits = [*(self.of.digest_at(cut) for cut in self.cuts[1:]), norm or (1e9, 1e9)]
        return lead > self.of.token_margin / TEMPERATURE or any(
            said[0] > limit[0] or said[1] > limit[1] or said[2] > self.of.chunk_exp
            for said, limit in zip(boundaries, limits, strict=True)
        )


def report(results: Path, model: str) -> int:
    """Print the table; the exit code tells whether it is as it should be.

    That is: within the class everything is caught and the guilty stage named, what is refused on
    the way is, and nobody honest is accused.
    """
    lines = read(results)
    texts = [line for line in lines if "text" in line]
    if not texts:
        return 1
    entry = ModelStore().find(model)
    layers = entry.manifest.shape.layers
    tolerance = calibration_of(entry.model_id).tolerance([texts[0]["numerics"]])
    limits = Limits(tolerance, (0, layers // 3, 2 * layers // 3, layers))
    answers = [line["cases"] for line in texts if "cases" in line]
    good = not answers or _dishonest(answers, limits)
    for line in lines:
        for name, caught in line.get("refused", {}).items():
            print(f"{name}: refused on the way in {caught} of {line['runs']} runs")
            good &= caught == line["runs"]
    good &= _honest(texts, limits)
    return 0 if good else 1


def _dishonest(answers: Sequence[dict[str, Case]], limits: Limits) -> bool:
    columns = ("case", "runs", *AUDITS, "mismatches", "mantissa", "deviation")
    print(f"| {' | '.join(columns)} |\n{'|---' * len(columns)}|")
    good, missed, flagged = True, list[str](), dict[str, int]()
    for name in answers[0]:
        cases = [limits.judge(found[name]) for found in answers]
        counts = [_count(cases, audit) for audit in AUDITS]
        spans = [_span(cases, *figure) for figure in FIGURES]
        print(f"| {name} | {len(cases)} | {' | '.join([*counts, *spans])} |")
        good &= all(case.get("bits", True) and case.get("located", True) for case in cases)
        if "flagged" in cases[0]:
            flagged[name] = sum(case["flagged"] for case in cases)
            good &= flagged[name] == len(cases)
        if not all(case["digest"] or case.get("channels") for case in cases):
            missed.append(name)
    print("\nin another class not always caught: " + "; ".join(missed))
    for name, count in flagged.items():
        print(f"{name}: said in verdicts within the class in {count} of {len(answers)} runs")
    return good


def _honest(texts: Sequence[dict[str, Any]], limits: Limits) -> bool:
    good = True
    kinds = {
        "in_class": "in one class",
        "wire8": "in one class, rows as int8",
        "between": "between classes",
    }
    for key, label in kinds.items():
        some = [line[key] for line in texts if key in line]
        checks, accused = (sum(one[what] for one in some) for what in ("checks", "accused"))
        print(f"honest, {label}: {checks} checks on {len(some)} answers, {accused} accusations")
        good &= accused == 0
        if tokens := sum(one.get("tokens", 0) for one in some):
            different = sum(one["different"] for one in some)
            print(f"  {different} of {tokens} tokens chosen again by another class's logits differ")
    elsewhere = Counter(
        said for line in texts for said in line.get("wire8", {}).get("elsewhere", ())
    )
    if elsewhere:
        print(f"  rows as int8 in another class: {dict(elsewhere)}")
    return good


def read(results: Path) -> list[dict[str, Any]]:
    """The lines of a file of results; those about one answer may be several."""
    return [json.loads(line) for line in results.read_text().splitlines()]


def _count(cases: Sequence[Case], audit: str) -> str:
    return str(sum(case[audit] for case in cases)) if audit in cases[0] else "–"


def _span(cases: Sequence[Case], figure: str, digits: int) -> str:
    values = [case[figure] for case in cases if case.get(figure, 1e6) < 1e6]
    return f"{min(values):.{digits}f}–{max(values):.{digits}f}" if values else "–"
