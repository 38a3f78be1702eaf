"""Options of a wrong kind are named, whoever calls."""

from typing import Any

import numpy as np
import pytest

from hearthring.client.request import Request
from hearthring.protocol.errors import BadOption


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("stop", 5),
        ("stop", None),
        ("stop", [b"x"]),
        ("prompt_ids", 5),
        ("prompt_ids", ["a"]),
        ("prompt_ids", [1.5]),
        ("spot_check", "x"),
        ("spot_check", None),
        ("spot_check", 1.5),
    ],
)
def test_what_an_option_can_not_be_is_named(name: str, value: Any) -> None:
    options: Any = {"prompt_ids": [1], name: value}
    with pytest.raises(BadOption) as caught:
        Request.read(None, options)
    assert caught.value.field == name


def test_ids_may_be_any_integers() -> None:
    request = Request.read(None, {"prompt_ids": np.arange(3), "stop": ["a", "b"]})  # type: ignore[typeddict-item]
    assert (request.prompt_ids, request.stop) == ((0, 1, 2), ("a", "b"))
    assert all(type(token) is int for token in request.prompt_ids or ())
