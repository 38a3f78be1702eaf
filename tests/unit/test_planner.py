"""Which layers a node takes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hearthring.shards.planner import layers_that_fit, worst_served


def test_the_first_node_takes_the_first_layers() -> None:
    assert worst_served([0, 0, 0, 0], 2) == (0, 2)
    assert worst_served([0], 1) == (0, 1)


def test_a_node_goes_where_nobody_serves() -> None:
    assert worst_served([1, 1, 0, 1], 1) == (2, 3)
    assert worst_served([1, 1, 0, 0, 1], 2) == (2, 4)
    assert worst_served([2, 1, 1, 2], 2) == (1, 3)
    assert worst_served([1, 1, 1, 0.5], 3) == (1, 4)


def test_windows_with_equal_worst_layers_differ_by_the_next() -> None:
    assert worst_served([0, 2, 0, 1], 2) == (2, 4)


@given(st.lists(st.integers(0, 3), min_size=1, max_size=12), st.data())
def test_no_window_holds_a_worse_served_layer(service: list[int], data: st.DataObject) -> None:
    length = data.draw(st.integers(1, len(service)))
    start, end = worst_served(service, length)
    assert 0 <= start < end <= len(service)
    assert end - start == length
    assert min(service[start:end]) == min(service)
    for other in range(len(service) - length + 1):
        window = sorted(service[other : other + length])
        assert (sorted(service[start:end]), start) <= (window, other)


@given(st.integers(1, 8), st.integers(1, 8))
def test_nodes_that_join_one_by_one_cover_every_layer(layers: int, length: int) -> None:
    length = min(length, layers)
    service = [0] * layers
    for _ in range(-(-layers // length) * 2):
        start, end = worst_served(service, length)
        for layer in range(start, end):
            service[layer] += 1
    assert min(service) >= 1


@pytest.mark.parametrize("length", [-1, 0, 4])
def test_a_window_must_fit(length: int) -> None:
    with pytest.raises(ValueError, match=f"a window of {length} in 3 layers"):
        worst_served([0, 0, 0], length)


def test_a_device_takes_what_half_its_memory_holds_and_at_least_one_layer() -> None:
    assert layers_that_fit(100, 30, 2_000) == 10
    assert layers_that_fit(100, 30, 2_199) == 10
    assert layers_that_fit(100, 30, 100_000) == 30
    assert layers_that_fit(100, 30, 0) == 1
    assert layers_that_fit(100, 30, 2_000, most=4) == 4
    assert layers_that_fit(0, 30, 2_000) == 30
