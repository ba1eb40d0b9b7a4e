"""Addresses of devices, as the user writes them: ``host``, ``ssh://[user@]host[:port]``, ``adb``, ``adb://SERIAL``.

Every part ends up among the arguments of ``ssh`` or ``adb``, and a host's name perhaps in a ``ProxyCommand`` of the
user's configuration, which a shell reads. So the parts hold no character that any of these could take for its own.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

from tofe_edge.errors import InputError

_USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,63}")
_HOST = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,252}")
_ZONE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,14}")
_PORT = re.compile(r"[0-9]{1,5}")
# A second service of one name on a network is called "adb-X (2)._adb-tls-connect._tcp"; no other blanks are known.
_SERIAL = re.compile(r"[A-Za-z0-9\[][A-Za-z0-9_.:%\[\]-]{0,127}( \([0-9]{1,3}\)[A-Za-z0-9_.:%\[\]-]{0,64})?")
_FORMS = "host, ssh://[USER@]HOST[:PORT], adb or adb://SERIAL"


@dataclass(frozen=True)
class ThisHost:
    """The machine that this runs on."""

    def __str__(self) -> str:
        return "host"


@dataclass(frozen=True)
class SshAddress:
    """A machine that the system's ssh reaches."""

    host: str
    """A name, an alias in the user's ssh configuration, or an IP address; IPv6 without brackets."""
    user: str | None = None
    port: int | None = None

    def __str__(self) -> str:
        user = f"{self.user}@" if self.user else ""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"ssh://{user}{host}" + (f":{self.port}" if self.port else "")


@dataclass(frozen=True)
class AdbAddress:
    """An Android device that adb reaches."""

    serial: str | None = None
    """As ``adb devices`` lists it; None: the only one there is."""

    def __str__(self) -> str:
        return f"adb://{self.serial}" if self.serial else "adb"


Address = ThisHost | SshAddress | AdbAddress


def parse_address(text: str) -> Address:
    """Return the address that a user wrote; ``str`` of it is the same text again.

    Raises:
        InputError: it is not an address, or has a part that ssh, adb or a shell could take for something else.
    """
    if text == "host":
        return ThisHost()
    if text == "adb":
        return AdbAddress()
    scheme, _, rest = text.partition("://")
    if scheme == "ssh":
        return _ssh(text, rest)
    if scheme == "adb":
        if not _SERIAL.fullmatch(rest) or ".." in rest:
            raise _refused(text, "it is not a serial number; `adb devices` lists them")
        return AdbAddress(rest)
    raise _refused(text, f"must be {_FORMS}")


def _ssh(text: str, rest: str) -> SshAddress:
    user, at, place = rest.rpartition("@")
    if at and not _is_name(_USER, user):
        raise _refused(text, "the user's name may only have letters, digits and _ . + -, and not begin with - or .")
    if place.startswith("["):
        host, bracket, tail = place[1:].partition("]")
        if not bracket or not _is_ipv6(host):
            raise _refused(text, "what is in brackets is not an IPv6 address")
        separator, port = tail[:1], tail[1:]
    else:
        host, separator, port = place.partition(":")
        if ":" in port:
            raise _refused(text, "an IPv6 address goes in brackets: ssh://[::1]:22")
        if not _is_name(_HOST, host):
            raise _refused(text, "the host's name may only have letters, digits and _ . -, and not begin with - or .")
    if separator not in ("", ":") or (separator and not _is_port(port)):
        raise _refused(text, "after the host only a colon and a port from 1 to 65535 may follow")
    return SshAddress(host, user or None, int(port) if separator else None)


def _is_name(pattern: re.Pattern[str], text: str) -> bool:
    return pattern.fullmatch(text) is not None and ".." not in text


def _is_ipv6(text: str) -> bool:
    number, percent, zone = text.partition("%")
    if percent and not _ZONE.fullmatch(zone):
        return False
    try:
        ipaddress.IPv6Address(number)
    except ValueError:
        return False
    return True


def _is_port(text: str) -> bool:
    return _PORT.fullmatch(text) is not None and 1 <= int(text) <= 65535 and not text.startswith("0")


def _refused(text: str, why: str) -> InputError:
    return InputError(f"device {text!r}: {why}")
