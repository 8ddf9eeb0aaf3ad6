"""Where a mail goes: from a recipient's address to the organisation whose mail it is.

In this order: an address somebody has taken; the subdomain of an organisation whose tier has
`catch_all`; in capture mode the capturing organisation; else nobody. An address that its owner
has deleted is nobody's, in capture mode too: its mail must not reach a stranger.

Answers are remembered for a while, because a sender asks the same again and again. That somebody
is unknown is remembered for a few seconds only, and in a place of its own: who tries out a
dictionary costs one look-up a word and puts nobody who is known out of mind. Whoever changes
addresses, organisations or tiers calls `forget`.
"""

import time
from collections import OrderedDict
from dataclasses import dataclass

from mailtape.domain.address import mailbox_of
from mailtape.domain.envelope import Delivery
from mailtape.domain.errors import Forbidden, NotFound
from mailtape.domain.ids import OrganisationId
from mailtape.domain.tier import Feature, Limits
from mailtape.rows import addresses, organisations, tiers
from mailtape.rows.database import Database, Session

_MOST_REMEMBERED = 10_000
_REMEMBERED_SECONDS = 60.0
_MOST_UNKNOWN = 10_000
_UNKNOWN_SECONDS = 5.0
"""Short: a process that does not hear of a new address by `forget` refuses its mail for good."""


@dataclass(frozen=True, slots=True)
class Destination:
    """An accepted recipient, and what its organisation's tier allows."""

    delivery: Delivery
    limits: Limits


class Recipients:
    """Resolves recipients, remembering the recent ones."""

    def __init__(self, database: Database, *, domain: str, capture: OrganisationId | None) -> None:
        self._database = database
        self._domain = domain.lower()
        self._capture = capture
        self._known: OrderedDict[str, tuple[float, Destination]] = OrderedDict()
        self._unknown: OrderedDict[str, float] = OrderedDict()
        """Until when nobody's, in the order of that time."""
        self._generation = 0

    async def resolve(self, address: str) -> Destination:
        """Find whose mail this recipient's is.

        Raises:
            NotFound: `address_unknown`, nobody's.
            Forbidden: `organisation_suspended`.
            Unavailable: cannot tell at the moment; never taken for "unknown".
        """
        recipient = address.lower()
        remembered = self._known.get(recipient)
        now = time.monotonic()
        if remembered is not None and now < remembered[0]:
            return remembered[1]
        if now < self._unknown.get(recipient, now):
            raise _unknown()
        generation = self._generation
        destination = await self._database.read(_look_up, recipient, self._domain, self._capture)
        if generation == self._generation:  # else read, perhaps, before what `forget` tells of
            self._remember(recipient, destination, now)
        if destination is None:
            raise _unknown()
        return destination

    def forget(self) -> None:
        """Look everything up afresh from now on; call it after the commit."""
        self._generation += 1
        self._known.clear()
        self._unknown.clear()

    def _remember(self, recipient: str, destination: Destination | None, now: float) -> None:
        if destination is None:
            self._unknown[recipient] = now + _UNKNOWN_SECONDS
            self._unknown.move_to_end(recipient)
            if len(self._unknown) > _MOST_UNKNOWN:
                self._unknown.popitem(last=False)
            return
        self._known[recipient] = (now + _REMEMBERED_SECONDS, destination)
        self._known.move_to_end(recipient)
        if len(self._known) > _MOST_REMEMBERED:
            self._known.popitem(last=False)


def _unknown() -> NotFound:
    return NotFound("No such address here.", code="address_unknown")


def _look_up(
    session: Session, recipient: str, domain: str, capture: OrganisationId | None
) -> Destination | None:
    mailbox = mailbox_of(recipient)
    owner = _owner(session, mailbox, domain, capture)
    if owner is None:
        return None
    if owner.status != "active":
        raise Forbidden(
            "The organisation of this address is suspended.", code="organisation_suspended"
        )
    tier = tiers.find(session, owner.tier)
    return Destination(
        Delivery(recipient, mailbox, OrganisationId(owner.id)),
        tier.limits if tier else Limits(),
    )


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
