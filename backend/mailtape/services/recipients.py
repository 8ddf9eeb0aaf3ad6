"""Where a mail goes: from a recipient's address to the organisation whose mail it is.

In this order: an address somebody has taken; the subdomain of an organisation whose tier has
`catch_all`; in capture mode the capturing organisation; else nobody. An address that its owner
has deleted is nobody's, in capture mode too: its mail must not reach a stranger.

Answers are remembered for a while, because a sender asks the same again and again. That somebody
is unknown is remembered for a few seconds only, and in a place of its own: who tries out a
dictionary costs one look-up a word and puts nobody who is known out of mind. Whoever changes
addresses, organisations or tiers calls `forget`; another process hears nothing of it, and knows
when its own memory has run out.

While the rows cannot be asked, who was known lately stays known for ten minutes: their mail can be
kept until it can be stored. Who was not is neither known nor unknown.
"""

import asyncio
import time
from collections import OrderedDict
from dataclasses import dataclass

from mailtape.domain.address import mailbox_of
from mailtape.domain.envelope import Delivery
from mailtape.domain.errors import Forbidden, NotFound, Unavailable
from mailtape.domain.ids import OrganisationId
from mailtape.domain.tier import Feature, Limits
from mailtape.rows import addresses, organisations, tiers
from mailtape.rows.database import Database, Session

_MOST_REMEMBERED = 10_000
_REMEMBERED_SECONDS = 60.0
_STALE_SECONDS = 600.0
"""How long somebody was known ago who is still known while the rows cannot be asked."""
_PATIENCE_SECONDS = 0.25
"""Rows that take longer cannot be asked about who is known: half of the policy daemon's time."""
_LEFT_ALONE_SECONDS = 1.0
"""After that they are not asked again about who is known: the first asker has waited for all."""
_MOST_UNKNOWN = 10_000
_UNKNOWN_SECONDS = 5.0
"""Short: a process that does not hear of a new address by `forget` refuses its mail for good."""


@dataclass(frozen=True, slots=True)
class Destination:
    """An accepted recipient, and what its organisation's tier allows."""

    delivery: Delivery
    limits: Limits


class Suspended(Forbidden):
    """The organisation of a recipient is suspended.

    Attributes:
        delivery: Where its mail would have gone.
    """

    code = "organisation_suspended"

    def __init__(self, delivery: Delivery) -> None:
        super().__init__("The organisation of this address is suspended.")
        self.delivery = delivery


@dataclass(frozen=True, slots=True)
class _Known:
    destination: Destination
    looked_up: float


class Recipients:
    """Resolves recipients, remembering the recent ones."""

    def __init__(self, database: Database, *, domain: str, capture: OrganisationId | None) -> None:
        self._database = database
        self._domain = domain.lower()
        self._capture = capture
        self._known: OrderedDict[str, _Known] = OrderedDict()
        self._unknown: OrderedDict[str, float] = OrderedDict()
        """Until when nobody's, in the order of that time."""
        self._generation = 0
        self._left_alone_until = 0.0

    async def resolve(self, address: str) -> Destination:
        """Find whose mail this recipient's is.

        Raises:
            NotFound: `address_unknown`, nobody's.
            Suspended: its organisation is.
            Unavailable: cannot tell at the moment; never taken for "unknown".
        """
        recipient = address.lower()
        known = self._known.get(recipient)
        now = time.monotonic()
        if known is not None and now < known.looked_up + _REMEMBERED_SECONDS:
            return known.destination
        if now < self._unknown.get(recipient, now):
            raise _unknown()
        if known is not None and now < known.looked_up + _STALE_SECONDS:
            return await self._look_up_again(recipient, known.destination, now)
        return await self._look_up(recipient, now)

    def remembered(self, address: str, *, stale: bool) -> Destination | None:
        """Tell whose mail this recipient's is, as long as that holds without asking the rows.

        It holds for longer, `stale`, while they cannot be asked.
        """
        known = self._known.get(address.lower())
        holds = _STALE_SECONDS if stale else _REMEMBERED_SECONDS
        if known is None or time.monotonic() >= known.looked_up + holds:
            return None
        return known.destination

    def forget(self) -> None:
        """Look everything up afresh from now on; call it after the commit."""
        self._generation += 1
        self._known.clear()
        self._unknown.clear()

    async def _look_up_again(self, recipient: str, known: Destination, now: float) -> Destination:
        """Look up somebody who was known; the same as then when the rows cannot be asked."""
        if now < self._left_alone_until:
            return known
        try:
            async with asyncio.timeout(_PATIENCE_SECONDS):
                return await self._look_up(recipient, now)
        except (Unavailable, TimeoutError):
            self._left_alone_until = time.monotonic() + _LEFT_ALONE_SECONDS
            return known

    async def _look_up(self, recipient: str, now: float) -> Destination:
        generation = self._generation
        try:
            found = await self._database.read(_destination, recipient, self._domain, self._capture)
        except Forbidden:
            self._known.pop(recipient, None)
            raise
        if generation == self._generation:  # else read, perhaps, before what `forget` tells of
            self._remember(recipient, found, now)
        if found is None:
            raise _unknown()
        return found

    def _remember(self, recipient: str, destination: Destination | None, now: float) -> None:
        if destination is None:
            self._known.pop(recipient, None)
            self._unknown[recipient] = now + _UNKNOWN_SECONDS
            self._unknown.move_to_end(recipient)
            if len(self._unknown) > _MOST_UNKNOWN:
                self._unknown.popitem(last=False)
            return
        self._known[recipient] = _Known(destination, now)
        self._known.move_to_end(recipient)
        if len(self._known) > _MOST_REMEMBERED:
            self._known.popitem(last=False)


def _unknown() -> NotFound:
    return NotFound("No such address here.", code="address_unknown")


def _destination(
    session: Session, recipient: str, domain: str, capture: OrganisationId | None
) -> Destination | None:
    mailbox = mailbox_of(recipient)
    owner = _owner(session, mailbox, domain, capture)
    if owner is None:
        return None
    delivery = Delivery(recipient, mailbox, OrganisationId(owner.id))
    if owner.status != "active":
        raise Suspended(delivery)
    tier = tiers.find(session, owner.tier)
    return Destination(delivery, tier.limits if tier else Limits())


def _owner(
    session: Session, mailbox: str, domain: str, capture: OrganisationId | None
) -> organisations.Organisation | None:
    taken = addresses.find(session, mailbox)
    if taken is not None and taken.deleted_at is None:
        return organisations.find(session, OrganisationId(taken.organisation_id))
    caught = _catch_all(session, mailbox, domain)
    if caught is not None:
        return caught
    if capture is None or (taken is not None and taken.organisation_id != capture):
        return None
    return organisations.find(session, capture)


def _catch_all(session: Session, mailbox: str, domain: str) -> organisations.Organisation | None:
    slug, _, parent = mailbox.rpartition("@")[2].partition(".")
    if parent != domain:
        return None
    owner = organisations.find_by_slug(session, slug)
    tier = tiers.find(session, owner.tier) if owner else None
    return owner if tier and Feature.CATCH_ALL in tier.features else None
