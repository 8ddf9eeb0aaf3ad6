"""Addresses: taken, listed and given up.

An address that was ever an organisation's is never another's: mail that is still under way to it
must not reach strangers. Its own organisation may take it back, and finds it under its old id.
"""

import re
import secrets
from collections.abc import Sequence
from datetime import datetime

from mailtape.domain import address, ids
from mailtape.domain.errors import Conflict, Forbidden, Invalid, NotFound
from mailtape.domain.ids import AddressId, OrganisationId
from mailtape.rows import addresses, organisations, tiers
from mailtape.rows.addresses import Address
from mailtape.rows.database import Database, Session
from mailtape.services.recipients import Recipients

_ALPHABET = "abcdefghijkmnpqrstuvwxyz23456789"
"""Without what is taken for another when it is read aloud or copied by hand."""
_MADE_UP_CHARACTERS = 12
"""Sixty bits: nobody guesses one, and no two are made alike."""

_CHOSEN = re.compile(r"[a-z0-9](?:[a-z0-9._-]*[a-z0-9])?")
"""Stricter than RFC 5321: what people write without quotes and programs without escapes."""

_RESERVED = frozenset(
    {"abuse", "hostmaster", "mailer-daemon", "noc", "postmaster", "root", "security", "webmaster"}
)
"""Addresses by which a domain's operator is reached (RFC 2142)."""


async def create(
    database: Database,
    recipients: Recipients,
    organisation_id: OrganisationId,
    *,
    local_part: str | None,
    domain: str,
    now: datetime,
) -> Address:
    """Take an address at our domain; it takes mail from this moment on.

    Raises:
        Invalid: the local part is none, or has a plus-tag.
        Conflict: `address_taken`, also by somebody who has given it up.
        Forbidden: `tier_limit_reached`.
    """
    name = _made_up() if local_part is None else _checked(local_part, domain)
    row = await database.write(_create, organisation_id, f"{name}@{domain}", now)
    recipients.forget()
    return row


async def find(
    database: Database, organisation_id: OrganisationId, *, after: bytes | None, most: int
) -> Sequence[Address]:
    """List the organisation's addresses, newest first."""
    return await database.read(addresses.live, organisation_id, after, most)


async def delete(
    database: Database,
    recipients: Recipients,
    organisation_id: OrganisationId,
    address_id: AddressId,
    *,
    now: datetime,
) -> None:
    """Give an address up; it takes no mail from this moment on.

    Raises:
        NotFound: the organisation has no live one of this id.
    """
    if not await database.write(addresses.delete, organisation_id, address_id, now):
        raise NotFound("There is no such address.")
    recipients.forget()


def _create(
    session: Session, organisation_id: OrganisationId, wanted: str, now: datetime
) -> Address:
    organisation = organisations.lock(session, organisation_id)
    known = addresses.find(session, wanted)
    if known is not None and (known.organisation_id != organisation_id or known.deleted_at is None):
        raise Conflict("This address is taken.", code="address_taken")
    tier = tiers.find(session, organisation.tier)
    most = tier.limits.addresses if tier else None
    if most is not None and addresses.count_live(session, organisation_id) >= most:
        raise Forbidden(
            f"Your tier allows {most} addresses, and you have them.", code="tier_limit_reached"
        )
    if known is not None:
        known.deleted_at = None
        return known
    row = Address(
        id=ids.new_id(int(now.timestamp() * 1000)),
        organisation_id=organisation_id,
        address=wanted,
        created_at=now,
        deleted_at=None,
    )
    session.add(row)
    return row


def _made_up() -> str:
    return "".join(secrets.choice(_ALPHABET) for _ in range(_MADE_UP_CHARACTERS))


def _checked(local_part: str, domain: str) -> str:
    name = local_part.lower()
    if "+" in name:
        raise _invalid("A plus-tag needs no address of its own: it reaches the one before it.")
    if not _CHOSEN.fullmatch(name) or ".." in name:
        raise _invalid("A local part has letters, digits, dots, hyphens and underscores.")
    if name in _RESERVED:
        raise Conflict("This address belongs to the operator.", code="address_taken")
    try:
        address.mailbox(f"{name}@{domain}")
    except Invalid as error:
        raise _invalid(error.message) from error
    return name


def _invalid(message: str) -> Invalid:
    return Invalid(message, code="address_syntax", field="local_part")
