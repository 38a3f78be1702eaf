"""Thresholds between classes: how they are set, kept, chosen and used."""

import json
from dataclasses import replace
from importlib.resources import files

import numpy as np
import pytest

from hearthring.protocol.errors import BadOption, Malformed
from hearthring.verify.calibrating import GROUPS, MARGIN, exceedance_bound, fit, tail
from hearthring.verify.tolerance import GENERIC, Calibration, Tolerance, sort_of, widest

GGML = "ggml-0.26.0-avx2/f32+q4_1/kv-f16/prompt-openblas-0.3.31-SkylakeX-fp32/fp16"
LOW = "ggml-0.26.0-avx512/f32+q4_1/kv-f16/prompt-dot/fp16"
TORCH = "torch-2.13.0+cpu/fp32/mv+gemm64/fp32"


def texts(count: int, seed: int = 0) -> list[Tolerance]:
    """Figures as measurements give them: of one spread, some heavier than others."""
    draw = np.random.default_rng(seed)
    return [
        Tolerance(
            tuple(draw.gamma(4, 2, 3).tolist()),
            tuple(draw.gamma(4, 0.5, 3).tolist()),
            float(draw.gamma(4, 4)),
            tuple(draw.gamma(9, 0.004, 2).tolist()),
            tuple(draw.gamma(9, 0.006, 2).tolist()),
            float(draw.gamma(4, 0.05)),
            float(draw.gamma(9, 0.001)),
            float(draw.gamma(9, 0.002)),
        )
        for _ in range(count)
    ]


def beyond(text: Tolerance, limits: Tolerance, audit: int = 0) -> bool:
    """Whether one of the audits, a replay or cells, rejects the text."""
    said = {name: getattr(text, name) for name in GROUPS[audit]}
    return widest([replace(limits, **said), limits]) != limits


def test_a_class_is_of_a_sort() -> None:
    assert sort_of(GGML) == "ggml/kv-f16/prompt-fp32/fp16"
    assert sort_of(LOW) == sort_of(LOW.replace("avx512", "neon")) == "ggml/kv-f16/prompt-dot/fp16"
    assert sort_of(TORCH) == "torch/fp32/fp32"
    assert sort_of(LOW.replace("kv-f16", "kv-q8_0")) != sort_of(LOW)
    assert sort_of(LOW.replace("/fp16", "/packed/fp16")) != sort_of(LOW)
    assert sort_of("torch-2.13.0/cuda:0/bf16/batched/fp16") not in ("torch/fp32/fp16", sort_of(LOW))
    assert sort_of("") == "/"


def test_a_route_takes_the_widest_of_its_sorts() -> None:
    one, two = texts(2)
    known = Calibration("m", {sort_of(GGML): one, sort_of(LOW): two})
    assert known.tolerance([LOW]) == two
    assert known.tolerance([LOW, GGML]) == widest([one, two])
    assert known.tolerance([LOW, TORCH]) is GENERIC  # of a class that nobody measured
    assert known.tolerance([]) is GENERIC
    assert GENERIC.norm is None


def test_thresholds_by_boundary_and_layers() -> None:
    limits = Tolerance((1.0, 2.0, 9.0), (0.1, 0.2, 0.9), 5.0, (0.01, 0.02), (0.03, 0.04))
    assert [limits.digest_at(b) for b in (1, 2, 8)] == [(1.0, 0.1), (2.0, 0.2), (9.0, 0.9)]
    assert limits.norm == (9.0, 0.9)
    assert [limits.stage(n) for n in (1, 2, 30)] == [(0.01, 0.03), (0.02, 0.04), (0.02, 0.04)]


def test_the_bound_holds_for_texts_that_set_nothing() -> None:
    """Over many calibrations, new texts are beyond a threshold less often than the bound says."""
    found = fit(texts(40))
    assert found.tolerance.bound == 1 / 21
    rates = {}
    for margin in (0.0, MARGIN):
        fits = [fit(texts(16, seed), margin) for seed in range(200)]
        rates[margin] = np.mean(
            [beyond(t, f.tolerance) for i, f in enumerate(fits) for t in texts(10, 1000 + i)]
        )
    # Without a margin the bound is what is met, up to the error of 2000 draws.
    assert 0.05 < rates[0.0] < fits[0].tolerance.bound + 0.03
    assert rates[MARGIN] < rates[0.0] / 2
    # What is estimated of the margin's share is more than what is met.
    assert rates[MARGIN] < np.median([f.tolerance.tail for f in fits])
    assert fit(texts(400)).tolerance.tail < found.tolerance.bound / 2


