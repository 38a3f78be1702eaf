"""The sampler against a slow reading of docs/sampling.md."""

import math

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from hearthring.client.philox import gumbel
from hearthring.client.sampler import Sampling, choose, lead

# Eighths make ties common, and sums of their exponentials harmless to compare.
LOGITS = arrays(
    np.float32,
    st.one_of(st.integers(1, 40), st.just(300)),
    elements=st.integers(-40, 40).map(lambda eighths: eighths / 8),
)
OPTIONS = st.builds(
    Sampling,
    temperature=st.sampled_from([0, 0.25, 1, 3]),
    top_k=st.integers(0, 50),
    top_p=st.sampled_from([0.001, 0.31, 0.777, 0.95, 1]),
    min_p=st.sampled_from([0, 0.01, 0.23, 0.9, 1]),
    repetition_penalty=st.sampled_from([1, 1.25, 0.5, 4]),
    seed=st.integers(0, 2**64 - 1),
)


def by_the_page(
    values: np.ndarray, history: list[int], position: int, options: Sampling
) -> list[tuple[float, int]]:
    """(sum, id) of every token that may be chosen, best first."""
    scores = {}
    for token, logit in enumerate(values.tolist()):
        if token in history:
            ratio = options.repetition_penalty
            logit = logit / ratio if logit > 0 else logit * ratio
        scores[token] = logit
    if not options.temperature:
        return sorted((-score, token) for token, score in scores.items())
    order = sorted(scores, key=lambda token: (-scores[token], token))
    if options.top_k:
        order = order[: options.top_k]
    top = scores[order[0]]
    weight = {t: math.exp((scores[t] - top) / options.temperature) for t in order}
    if options.top_p < 1:
        goal, held, count = options.top_p * math.fsum(weight.values()), 0.0, 0
        while count < len(order) and held < goal:
            held += weight[order[count]]
            count += 1
        order = order[:count]
    order = [token for token in order if weight[token] >= options.min_p]
    noise = gumbel(options.seed or 0, position, np.array(order))
    sums = [scores[t] / options.temperature + float(n) for t, n in zip(order, noise, strict=True)]
    return sorted((-total, token) for total, token in zip(sums, order, strict=True))


@settings(deadline=None, max_examples=150)
@given(LOGITS, st.data(), st.integers(0, 2**32 - 1), OPTIONS)
def test_choice_and_lead(
    values: np.ndarray, data: st.DataObject, position: int, options: Sampling
) -> None:
    history = data.draw(st.lists(st.integers(0, values.size - 1), max_size=12))
    expected = by_the_page(values, history, position, options)
    assert choose(values, history, position, options) == expected[0][1]
    totals = {token: -total for total, token in expected}
    for token in range(values.size):
        behind = -expected[0][0] - totals[token] if token in totals else math.inf
        chosen, found = lead(values, history, position, options, token)
        assert chosen == expected[0][1]
        assert math.isclose(found, behind, abs_tol=1e-9)


@settings(deadline=None)
@given(LOGITS, st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1))
def test_tokens_that_are_cut_off_change_nothing_for_the_others(
    values: np.ndarray, position: int, seed: int
) -> None:
    """Noise belongs to a token, not to its place among the kept: what drafts rely on."""
    free = choose(values, [], position, Sampling(temperature=1, seed=seed))
    others = np.where(np.arange(values.size) == free, values, values - 1000).astype(np.float32)
    assert choose(others, [], position, Sampling(temperature=1, seed=seed)) == free
    forbidden = values.copy()
    rest = np.arange(values.size) != free
    forbidden[rest & (np.arange(values.size) % 2 == 0)] = -np.inf
    assert choose(forbidden, [], position, Sampling(temperature=1, seed=seed)) == free
