"""Acceptance rules keep the target's distribution: every outcome added up, and by sampling."""

import numpy as np
import pytest

from hearthring.client.acceptance import RULES, Place, rule_named
from hearthring.client.chance import Chance, Drawn
from hearthring.client.draft import Candidate
from hearthring.client.philox import block, gumbel, philox
from hearthring.client.rejection import Draws, Verdict, draw_children, judge_children, restrict
from hearthring.client.sampler import Sampling, choose, distribution
from hearthring.protocol.errors import BadOption, BadShape
from tests.outcomes import outcomes, walk

VOCABULARY = 6
PAIRS = 8
EXACT = 1e-12
CHI_SQUARE_1E4_30 = 68.0
"""Quantile at 1 - 1e-4, 30 degrees of freedom."""
WITH, WITHOUT = Draws.WITH_REPLACEMENT, Draws.WITHOUT_REPLACEMENT


def node(token: int, parent: int) -> Candidate:
    return Candidate(token, parent, 0.5)


def pairs(count: int = PAIRS) -> list[tuple[np.ndarray, np.ndarray]]:
    """Targets, and drafts that are related to them but imperfect."""
    draw, made = np.random.default_rng(0), []
    for _ in range(count):
        target = draw.dirichlet(np.full(VOCABULARY, 0.6))
        draft = target**0.7 * draw.dirichlet(np.full(VOCABULARY, 2.0))
        made.append((target, draft / draft.sum()))
    return made


def result(target: np.ndarray, run: object) -> tuple[np.ndarray, float]:
    """The distribution of what ``run`` chooses, and how often a child was accepted."""
    chosen, accepted = np.zeros(target.size), 0.0
    for probability, verdict in outcomes(run):  # type: ignore[arg-type]
        chosen[verdict.token] += probability
        accepted += probability * (verdict.child >= 0)
    return chosen, accepted


def drawn(target: np.ndarray, draft: np.ndarray, width: int, draws: Draws) -> object:
    def run(chance: Chance) -> Verdict:
        children = draw_children(draft, width, draws, chance)
        return judge_children(target, children, draft, draws, chance)

    return run


@pytest.mark.parametrize(
    ("width", "draws", "least"),
    [(1, WITHOUT, 0.7), (3, WITHOUT, 0.9), (3, WITH, 0.85), (2, WITHOUT, 0.8)],
    ids=["leviathan", "sequoia", "specinfer", "sequoia-2"],
)
def test_drawn_children_leave_the_target(width: int, draws: Draws, least: float) -> None:
    rates = []
    for target, draft in pairs():
        chosen, accepted = result(target, drawn(target, draft, width, draws))
        assert np.abs(chosen - target).max() <= EXACT
        if width == 1:
            assert accepted == pytest.approx(np.minimum(target, draft).sum())
        rates.append(accepted)
    assert np.mean(rates) > least


def test_more_children_than_the_draft_expects() -> None:
    target = np.array([0.1, 0.2, 0.3, 0.4, 0, 0])
    draft = np.array([0, 0.9, 0, 0.1, 0, 0.0])
    for width in (3, 4):
        chosen, _ = result(target, drawn(target, draft, width, WITHOUT))
        assert np.abs(chosen - target).max() <= EXACT
    with np.errstate(all="raise"):
        _, all_of_them = result(target, drawn(target, draft, 9, WITHOUT))
    assert all_of_them == pytest.approx(1.0)


def test_children_as_they_are() -> None:
    for target, draft in pairs():
        for children in (np.argsort(-draft)[:3], [5, 0], [2], [], range(6), [1, 1]):
            given = [int(token) for token in children]
            chosen, accepted = result(
                target,
                lambda chance, given=given, target=target: judge_children(
                    target, given, None, WITH, chance
                ),
            )
            assert np.abs(chosen - target).max() <= EXACT
            assert accepted == pytest.approx(target[list(set(given))].sum())


