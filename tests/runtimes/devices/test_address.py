"""Addresses: what is read, and what nobody may pass on to ssh or adb."""

import re
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tofe_edge.errors import InputError
from tofe_edge.runtimes.devices.address import AdbAddress, Address, SshAddress, ThisHost, parse_address

FIRST = string.ascii_letters + string.digits + "_"
NAMES = st.builds(str.__add__, st.sampled_from(FIRST), st.text(FIRST + ".-", max_size=20)).filter(
    lambda one: ".." not in one
)
PORTS = st.integers(1, 65535)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("host", ThisHost()),
        ("adb", AdbAddress()),
        ("adb://R58M12ABCDE", AdbAddress("R58M12ABCDE")),
        ("adb://192.168.1.5:5555", AdbAddress("192.168.1.5:5555")),
        ("adb://adb-3A1-x._adb-tls-connect._tcp", AdbAddress("adb-3A1-x._adb-tls-connect._tcp")),
        ("adb://adb-X (2)._adb-tls-connect._tcp", AdbAddress("adb-X (2)._adb-tls-connect._tcp")),
        ("ssh://pi", SshAddress("pi")),
        ("ssh://pi@kitchen.local:2222", SshAddress("kitchen.local", "pi", 2222)),
        ("ssh://[::1]:22", SshAddress("::1", None, 22)),
        ("ssh://me@[fe80::1%eth0]", SshAddress("fe80::1%eth0", "me")),
    ],
)
def test_addresses_are_read(text: str, address: Address) -> None:
    assert parse_address(text) == address
    assert str(address) == text


@given(st.none() | NAMES, NAMES | st.ip_addresses(v=6).map(str), st.none() | PORTS)
def test_an_address_is_its_text(user: str | None, host: str, port: int | None) -> None:
    address = SshAddress(host, user, port)
    assert parse_address(str(address)) == address


@pytest.mark.parametrize(
    "text",
    [
        "", "Host", "hosts", "adb:", "adb://", "ssh", "ssh:", "ssh://", "ssh:///", "ssh://@host", "ssh://user@", "telnet://pi",
        "ssh://-oProxyCommand=x", "ssh://pi@-oProxyCommand=x", "ssh://-l@pi", "adb://-s", "adb://-", "SSH://pi",
        "ssh://pi:", "ssh://pi:0", "ssh://pi:022", "ssh://pi:65536", "ssh://pi:22:22", "ssh://pi:22/", "ssh://pi/path", "ssh://pi:٢٢",
        "ssh://::1", "ssh://[::1", "ssh://[::1]22", "ssh://[pi]", "ssh://[::1%]", "ssh://[::1%a;b]", "ssh://[-1]",
        "ssh://a..b", "ssh://u..v@a", "adb://a..b", "ssh://u:secret@pi", "ssh://a@b@c", " host", "host\n", "adb\n", "ssh://pi\n",
        "ssh://pi\0", "adb://a\0", "ssh://$(id)", "ssh://`id`@pi", "ssh://pi;id",
        "adb://a b", "adb://a (b)", "adb://a (2) ", "adb://a (2) (3)", "adb://a'b", 'ssh://a"b', "ssh://pï",
    ],
)  # fmt: skip
def test_what_is_no_address_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(InputError):
        parse_address(text)


@given(st.sampled_from(["", "ssh://", "ssh://me@", "ssh://me@[", "adb://"]), st.text(max_size=30))
def test_whatever_is_accepted_is_harmless(scheme: str, text: str) -> None:
    try:
        address = parse_address(scheme + text)
    except InputError:
        return
    parts = [part for part in (getattr(address, name, None) for name in ("host", "user", "serial")) if part is not None]
    for part in parts:
        assert part
        assert part[0] not in "-."
        assert ".." not in part
        assert set(re.sub(r" \([0-9]+\)", "", part, count=1)) <= set(FIRST + ".+-:%[]")


@given(
    st.sampled_from(["ssh://{}", "ssh://{}@pi", "ssh://pi:{}", "adb://{}"]),
    st.text(FIRST, max_size=5),
    st.text(FIRST, max_size=5),
)
def test_no_character_of_a_shell_passes_anywhere(form: str, before: str, after: str) -> None:
    for character in " \t\n\0'\"`$;&|<>()*?!#~\\{}=,^/":
        if form == "adb://{}" or character != "/" or "@" in form:
            with pytest.raises(InputError):
                parse_address(form.format(before + character + after))
