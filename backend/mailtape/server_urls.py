"""Addresses of servers as they are set, read before any driver sees them.

Drivers differ in what they make of `/`, `#`, `@`, `:`, `?` and `%` in a password: some take the
password for a host or a port, and say so in words that hold a part of it. So only what RFC 3986
lets stand in each part is taken, which all of them read alike.
"""

import re
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv6Address

_MOST_PORTS = 65_535
_CODE = "%[0-9A-Fa-f]{2}"
_PLAIN = r"A-Za-z0-9._~!$&'()*,;=\-"
_LABEL = r"[A-Za-z0-9_-]{1,63}"
_HOST = re.compile(
    rf"(?:(?:{_LABEL}\.)*{_LABEL}\.?|\[(?P<v6>[0-9A-Fa-f:.]+)\])(?::(?P<port>[0-9]{{1,5}}))?"
)
_SOCKET = re.compile(rf"(?:[{_PLAIN}]|{_CODE})+\.sock")


@dataclass(frozen=True, slots=True)
class ServerUrl:
    """How the address of one kind of server is written."""

    schemes: tuple[str, ...]
    path: str
    """A regular expression of what may follow the first `/`."""
    extra: str = ""
    """Characters that stand for themselves in a user and a password, besides those of all."""
    many: bool = False
    """Whether it may name several servers, and sockets."""
    named: bool = False
    """Whether there is no password without a user."""

    def fits(self, url: str) -> bool:
        """Tell whether an address is written so."""
        word = f"(?:[{_PLAIN}{self.extra}]|{_CODE})"
        user = f"{word}+" if self.named else f"{word}*"
        found = re.fullmatch(
            rf"(?P<scheme>[a-z+]+)://(?:{user}(?::{word}*)?@)?(?P<hosts>[^/?#@]+)"
            rf"(?:/{self.path})?(?:\?(?:[{_PLAIN}+:/?]|{_CODE})*)?",
            url,
        )
        if found is None or found["scheme"] not in self.schemes:
            return False
        hosts = found["hosts"].split(",") if self.many else [found["hosts"]]
        return all(_is_host(host) or (self.many and _SOCKET.fullmatch(host)) for host in hosts)


AMQP = ServerUrl(("amqp", "amqps"), path=rf"(?:[{_PLAIN}+:/]|{_CODE})*", extra="+")
REDIS = ServerUrl(("redis", "rediss"), path="[0-9]{0,5}", extra="+")
MONGODB = ServerUrl(  # its driver reads `+` as a space
    ("mongodb", "mongodb+srv"), path=rf"(?:[{_PLAIN}+:]|{_CODE})*", many=True, named=True
)


def _is_host(text: str) -> bool:
    found = _HOST.fullmatch(text)
    if found is None:
        return False
    if found["v6"] is not None:
        try:
            IPv6Address(found["v6"])
        except AddressValueError:
            return False
    return found["port"] is None or 0 < int(found["port"]) <= _MOST_PORTS
