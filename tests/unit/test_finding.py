"""What a draft takes to find candidates."""

import pytest

from hearthring.client.finding import FEW, Finding


def test_what_a_candidate_takes_is_the_median_of_late() -> None:
    finding = Finding()
    for seconds in (0.4, 0.4, 9.0, 0.4):
        finding.add(4, seconds)
    assert finding.each == pytest.approx(0.1)
    for _ in range(5):
        finding.add(1, 0.2)
    assert finding.each == pytest.approx(0.2)


def test_reading_is_told_from_finding() -> None:
    finding = Finding()
    finding.add(0, 3.0)
    assert finding.each is None
    finding.add(2, 1.0)
    assert (finding.spent, finding.reading, finding.finding) == (4.0, 3.0, 1.0)


def test_what_is_usual_is_known_after_a_few_times_and_counts_anew_after_each_choice() -> None:
    finding = Finding()
    for _ in range(FEW):
        finding.add(2, 0.2)
        assert finding.usual == 0
    finding.add(2, 0.2)
    assert finding.usual == pytest.approx(0.2 * (FEW + 1))
    finding.start()
    assert (finding.spent, finding.reading, finding.usual) == (0.0, 0.0, 0.0)
    assert finding.each == pytest.approx(0.1)
