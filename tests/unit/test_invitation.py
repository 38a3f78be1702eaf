"""Invitations go out and come back the same; everything else is named."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hearthring.protocol.errors import BadInvitation
from hearthring.protocol.identity import node_id_of
from hearthring.protocol.invitation import (
    OPEN_SWARM,
    Invitation,
    join_address,
    key_of,
    split_address,
    swarm_id,
)

NODE = node_id_of(bytes(range(32)))
HOSTS = ["127.0.0.1", "home.example", "localhost", "::1", "2001:db8::7", "fe80::1%eth0"]


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("key", [None, b"k" * 32, b"\0" * 32])
def test_an_invitation_comes_back_the_same(host: str, key: bytes | None) -> None:
    invitation = Invitation(host, 4870, NODE, key)
    assert Invitation.parse(str(invitation)) == invitation
    assert Invitation.parse(f"  invitation {invitation}\n") == invitation
    assert split_address(invitation.address) == (host, 4870)


def test_it_looks_as_documented() -> None:
    assert str(Invitation("home", 7, NODE)) == f"hearthring://home:7/{NODE}"
    assert str(Invitation("::1", 7, NODE, b"\xab" * 2)) == f"hearthring://[::1]:7/{NODE}?key=abab"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "doesn't begin with"),
        ("home:7", "doesn't begin with"),
        (f"https://home:7/{NODE}", "doesn't begin with"),
        (f"hearthring:home:7/{NODE}", "no HOST:PORT"),
        (f"hearthring://home/{NODE}", "no HOST:PORT"),
        (f"hearthring://:7/{NODE}", "no HOST:PORT"),
        (f"hearthring://home:0/{NODE}", "no HOST:PORT"),
        (f"hearthring://home:x/{NODE}", "don't parse"),
        (f"hearthring://home:65536/{NODE}", "don't parse"),
        (f"hearthring://[::1:7/{NODE}", "don't parse"),
        (f"hearthring://somebody@home:7/{NODE}", "no HOST:PORT"),
        ("hearthring://home:7", "no node id"),
        ("hearthring://home:7/", "no node id"),
        (f"hearthring://home:7/{NODE[:-1]}", "no node id"),
        (f"hearthring://home:7/{NODE}/more", "no node id"),
        (f"hearthring://home:7/{NODE} or so", "no node id"),
        (f"hearthring://home:7/{NODE}?key=xyz", "key isn't hexadecimal"),
        (f"hearthring://home:7/{NODE}?key=", "the key is missing"),
        (f"hearthring://home:7/{NODE}?key=ab&key=x", "key isn't hexadecimal"),
    ],
)
def test_what_is_wrong_is_said(text: str, why: str) -> None:
    with pytest.raises(BadInvitation, match=why) as caught:
        Invitation.parse(text)
    assert caught.value.field == "invitation"
    assert caught.value.exit_code == 64


@given(st.text(max_size=80))
def test_no_text_raises_anything_else(text: str) -> None:
    for whole in (text, f"hearthring://{text}", f"hearthring://{text}/{NODE}"):
        try:
            Invitation.parse(whole)
        except BadInvitation:
            continue


@pytest.mark.parametrize(
    "address",
    [
        "",
        "home",
        "home:",
        ":7",
        "home:x",
        "home:-1",
        "home:65536",
        "a:b:7",
        "::1:7",
        "[::1]",
        "home:7/path",
        "home:7?query",
        "home:7#part",
        "who@home:7",
        "ho\nme:7",
        " home:7",
        "home:7 ",
    ],
)
def test_an_address_is_host_and_port_and_nothing_else(address: str) -> None:
    with pytest.raises(BadInvitation, match="is not HOST:PORT") as caught:
        split_address(address, "listen")
    assert caught.value.field == "listen"


@given(st.sampled_from(HOSTS), st.integers(0, 65535))
def test_addresses_split_as_they_were_joined(host: str, port: int) -> None:
    assert split_address(join_address(host, port)) == (host, port)


def test_invitations_are_to_one_swarm() -> None:
    seeds = [Invitation("a", 1, NODE, key) for key in (None, b"k", b"k")]
    assert key_of([]) is None
    assert key_of([], b"k") == b"k"
    assert key_of(seeds[:1], b"k") == b"k"
    assert key_of(seeds) == b"k"
    with pytest.raises(BadInvitation, match="several swarms"):
        key_of(seeds, b"j")


def test_a_swarms_name_does_not_reveal_its_key() -> None:
    key = b"k" * 32
    assert swarm_id(None) == OPEN_SWARM
    assert swarm_id(key) == swarm_id(key) != swarm_id(b"j" * 32)
    assert key.hex() not in swarm_id(key)