def test_a_draft_of_another_vocabulary() -> None:
    draw = np.random.default_rng(1)
    for _ in range(PAIRS):
        target, theirs = draw.dirichlet(np.ones(VOCABULARY)), draw.dirichlet(np.ones(9))
        shared = np.array([8, 0, 3, 4]), np.array([0, 2, 3, 5])
        draft = restrict(theirs, *shared, VOCABULARY)
        assert draft.sum() == pytest.approx(1)
        assert draft[[1, 4]].tolist() == [0, 0]
        assert draft[5] == pytest.approx(theirs[4] / theirs[[8, 0, 3, 4]].sum())
        for width, draws in ((1, WITHOUT), (2, WITHOUT), (2, WITH)):
            chosen, _ = result(target, drawn(target, draft, width, draws))
            assert np.abs(chosen - target).max() <= EXACT
    nothing = restrict(np.eye(9)[1], *shared, VOCABULARY)
    assert not nothing.any()
    assert draw_children(nothing, 3, WITHOUT, Drawn(1, 1, 1)) == ()


def test_a_known_bug_likeliest_children_judged_as_drawn_ones() -> None:
    distances = []
    for target, draft in pairs():
        likeliest = [int(token) for token in np.argsort(-draft)[:3]]
        chosen, _ = result(
            target,
            lambda chance, given=likeliest, draft=draft, target=target: judge_children(
                target, given, draft, WITHOUT, chance
            ),
        )
        distances.append(np.abs(chosen - target).sum() / 2)
    assert np.mean(distances) > 0.1


def test_a_known_bug_the_draft_not_renormalised() -> None:
    distances = []
    for target, draft in pairs():

        def run(chance: Chance, target: np.ndarray = target, draft: np.ndarray = draft) -> Verdict:
            children = draw_children(draft, 3, WITHOUT, chance)
            return judge_children(target, children, draft, WITH, chance)

        chosen, _ = result(target, run)
        distances.append(np.abs(chosen - target).sum() / 2)
    assert np.mean(distances) > 0.005


@pytest.mark.parametrize(("width", "draws"), [(1, WITHOUT), (2, WITHOUT), (2, WITH)])
def test_two_places_down_a_tree(width: int, draws: Draws) -> None:
    """Given its first token, the second is distributed as the target at that place."""
    draw, size = np.random.default_rng(2), 3
    targets = {path: draw.dirichlet(np.ones(size)) for path in [(), (0,), (1,), (2,)]}
    drafts = {path: draw.dirichlet(np.ones(size)) for path in targets}

    def run(chance: Chance) -> tuple[int, ...]:
        proposal: list[Candidate] = []
        paths: dict[int, tuple[int, ...]] = {-1: ()}
        for at in (-1, *range(width)):
            for token in draw_children(drafts[paths[at]], width, draws, chance):
                paths[len(proposal)] = (*paths[at], token)
                proposal.append(node(token, at))

        def judge(at: int, children: tuple[int, ...]) -> Verdict:
            path = paths[at]
            if len(path) == 2:
                return Verdict(-7, -1)
            return judge_children(targets[path], children, drafts[path], draws, chance)

        path = walk(proposal, judge)
        chosen = [proposal[index].token for index in path.accepted]
        return tuple(chosen if path.token == -7 else [*chosen, path.token])

    first, second = np.zeros(size), np.zeros((size, size))
    for probability, tokens in outcomes(run):
        first[tokens[0]] += probability
        if len(tokens) == 2:
            second[tokens] += probability
    assert np.abs(first - targets[()]).max() <= EXACT
    for token in range(size):
        given = second[token] / second[token].sum()
        assert np.abs(given - targets[(token,)]).max() <= EXACT


def logits_for(distribution: np.ndarray) -> np.ndarray:
    return np.log(distribution).astype(np.float32)


