"""Stop strings against a naive search, for every way to cut the text."""

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from hearthring.client.stops import StopWatcher

TEXT = st.text("abc", max_size=40)
STOPS = st.lists(st.text("abc", min_size=1, max_size=5), max_size=4)


def naive(text: str, stops: list[str]) -> tuple[str, bool]:
    for end in range(1, len(text) + 1):
        starts = [end - len(stop) for stop in stops if text[:end].endswith(stop)]
        if starts:
            return text[: min(starts)], True
    return text, False


@settings(deadline=None, max_examples=400)
@given(TEXT, STOPS, st.lists(st.integers(0, 40), max_size=12))
def test_any_cut_gives_what_a_search_of_the_whole_gives(
    text: str, stops: list[str], cuts: list[int]
) -> None:
    watcher, out, stopped = StopWatcher(stops), "", False
    edges = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    for start, end in pairwise(edges):
        emit, stopped = watcher.feed(text[start:end])
        out += emit
        so_far, _ = naive(text, stops)
        assert so_far.startswith(out)
        seen = text[:end]
        if not stopped:
            # No more is held back than what begins a stop string.
            held = seen[len(out) :]
            assert not held or any(stop.startswith(held) for stop in stops)
    assert (out + watcher.flush(), stopped) == naive(text, stops)
