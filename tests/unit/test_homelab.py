"""The arithmetic of the emulated home's links, and its descriptions. No namespace is made here."""

import random
from pathlib import Path

import pytest

from bench.homelab import Machine, read_machines
from bench.homelab.link import QUEUE, Link

DRAW = random.Random(1)


def moved(sender: Link, receiver: Link, size: int, now: float) -> float | None:
    left = sender.send(size, now, DRAW)
    return None if left is None else receiver.arrival(size, left, sender, DRAW)


def test_delays_of_both_ends_add_up() -> None:
    assert moved(Link("a", delay=0.01), Link("b", delay=0.02), 100, 5.0) == pytest.approx(5.03)
    assert moved(Link("a"), Link("b"), 100, 5.0) == 5.0


def test_jitter_never_reorders() -> None:
    a, b = Link("a", jitter=0.05), Link("b", jitter=0.05)
    arrivals = [moved(a, b, 100, n * 0.001) for n in range(300)]
    assert arrivals == sorted(arrivals)
    assert any(at > n * 0.001 + 0.03 for n, at in enumerate(arrivals) if at)


def test_the_slower_rate_of_a_way_is_its_rate() -> None:
    for up, down in ((1000.0, 4000.0), (4000.0, 1000.0), (1000.0, 0.0)):
        a, b = Link("a", up=up), Link("b", down=down)
        last = [moved(a, b, 100, 0.0) for _ in range(50)][-1]
        assert last == pytest.approx(5.0, abs=0.1)  # 5000 bytes at 1000 a second


def test_a_full_queue_drops_and_drains() -> None:
    a, b = Link("a", up=1000.0), Link("b")
    sent = [moved(a, b, 1000, 0.0) for _ in range(400)]
    assert sent.count(None) == a.dropped == 400 - QUEUE // 1000 - 1
    assert moved(a, b, 1000, 10_000.0) == pytest.approx(10_001.0)


def test_a_fraction_is_lost_at_each_end() -> None:
    a, b = Link("a", loss=0.1), Link("b", loss=0.1)
    lost = [moved(a, b, 100, 0.0) for _ in range(5000)].count(None)
    assert lost == a.dropped + b.dropped
    assert 0.15 < lost / 5000 < 0.23


def test_deaf_to_one_is_not_deaf_to_all_nor_mute() -> None:
    a, b, c = Link("a"), Link("b", deaf_to={"a"}), Link("c")
    assert moved(a, b, 100, 0.0) is None
    assert moved(b, a, 100, 0.0) == moved(c, b, 100, 0.0) == 0.0


def test_a_home_is_read_from_toml(tmp_path: Path) -> None:
    path = tmp_path / "home.toml"
    path.write_text('[[machine]]\nname = "attic"\n[[machine]]\nname = "cellar"\ndelay = 5\n')
    assert read_machines(path) == [Machine("attic"), Machine("cellar", delay=5)]
    for wrong in (
        "",
        '[[machine]]\nname = "a"\nwifi = 3\n',
        '[[machine]]\nname = "a"\n' * 2,
        '[[machine]]\nname = "much too long"\n',
        '[[machine]]\nname = "a"\nloss = 2\n',
        '[[machine]]\nname = "a"\ndelay = -1\n',
    ):
        path.write_text(wrong)
        with pytest.raises(ValueError, match=r"machine"):
            read_machines(path)
