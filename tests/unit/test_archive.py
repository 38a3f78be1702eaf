"""What stages keep for audits: bounded in bytes and time, opened once to each asker."""

import pytest

from hearthring.node.archive import Archive, Record
from hearthring.protocol.errors import QuotaExceeded, Unauthenticated, UnknownSession
from hearthring.protocol.identity import Identity
from hearthring.protocol.limits import LIMITS
from hearthring.verify.grants import check_grant, grant

HOUR = [0.0]


def archive(limit: int = 100, window: float = 60.0) -> Archive:
    HOUR[0] = 0.0
    return Archive(limit, window, lambda: HOUR[0])


def record(client: str = "me", size: int = 10) -> Record:
    return Record(client, 2, bytes(size))


def test_a_record_lives_as_long_as_the_audit_window() -> None:
    kept = archive()
    kept.keep(b"a", record())
    HOUR[0] = 59.0
    kept.keep(b"b", record())
    assert kept.client_of(b"a") == "me"
    HOUR[0] = 60.0
    with pytest.raises(UnknownSession):
        kept.open(b"a", "me")
    assert (len(kept), kept.size) == (1, 10)


def test_it_is_opened_once_to_each_asker_and_not_to_many() -> None:
    kept = archive()
    kept.keep(b"a", record())
    assert kept.open(b"a", "me").wire == bytes(10)
    with pytest.raises(QuotaExceeded):
        kept.open(b"a", "me")
    for n in range(LIMITS.openings - 1):
        kept.open(b"a", f"verifier {n}")
    with pytest.raises(QuotaExceeded):
        kept.open(b"a", "one more")
    kept.keep(b"a", record())  # a later receipt of the session
    kept.open(b"a", "me")


def test_records_of_no_rows_are_not_kept() -> None:
    kept = archive()
    kept.keep(b"a", record())
    for n in range(1000):
        kept.keep(b"%d" % n, record(size=0))
    assert len(kept) == 1
    kept.keep(b"a", record(size=0))  # nor is what it would be instead of
    assert len(kept) == 0


def test_who_keeps_most_loses_the_oldest_first() -> None:
    kept = archive()
    kept.keep(b"mine", record("me", 20))
    for n in range(20):
        kept.keep(b"%d" % n, record("greedy", 15))
    assert kept.size <= 100
    assert kept.client_of(b"mine") == "me"
    assert kept.client_of(b"19") == "greedy"
    with pytest.raises(UnknownSession):
        kept.client_of(b"3")
    kept.keep(b"huge", record("huge", 101))
    assert kept.client_of(b"mine") == "me"
    with pytest.raises(UnknownSession):
        kept.client_of(b"huge")


def test_a_grant_is_for_one_session_node_and_holder_and_expires() -> None:
    client, other = Identity.new(), Identity.new()
    given = grant(client, b"s" * 16, "node", "holder")
    check_grant(given, client.node_id, b"s" * 16, "node", "holder")
    for session, node, holder in (
        (b"t" * 16, "node", "holder"),
        (b"s" * 16, "else", "holder"),
        (b"s" * 16, "node", "else"),
    ):
        with pytest.raises(Unauthenticated):
            check_grant(given, client.node_id, session, node, holder)
    with pytest.raises(Unauthenticated):
        check_grant(given, other.node_id, b"s" * 16, "node", "holder")
    late = grant(client, b"s" * 16, "node", "holder", -1.0)
    with pytest.raises(Unauthenticated, match="expired"):
        check_grant(late, client.node_id, b"s" * 16, "node", "holder")
