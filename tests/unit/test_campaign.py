"""What a campaign of faults draws, counts and keeps, before anything is killed."""

from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from hearthring.client.answer import Answer, Rerouting, Timings
from tests.chaos.campaign import Run
from tests.chaos.faults import Phase, draw_faults
from tests.chaos.outcomes import WRONG, Outcome, Results, report


def test_a_seed_gives_the_same_faults_over_all_phases() -> None:
    drawn = draw_faults(30, 7, (1.0, 20.0))
    assert drawn == draw_faults(30, 7, (1.0, 20.0)) != draw_faults(30, 8, (1.0, 20.0))
    assert {fault.phase for fault in drawn} == set(Phase)
    assert all(0 <= f.when < 1 and 0 <= f.victim < 1 and 1 <= f.seconds <= 20 for f in drawn)


def test_the_longest_wait_is_between_tokens() -> None:
    run = Run(arrivals=[5.0, 5.1, 7.1, 7.2])
    assert run.pause == pytest.approx(2.0)
    assert Run().pause == 0.0
    assert Run().recovery is None


def test_results_are_kept_and_only_what_says_something_counts(tmp_path: Path) -> None:
    said = Outcome("kills", 3, "decode", (1.0,), "", (0.1,), 0.4, 0.2, 0.5, ("after 1 s",))
    late = Outcome("kills", 4, "decode", (), "", (), None, 0.2, 0.1, ())
    wrong = Outcome("kills", 5, "prefill", (0.1,), WRONG, (), None, 0.2, 0.0, ())
    lost = Outcome("kills", 6, "prefill", (0.1,), "NoRoute: nobody", (), None, 0.2, 0.0, ())
    drained = Outcome("drains", 0, "", (), "", (), None, 0.2, 0.2, ())
    kept = Results(tmp_path / "results.jsonl")
    for outcome in (said, late, wrong, lost, drained):
        kept.add(outcome)
    again = Results(tmp_path / "results.jsonl")
    assert again.all == kept.all
    assert again.done("kills") == {3, 5, 6}
    assert again.done("drains") == {0}
    figures = report(again.of("kills"))
    assert (figures["wrong"], figures["lost"], figures["faults"]) == (1, 1, 3)
    assert figures["errors"] == ["NoRoute: nobody"]
    assert figures["recovery_s"] == {"median": 0.4, "p95": 0.4, "max": 0.4}
    assert report([])["pause_s"] == {}


def test_a_detection_counts_from_the_first_fault_nobody_has_noticed() -> None:
    timings = Timings(0, 0, 0, 0, reroutes=(Rerouting(("a",), "", 2.0, 0.5),))
    run = Run(answer=cast("Answer", SimpleNamespace(timings=timings)), begun=10.0)
    run.struck = [11.0, 11.5]
    assert run.detections == [1.0]
    assert run.recovery == 1.0
