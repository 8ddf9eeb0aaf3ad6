"""Organisations: the tenants, and the one DNS label each of them is known by."""

import re
import secrets
import unicodedata
from collections.abc import Iterator

LONGEST_SLUG = 40
"""A DNS label may have 63 octets (RFC 1035, section 2.3.4); the rest is left for a number."""

# fmt: off
_RESERVED = frozenset({
    "abuse", "admin", "api", "app", "assets", "autoconfig", "autodiscover", "billing", "blog",
    "cdn", "console", "docs", "ftp", "help", "hostmaster", "imap", "internal", "ldap", "local",
    "localhost", "lmtp", "login", "mail", "mta-sts", "mx", "noreply", "ns", "ns1", "ns2", "pop",
    "pop3", "postmaster", "root", "security", "smtp", "staging", "static", "status", "support",
    "system", "test", "view", "webmail", "webmaster", "wpad", "ws", "www",
})
# fmt: on
"""Names that people and programs take for the installation's own."""

_NUMBERED_TRIES = 5


def slug_of(name: str) -> str:
    """Make a DNS label of a name: letters and digits of ASCII, single hyphens between."""
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    label = re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:LONGEST_SLUG].strip("-")
    return label or "organisation"


def slugs_for(name: str) -> Iterator[str]:
    """Propose slugs for a new organisation, the best one first, without end."""
    slug = slug_of(name)
    if slug not in _RESERVED:
        yield slug
    for number in range(2, 2 + _NUMBERED_TRIES):
        yield f"{slug}-{number}"
    while True:
        yield f"{slug}-{secrets.token_hex(4)}"
