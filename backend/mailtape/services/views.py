"""Signed links to one message, for frames that cannot send a header.

A link is a right to read one message for ten minutes, given to whoever may read it anyway. It
holds organisation, message and expiry in the clear and an HMAC over them; nothing is kept, so a
link cannot be taken back, which is why it is short. The key is derived from the installation's
secret under a label of its own, so that no signature made for another purpose ever fits.
"""

import base64
import binascii
import hashlib
import hmac
from dataclasses import dataclass

from mailtape.domain.errors import NotFound
from mailtape.domain.ids import MessageId, OrganisationId

LIFETIME_SECONDS = 600

_LABEL = b"mailtape view link 1"
_FACTS_OCTETS = 16 + 16 + 6
_TAG_OCTETS = 16
"""Half of SHA-256's output, the least that RFC 2104 (section 5) allows: 128 bits to guess."""
_CHARACTERS = (_FACTS_OCTETS + _TAG_OCTETS) * 4 // 3
"""54 octets are 72 characters of base64url, without padding."""


@dataclass(frozen=True, slots=True)
class View:
    """What a link gives the right to."""

    organisation_id: OrganisationId
    message_id: MessageId


def sign(secret: str, view: View, *, now_s: int) -> str:
    """Write a link's signature, good from now for `LIFETIME_SECONDS`; `[A-Za-z0-9_-]` only."""
    expiry = (now_s + LIFETIME_SECONDS).to_bytes(6, "big")
    facts = view.organisation_id + view.message_id + expiry
    return base64.urlsafe_b64encode(facts + _tag(secret, facts)).decode()


def read(secret: str, signature: str, *, now_s: int) -> View:
    """Check a link's signature and say what it is for.

    Raises:
        NotFound: it is not one of ours, or has expired: never told apart.
    """
    octets = _decode(signature)
    facts, tag = octets[:_FACTS_OCTETS], octets[_FACTS_OCTETS:]
    if not hmac.compare_digest(tag, _tag(secret, facts)):
        raise _no_link()
    if int.from_bytes(facts[32:], "big") < now_s:
        raise _no_link()
    return View(OrganisationId(facts[:16]), MessageId(facts[16:32]))


def _tag(secret: str, facts: bytes) -> bytes:
    key = hmac.digest(secret.encode(), _LABEL, hashlib.sha256)
    return hmac.digest(key, facts, hashlib.sha256)[:_TAG_OCTETS]


def _decode(signature: str) -> bytes:
    if len(signature) != _CHARACTERS:
        raise _no_link()
    try:
        return base64.b64decode(signature.encode("ascii"), altchars=b"-_", validate=True)
    except (ValueError, binascii.Error):
        raise _no_link() from None


def _no_link() -> NotFound:
    return NotFound("This link is not valid or has expired; open the message for a new one.")
