"""Philox4x32-10 against Random123's known answers, and the published Gumbel values."""

import math
from pathlib import Path

import numpy as np
import pytest

from hearthring.client.philox import gumbel, philox
from hearthring.protocol.errors import BadOption

KNOWN = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0"),
]
ANSWERS = [
    "6627e8d5 e169c58d bc57ac4c 9b00dbd8",
    "408f276d 41c83b0e a20bc7c6 6d5451fd",
    "d16cfe09 94fdcceb 5001e420 24126ea1",
]
DOC = Path(__file__).parents[2] / "docs" / "sampling.md"


def words(text: str) -> list[int]:
    return [int(word, 16) for word in text.split()]


@pytest.mark.parametrize(("inputs", "answer"), list(zip(KNOWN, ANSWERS, strict=True)))
def test_known_answers(inputs: tuple[str, str], answer: str) -> None:
    counter, key = words(inputs[0]), words(inputs[1])
    assert [int(word) for word in philox((key[0], key[1]), *counter)] == words(answer)


def test_counters_broadcast() -> None:
    many = philox((1, 2), 3, np.arange(1000), 0, 0)
    for token in (0, 1, 999):
        alone = philox((1, 2), 3, token, 0, 0)
        assert [int(word[token]) for word in many] == [int(word) for word in alone]


def table() -> list[tuple[int, int, int, int, float]]:
    rows = []
    for line in DOC.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip(" `") for cell in line.strip("|").split("|")]
        if len(cells) == 5 and cells[0].isdigit():
            seed, position, token = (int(cell) for cell in cells[:3])
            rows.append((seed, position, token, int(cells[3], 16), float(cells[4])))
    return rows


def test_the_published_values_are_ours() -> None:
    rows = table()
    assert len(rows) == 8
    for seed, position, token, word, noise in rows:
        key = seed & 0xFFFFFFFF, seed >> 32
        assert int(philox(key, position, token, 0, 0)[0]) == word
        assert gumbel(seed, position, np.array([token]))[0] == pytest.approx(noise, abs=1e-12)
        assert -math.log(-math.log((word + 0.5) / 2**32)) == pytest.approx(noise, abs=1e-12)


def test_blocks_do_not_show() -> None:
    ids = np.random.default_rng(0).integers(0, 2**32, 20_000)
    noise = gumbel(9, 4, ids)
    assert noise.tolist() == [float(gumbel(9, 4, ids[i : i + 1])[0]) for i in range(len(ids))]
    assert (gumbel(9, 4, ids.reshape(100, 200)) == noise.reshape(100, 200)).all()
    assert gumbel(9, 4, ids[:0]).shape == (0,)


def test_noise_is_standard_gumbel() -> None:
    noise = np.sort(gumbel(2024, 0, np.arange(100_000)))
    assert noise.mean() == pytest.approx(0.5772, abs=0.02)
    assert noise.var() == pytest.approx(math.pi**2 / 6, abs=0.04)
    expected = np.exp(-np.exp(-noise))
    assert np.abs(expected - (np.arange(100_000) + 0.5) / 100_000).max() < 0.006
    assert np.isfinite(noise).all()


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_seeds_have_64_bits(seed: int) -> None:
    with pytest.raises(BadOption, match="seed"):
        gumbel(seed, 0, np.arange(3))


@pytest.mark.parametrize("position", [-1, 2**32])
def test_positions_have_32_bits(position: int) -> None:
    with pytest.raises(BadOption, match="position"):
        gumbel(0, position, np.arange(3))
