"""Who takes the place of a stage that is lost."""

from dataclasses import replace

import pytest

from hearthring.client import replacement
from hearthring.client.route import find_cover, find_route
from hearthring.protocol.errors import NoRoute
from hearthring.protocol.records import NodeRecord
from tests.offers import (
    CLASS,
    LAYERS,
    OTHER_CLASS,
    node,
    stages,
)


def test_a_replacement_has_the_class_asked_for() -> None:
    records = [
        node("dead", (2, 4)),
        node("other", (2, 4), seconds=0.1, fingerprint=OTHER_CLASS),
        node("wide", (2, 4), seconds=0.1, residual="fp32"),
        node("first", (0, 3), seconds=2.0),
        node("second", (3, 6)),
    ]
    given = {"residual": "fp16", "fingerprint": CLASS, "avoid": frozenset({"dead"})}
    assert stages(find_cover(records, 2, 4, **given)) == [("first", 2, 3), ("second", 3, 4)]
    given["fingerprint"] = ""
    assert stages(find_cover(records, 2, 4, **given)) == [("other", 2, 4)]
    given["fingerprint"] = "cc" * 32
    with pytest.raises(NoRoute, match="don't match"):
        find_cover(records, 2, 4, **given)
    with pytest.raises(NoRoute, match=r"layers \[4, 6\) of 8"):
        find_cover(records[:4], 2, 6, whole=8)


async def test_of_nodes_that_failed_whoever_was_lost_a_moment_ago_comes_last() -> None:
    records = [node("first", (0, 2)), node("lost", (2, 6)), node("worse", (2, 6))]

    async def look(again: bool) -> list[NodeRecord]:
        return records

    spares = replacement.Spares(look, LAYERS, 10)
    for name in ("lost", "worse", "worse", "worse"):
        spares.avoided.add(name)
    old = find_route(records[:2], LAYERS)
    assert stages(await spares.instead(old, frozenset(old[1:]), True, True))[1][0] == "worse"
    spares.avoided.convict("worse")
    assert stages(await spares.instead(old, frozenset(old[1:]), True, True))[1][0] == "lost"


async def test_another_class_is_tried_again_too_once_all_have_failed() -> None:
    """It may only have been slow, and whoever is of the right class may be gone for good."""
    slow = node("slow", (2, 6), fingerprint=OTHER_CLASS)
    records = [node("first", (0, 2)), node("dead", (2, 6)), slow]

    async def look(again: bool) -> list[NodeRecord]:
        return records

    old = find_route(records[:2], LAYERS)
    for any_class, expected in ((True, "slow"), (False, "dead")):
        spares = replacement.Spares(look, LAYERS, 10, any_class=any_class)
        for name in ("slow", "dead", "dead"):
            spares.avoided.add(name)
        found = await spares.instead(old, frozenset(old[1:]), True, True)
        assert stages(found)[1][0] == expected


async def test_who_failed_a_moment_ago_comes_after_who_failed_more_often_long_ago() -> None:
    now = [1000.0]
    records = [node("first", (0, 2)), node("late", (2, 6)), node("often", (2, 6))]
    avoided = replacement.Avoided(lambda: now[0])

    async def look(again: bool) -> list[NodeRecord]:
        return records

    spares = replacement.Spares(look, LAYERS, 10, avoided)
    for _ in range(3):
        avoided.add("often")
    old = find_route(records[:2], LAYERS)
    now[0] += 50
    avoided.add("late")
    assert avoided.weight("first") == 1.0
    assert avoided.weight("often") > avoided.weight("late") > 0.0
    other = frozenset(replace(stage, node="gone") for stage in old[1:])
    route = (old[0], *other)
    assert stages(await spares.instead(route, other, False, True))[1][0] == "often"


async def test_the_directory_is_asked_only_if_nobody_known_is_left() -> None:
    """Who failed before is known to be there, or refuses at once; asking may take seconds."""
    records = [node("first", (0, 2)), node("lost", (2, 6)), node("failed", (2, 6))]
    asked = list[bool]()

    async def look(again: bool) -> list[NodeRecord]:
        asked.append(again)
        return records

    spares = replacement.Spares(look, LAYERS, 10)
    old = find_route(records[:2], LAYERS)
    for name in ("lost", "failed"):
        spares.avoided.add(name)
    assert stages(await spares.instead(old, frozenset(old[1:]), False, True))[1][0] == "failed"
    assert asked == [False]
    spares.avoided.convict("failed")
    assert stages(await spares.instead(old, frozenset(old[1:]), False, True))[1][0] == "lost"
    assert asked == [False, False, True]


async def test_who_was_to_come_in_an_attempt_that_another_let_fail_is_taken_again() -> None:
    """Of two lost stages the newcomer for the first has done nothing wrong."""
    records = [
        *(node(name, (0, 2)) for name in ("dead first", "newcomer")),
        *(node(name, (2, 6)) for name in ("dead second", "spare")),
    ]

    async def look(again: bool) -> list[NodeRecord]:
        return records

    spares = replacement.Spares(look, LAYERS, 10)
    for name in ("dead first", "dead second"):
        spares.avoided.add(name)
    half = find_route([node("newcomer", (0, 2)), node("dead second", (2, 6))], LAYERS)
    found = await spares.instead(half, frozenset(half), False, True)
    assert [name for name, _, _ in stages(found)] == ["newcomer", "spare"]