def test_the_tail_of_exponential_scores() -> None:
    scores = np.random.default_rng(0).exponential(1.0, 4000).tolist()
    for limit in (3.0, 6.0, 9.0):
        assert np.exp(-limit) < tail(scores, limit) < np.exp(-limit) * 3
    few = [tail(scores[at : at + 16], 6.0) for at in range(0, 4000, 16)]
    assert np.mean([one > np.exp(-6.0) for one in few]) > 0.9  # the upper limit of 95 %
    assert tail([1.0] * 8, 2.0) == tail([1.0, 2.0], 0.5) == 1.0  # nothing is known


def test_held_out_texts_set_nothing() -> None:
    measured = texts(16)
    spoilt = [*measured[:-1], replace(measured[-1], chunk_exp=1e4)]
    assert fit(spoilt).tolerance == fit(measured).tolerance
    assert (fit(measured).exceeded, fit(spoilt).exceeded) == (0, 1)
    set_by = [*measured[:5], replace(measured[5], chunk_exp=1e4), *measured[6:]]
    assert fit(set_by).tolerance.chunk_exp > 1e4
    with pytest.raises(BadOption):
        fit(measured[:7])


def test_the_limits_of_clopper_and_pearson() -> None:
    assert exceedance_bound(0, 10) == pytest.approx(1 - 0.05 ** (1 / 10))
    assert exceedance_bound(1, 20) == pytest.approx(0.2161, abs=1e-4)
    assert exceedance_bound(4, 4) == 1.0


def test_a_calibration_is_kept_as_json() -> None:
    known = Calibration("m" * 64, {"a/b": texts(1)[0]}, 32, 8, 1)
    assert Calibration.from_json(known.to_json()) == known
    said = json.loads(known.to_json())
    for name in said:
        with pytest.raises(Malformed):
            Calibration.from_json(json.dumps({k: v for k, v in said.items() if k != name}))
    sort = said["sorts"]["a/b"]
    wrong = [{**sort, "exp": value} for value in ([], 3, ["x"], [-1], [float("nan")], [1] * 5000)]
    wrong += [{**sort, "more": 1}, {**sort, "bound": [1]}, {**sort, "token_margin": float("inf")}]
    for one in (*({**said, "sorts": {"a/b": bad}} for bad in wrong), {**said, "version": 3}, [], 1):
        with pytest.raises(Malformed):
            Calibration.from_json(json.dumps(one))
    with pytest.raises(Malformed):
        Calibration.from_json("[" * 100_000)


def test_a_calibration_of_the_first_version_has_generic_figures_of_cells() -> None:
    known = Calibration("m" * 64, {"a/b": texts(1)[0]}, 32, 8, 1)
    said = json.loads(known.to_json()) | {"version": 1}
    with_figures = Calibration.from_json(json.dumps(said))  # what it can't have isn't refused
    assert with_figures == known
    for name in ("cell_added", "cell_stored", "tail"):
        del said["sorts"]["a/b"][name]
    found = Calibration.from_json(json.dumps(said)).sorts["a/b"]
    assert (found.cell_added, found.cell_stored, found.tail) == (0.1, 0.15, 1.0)
    assert found.exp == known.sorts["a/b"].exp


def test_thresholds_that_come_with_the_package() -> None:
    folder = files("hearthring.verify") / "thresholds"
    found = [file for file in folder.iterdir() if file.name.endswith(".json")]
    assert found
    for file in found:
        shipped = Calibration.from_json(file.read_bytes())
        assert file.name == f"{shipped.model_id}.json"
        bound = max(tolerance.bound for tolerance in shipped.sorts.values())
        assert bound < 0.06
        assert shipped.exceeded <= bound * shipped.held_out
        assert {sort.rpartition("/")[2] for sort in shipped.sorts} == {"fp32", "fp16", "bf16"}
