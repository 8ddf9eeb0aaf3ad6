"""XFORWARD: what a relay in front tells about the client it had the mail from.

An extension of Postfix (its XFORWARD_README). Of its seven attributes three are kept; all must be
well-formed. Values come as xtext (RFC 3461, section 4). Once a relay has said anything, what it
did not say is unknown: it is never filled with facts about the relay itself.
"""

import re
from dataclasses import dataclass, replace
from ipaddress import ip_address

ATTRIBUTES = ("NAME", "ADDR", "PORT", "PROTO", "HELO", "IDENT", "SOURCE")
VALUE_OCTETS = 255
"""As in Postfix."""

_UNKNOWN = frozenset({"[UNAVAILABLE]", "[TEMPUNAVAIL]"})
_XTEXT = re.compile(r"(?:[!-*,-~]|\+[0-9A-Fa-f]{2})*")
# RFC 3461 has "=" encoded; here nothing is split at a second one, so it does no harm.


@dataclass(frozen=True, slots=True)
class Forwarded:
    """The facts that are kept; empty when the relay does not know."""

    client_address: str = ""
    """IPv4 or IPv6 in its usual form."""
    helo: str = ""
    queue_id: str = ""
    """The name of the mail at the relay (IDENT)."""


def read(argument: str, known: Forwarded) -> Forwarded | None:
    """Add what one command says to what was known; None when it is malformed."""
    words = argument.split()
    if not words:
        return None
    for word in words:
        attribute, equals, text = word.partition("=")
        value = _value(text)
        if not equals or value is None:
            return None
        match attribute.upper():
            case "ADDR":
                address = _address(value)
                if address is None:
                    return None
                known = replace(known, client_address=address)
            case "HELO":
                known = replace(known, helo=value)
            case "IDENT":
                known = replace(known, queue_id=value)
            case "NAME" | "PORT" | "PROTO" | "SOURCE":
                pass
            case _:
                return None
    return known


def _value(text: str) -> str | None:
    """Decode a value; empty for an unknown one, None when it is malformed."""
    if text.upper() in _UNKNOWN:
        return ""
    if not _XTEXT.fullmatch(text):
        return None
    octets = re.sub(
        rb"\+(..)", lambda found: bytes.fromhex(found[1].decode("ascii")), text.encode("ascii")
    )
    if len(octets) > VALUE_OCTETS:
        return None
    try:
        value = octets.decode()
    except UnicodeDecodeError:
        return None
    return value if value.isprintable() else None


def _address(value: str) -> str | None:
    """Read `192.0.2.1` or `IPV6:2001:db8::1`, as RFC 5321, section 4.1.3 writes literals."""
    if not value:
        return ""
    if value[:5].upper() == "IPV6:":
        value = value[5:]
    try:
        return str(ip_address(value))
    except ValueError:
        return None