@pytest.mark.parametrize("name", ["leviathan", "specinfer", "sequoia"])
def test_a_text_of_twenty_thousand_tokens(name: str) -> None:
    """The whole of a rule, from seed to token: each next token fits the target of the one before.

    ``gumbel`` needs no such test: it is ``choose`` (below), which has its own.
    """
    rule, samples, token, accepted = rule_named(name), 20_000, 0, 0
    sampling = Sampling(temperature=1, seed=5)
    targets, drafts = (np.array(part) for part in zip(*pairs(VOCABULARY), strict=True))
    scores = [logits_for(target) for target in targets]
    counts = np.zeros((VOCABULARY, VOCABULARY))
    for position in range(samples):
        row = token
        children = rule.offer(drafts[row], 3, 5, position)
        verdict = rule.judge(Place(scores[row], (), position, sampling), children, drafts[row])
        token, accepted = verdict.token, accepted + (verdict.child >= 0)
        if verdict.child >= 0:
            assert children[verdict.child] == token
        counts[row, token] += 1
    expected = counts.sum(1, keepdims=True) * targets
    usual = expected > 1
    statistic = ((counts - expected)[usual] ** 2 / expected[usual]).sum()
    assert statistic < CHI_SQUARE_1E4_30
    assert counts[~usual].sum() <= 5 + 3 * expected[~usual].sum()
    assert accepted > {"leviathan": 0.7, "specinfer": 0.85, "sequoia": 0.9}[name] * samples


def test_gumbel_chooses_what_is_chosen_without_a_draft() -> None:
    draw, rule = np.random.default_rng(4), rule_named("gumbel")
    scores = draw.normal(size=VOCABULARY).astype(np.float32)
    for temperature in (0.0, 0.8):
        sampling = Sampling(temperature=temperature, seed=9, repetition_penalty=1.2)
        for position in range(100):
            place = Place(scores, [2, 3], position, sampling)
            plain = choose(scores, [2, 3], position, sampling)
            for children in ((), (plain,), (5, 4, 3, 2, 1, 0), ((plain + 1) % 6,)):
                verdict = rule.judge(place, children, None)
                assert verdict.token == plain
                assert (verdict.child >= 0) == (plain in children)


def test_a_shared_draft_agrees_as_often_as_its_formula_says() -> None:
    """Both pick x with chance 1 / sum over y of max(p_y / p_x, q_y / q_x)."""
    target, draft = pairs(1)[0]
    rule, sampling, positions = rule_named("gumbel"), Sampling(temperature=1, seed=2), 4_000
    agree = 0
    for position in range(positions):
        place = Place(logits_for(target), [], position, sampling)
        agree += rule.judge(place, rule.offer(draft, 1, 2, position), None).child == 0
    expected = sum(
        1 / np.maximum(target / target[x], draft / draft[x]).sum() for x in range(VOCABULARY)
    )
    assert agree / positions == pytest.approx(expected, abs=0.03)
    assert expected >= (1 - (d := np.abs(target - draft).sum() / 2)) / (1 + d)


@pytest.mark.parametrize("name", RULES)
def test_at_temperature_zero_every_rule_takes_the_highest(name: str) -> None:
    draw, rule = np.random.default_rng(5), rule_named(name)
    for _ in range(50):
        scores = draw.normal(size=VOCABULARY).astype(np.float32)
        draft = draw.dirichlet(np.ones(VOCABULARY))
        children = rule.offer(draft, 3, 1, 7)
        place = Place(scores, [], 7, Sampling())
        verdict = rule.judge(place, children, draft)
        assert verdict.token == scores.argmax()
        assert (verdict.child >= 0) == (verdict.token in children)


@pytest.mark.parametrize("name", RULES)
def test_the_same_seed_judges_alike(name: str) -> None:
    rule, sampling = rule_named(name), Sampling(temperature=1, seed=2**63)
    target, draft = pairs(1)[0]
    place = Place(logits_for(target), [], 11, sampling)
    offers = {rule.offer(draft, 3, 2**63, 11) for _ in range(3)}
    assert len(offers) == 1
    children = offers.pop()
    assert len({rule.judge(place, children, draft) for _ in range(3)}) == 1
    with pytest.raises(BadOption, match="seed"):
        rule.judge(Place(logits_for(target), [], 11, Sampling(temperature=1)), children, draft)


