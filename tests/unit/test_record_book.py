"""Nobody brings an older record back, by whatever way it comes."""

from dataclasses import replace

from hearthring.protocol import record_book
from hearthring.protocol.identity import Identity
from hearthring.protocol.record_book import RecordBook
from hearthring.protocol.records import NodeRecord, sign

WHO, OTHER = Identity.new(), Identity.new()
MODEL, SECOND = "ab" * 32, "cd" * 32


def record(sequence: int, who: Identity = WHO, expires: float = 100.0) -> NodeRecord:
    return NodeRecord(who.node_id, MODEL, ((0, 2),), ("h:1",), expires=expires, sequence=sequence)


def book(now: float = 0.0) -> RecordBook:
    return RecordBook(lambda: now)


def test_a_replayed_record_is_refused_and_the_newest_may_come_again() -> None:
    reader, old, new = book(), sign(record(1), WHO), sign(record(2), WHO)
    assert reader.read([old], MODEL) == [record(1)]
    assert reader.read([new], MODEL) == [record(2)]
    assert reader.read([old], MODEL) == []
    assert reader.read([old, new], MODEL) == [record(2)]
    assert reader.read([new], MODEL) == [record(2)]


def test_a_node_that_left_is_not_brought_back() -> None:
    reader = book()
    assert reader.read([sign(record(1), WHO)], MODEL) == [record(1)]
    assert reader.read([sign(record(1).withdrawn(), WHO)], MODEL) == []
    assert reader.read([sign(record(1), WHO)], MODEL) == []
    assert reader.read([sign(record(9), WHO)], MODEL) == [record(9)]


def test_a_record_of_before_an_upgrade_can_not_downgrade_a_node() -> None:
    reader, upgraded = book(), replace(record(2), version=2)
    assert reader.read([sign(upgraded, WHO)], MODEL) == [upgraded]
    assert reader.read([sign(record(1), WHO)], MODEL) == []


def test_nodes_and_models_have_sequences_of_their_own() -> None:
    reader, elsewhere = book(), replace(record(1), model_id=SECOND)
    assert reader.read([sign(record(5), WHO)], MODEL) == [record(5)]
    assert reader.read([sign(record(1, OTHER), OTHER)], MODEL) == [record(1, OTHER)]
    assert reader.read([sign(elsewhere, WHO)], SECOND) == [elsewhere]


def test_what_has_expired_is_not_shown_though_it_is_new() -> None:
    assert book(now=100.0).read([sign(record(1), WHO)], MODEL) == []


def test_memory_is_bounded(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(record_book, "NODES", 3)
    now = [0.0]
    reader = RecordBook(lambda: now[0])
    people = [Identity.new() for _ in range(5)]
    for who in people:
        reader.read([sign(record(2, who), who)], MODEL)
    assert len(reader._seen) == 3
    assert reader.read([sign(record(1, people[-1]), people[-1])], MODEL) == []
    now[0] = 200.0
    for who in people[:4]:
        reader.read([sign(record(2, who, expires=300.0), who)], MODEL)
    assert len(reader._seen) == 3
