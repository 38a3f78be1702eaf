"""The order of steps at a stage: nobody starves, whatever the others send."""

from collections import Counter, defaultdict

from hypothesis import given
from hypothesis import strategies as st

from hearthring.node.batching import GENERATED_ROWS, PROMPT_ROWS, QUANTUM, Batcher, Waiting

MOST = 256
ARRIVALS = st.lists(
    st.tuples(st.sampled_from("abc"), st.integers(0, 3), st.integers(0, MOST), st.booleans()),
    max_size=60,
)


def waiting(steps: list[tuple[str, int, int, bool]]) -> list[Waiting[int]]:
    return [
        Waiting(peer, f"{peer}{session}".encode(), rows, prompt, n)
        for n, (peer, session, rows, prompt) in enumerate(steps)
    ]


def drained(batcher: Batcher[int]) -> list[list[int]]:
    batches = []
    while batch := batcher.next():
        batches.append(batch)
    return batches


@given(ARRIVALS)
def test_every_step_runs_once_and_each_sessions_in_order(
    arrivals: list[tuple[str, int, int, bool]],
) -> None:
    steps, batcher = waiting(arrivals), Batcher[int]()
    for step in steps:
        batcher.push(step)
    assert len(batcher) == len(steps)
    batches = drained(batcher)
    assert sorted(n for batch in batches for n in batch) == list(range(len(steps)))
    by_session = defaultdict(list)
    for batch in batches:
        sessions = [steps[n].session for n in batch]
        assert len(set(sessions)) == len(sessions)
        for n in batch:
            by_session[steps[n].session].append(n)
    assert all(order == sorted(order) for order in by_session.values())


@given(ARRIVALS)
def test_a_batch_keeps_to_its_budgets(arrivals: list[tuple[str, int, int, bool]]) -> None:
    steps, batcher = waiting(arrivals), Batcher[int]()
    for step in steps:
        batcher.push(step)
    for batch in drained(batcher):
        for prompt, budget in ((False, GENERATED_ROWS), (True, PROMPT_ROWS)):
            rows = [steps[n].rows for n in batch if steps[n].prompt == prompt]
            assert sum(rows) <= budget or len(rows) == 1


@given(
    st.dictionaries(st.sampled_from("abcd"), st.integers(1, 6), min_size=2),
    # A batch has room for one such step only, so that peers compete.
    st.lists(st.integers(PROMPT_ROWS // 2 + 1, PROMPT_ROWS), min_size=1, max_size=20),
)
def test_peers_that_always_have_prompts_waiting_get_equal_rows(
    sessions: dict[str, int], sizes: list[int]
) -> None:
    batcher, served, sent = Batcher[tuple[str, int]](), Counter[str](), 0

    def send(peer: str, session: int) -> None:
        nonlocal sent
        rows = sizes[sent % len(sizes)]
        name = f"{peer}{session}".encode()
        batcher.push(Waiting(peer, name, rows, True, (peer, session)))
        queued[peer, session].append(rows)
        sent += 1

    queued = defaultdict[tuple[str, int], list[int]](list)
    for peer, count in sessions.items():
        for session in range(count):
            for _ in range(2):
                send(peer, session)
    for _ in range(200):
        for peer, session in batcher.next():
            served[peer] += queued[peer, session].pop(0)
            send(peer, session)
        assert max(served[p] for p in sessions) - min(served[p] for p in sessions) <= 2 * (
            PROMPT_ROWS + QUANTUM
        )


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, MOST)), max_size=20))
def test_a_word_never_waits_for_more_than_the_batch_under_way(
    prompts: list[tuple[str, int]],
) -> None:
    batcher = Batcher[int]()
    for n, (peer, rows) in enumerate(prompts):
        batcher.push(Waiting(peer, f"p{n}".encode(), rows, True, n))
    batcher.next()
    batcher.push(Waiting("a", b"word", 1, False, -1))
    assert batcher.next()[0] == -1


def test_the_steps_of_an_ended_session_are_forgotten() -> None:
    batcher = Batcher[int]()
    for n in range(3):
        batcher.push(Waiting("a", b"x", 1, False, n))
    batcher.push(Waiting("a", b"y", 1, False, 9))
    assert batcher.forget("a", b"x") == [0, 1, 2]
    assert batcher.forget("b", b"x") == []
    assert drained(batcher) == [[9]]