def test_walk_goes_down_while_a_child_is_chosen() -> None:
    #        -1
    #   7(0)     8(1)
    #  9(2) 9(4)   5(3)
    proposal = [node(7, -1), node(8, -1), node(9, 0), node(5, 1), node(9, 0)]
    asked: list[tuple[int, tuple[int, ...]]] = []

    def choosing(*tokens: int) -> tuple[tuple[int, ...], int]:
        asked.clear()
        left = list(tokens)

        def judge(at: int, children: tuple[int, ...]) -> Verdict:
            asked.append((at, children))
            token = left.pop(0)
            return Verdict(token, children.index(token) if token in children else -1)

        path = walk(proposal, judge)
        assert not left
        return path.accepted, path.token

    assert choosing(8, 5, 1) == ((1, 3), 1)
    assert asked == [(-1, (7, 8)), (1, (5,)), (3, ())]
    assert choosing(7, 9, 2) == ((0, 2), 2)
    assert asked == [(-1, (7, 8)), (0, (9, 9)), (2, ())]
    assert choosing(6) == ((), 6)
    assert walk([], lambda at, children: Verdict(at, -1)).token == -1


def test_what_is_refused() -> None:
    flat = np.full(VOCABULARY, 1 / VOCABULARY)
    chance = Drawn(0, 0, 0)
    for token in (-1, VOCABULARY):
        with pytest.raises(BadOption, match="children"):
            judge_children(flat, [token], None, WITH, chance)
    with pytest.raises(BadOption, match="children"):
        judge_children(flat, [0], np.eye(VOCABULARY)[1], WITH, chance)
    with pytest.raises(BadShape, match="draft"):
        judge_children(flat, [0], np.ones(2) / 2, WITH, chance)
    with pytest.raises(BadOption, match="gumbel, leviathan, specinfer, sequoia"):
        rule_named("lossy")


def test_draws_are_fair_and_apart() -> None:
    """Words are Philox's; purposes and positions don't share draws; the last index is reached."""
    words = philox((3, 1), 4, 5, 1, 0)
    assert block(3 + (1 << 32), (4, 5, 1, 0)) == tuple(int(word) for word in words)
    noise = gumbel(7, 9, np.arange(1))
    word = block(7, (9, 0, 0, 0))[0]
    assert noise[0] == -np.log(-np.log((word + 0.5) / 2.0**32))
    weights = np.array([0, 1, 0, 2, 1, 0.0])
    picks = [Drawn(7, position, 2).pick(weights) for position in range(4_000)]
    assert np.bincount(picks, minlength=6)[[0, 2, 5]].sum() == 0
    assert np.bincount(picks)[3] / 4_000 == pytest.approx(0.5, abs=0.03)
    seen = {Drawn(s, p, k)._uniform() for s in (1, 2) for p in (1, 2) for k in (0, 1, 2)}
    assert len(seen) == 12
    with pytest.raises(BadOption, match="seed"):
        Drawn(-1, 0, 0).happens(0.5)


def test_distribution_is_what_choose_draws_from() -> None:
    scores = np.array([0.0, 1.0, 0.5, -3.0], np.float32)
    assert distribution(scores, [], Sampling()).tolist() == [0, 1, 0, 0]
    assert distribution(scores, [1], Sampling(repetition_penalty=3)).tolist() == [0, 0, 1, 0]
    kept = distribution(scores, [], Sampling(temperature=2, top_k=2))
    assert kept[[0, 3]].tolist() == [0, 0]
    assert kept[1] / kept[2] == pytest.approx(np.exp(0.25))
    assert kept.sum() == pytest.approx(1)
