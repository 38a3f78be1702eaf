"""The suffix automaton against a search of the whole text."""

import numpy as np

from hearthring.client.suffix import NESTED, SuffixAutomaton, SuffixDraft


def brute(text: list[int], tail: list[int]) -> tuple[int, int]:
    whole = text + tail
    best = (0, -1)
    for end in range(len(text) - 1 - (not tail), -1, -1):
        length = 0
        while length <= end and whole[len(whole) - 1 - length] == text[end - length]:
            length += 1
        if length > best[0]:
            best = (length, end)
    return best


def texts(draw: np.random.Generator) -> list[list[int]]:
    """Noise of few and many tokens, copies of copies, and periods that fit the upkeep."""
    out = [list(draw.integers(0, k, 150)) for k in (2, 3, 10, 200) for _ in range(6)]
    for _ in range(24):
        text = list(draw.integers(0, 50, 40))
        while len(text) < 220:
            at = int(draw.integers(0, len(text) - 1))
            text += text[at : at + int(draw.integers(1, 40))] + list(draw.integers(0, 50, 2))
        out.append(text)
    out += [list(draw.integers(0, 4, p)) * (NESTED // p) for p in (1, 2, 5, 7, 30)]
    return [[int(t) for t in text] for text in out]


def test_matches_equal_a_search_at_ten_thousand_positions() -> None:
    draw = np.random.default_rng(11)
    checked = 0
    for text in texts(draw):
        automaton, tailed = SuffixAutomaton(), int(draw.integers(0, 7))
        for at, token in enumerate(text):
            assert automaton.match() == brute(text[:at], [])
            if at % 7 == tailed:
                tail = text[at : at + int(draw.integers(1, 6))]
                tail = [*tail[:-1], int(draw.integers(0, 5))] if draw.random() < 0.5 else tail
                assert automaton.match(tail) == brute(text[:at], tail)
                checked += 1
            automaton.append(token)
            checked += 1
    assert checked > 10_000


def test_a_text_of_one_token_is_cheap_and_still_matches() -> None:
    automaton = SuffixAutomaton()
    for _ in range(3000):
        automaton.append(7)
    length, end = automaton.match()
    assert (length, end) == (2999, 2998)
    automaton.append(8)
    automaton.append(7)
    length, end = automaton.match()
    assert length == 1
    assert automaton.text[end] == 7


def test_a_period_goes_on_beyond_the_text() -> None:
    draft = SuffixDraft()
    draft.observe([1, 2, 3, 4] * 2)
    assert [c.token for c in draft.propose([], 10)] == [1, 2, 3, 4, 1, 2, 3, 4, 1, 2]
    assert [c.token for c in draft.propose([1, 2], 3)] == [3, 4, 1]
    assert [c.parent for c in draft.propose([], 3)] == [-1, 0, 1]
    draft.forget()
    assert draft.propose([], 10) == []


def test_shorter_endings_follow_the_longest() -> None:
    draw = np.random.default_rng(4)
    for text in texts(draw)[:30]:
        automaton = SuffixAutomaton()
        for at, token in enumerate(text):
            if at % 11 == 3:
                tail = text[at : at + at % 3]
                whole, found = text[:at] + tail, list(automaton.matches(tail))
                assert [length for length, _ in found] == sorted({n for n, _ in found})[::-1]
                for length, end in found:
                    assert text[end - length + 1 : end + 1] == whole[len(whole) - length :]
                    assert end < len(text[:at]) - (not tail)
            automaton.append(token)


def test_a_tree_goes_on_where_less_of_the_text_read_alike() -> None:
    draft = SuffixDraft(wide=2)
    draft.observe([9, 1, 2, 5, 8, 1, 2, 6, 9, 1, 2])
    tree = draft.propose([], 6)
    assert {c.token for c in tree if c.parent == -1} == {5, 6}
    assert [c.chance for c in tree[:2]] == sorted((c.chance for c in tree[:2]), reverse=True)
    assert all(c.parent < i for i, c in enumerate(tree))


def test_chances_follow_what_came_true() -> None:
    loyal, fickle = SuffixDraft(), SuffixDraft()
    loyal.observe([1, 2, 3, 4, 5, 6] * 10)
    draw = np.random.default_rng(2)
    fickle.observe([int(t) for t in draw.integers(0, 3, 400)])
    sure, doubtful = loyal.propose([], 4)[0].chance, fickle.propose([], 4)[0].chance
    assert sure > 0.7
    assert doubtful < 0.5
