"""Step 2 of a message's way: may this recipient have one more mail?

The doors ask here and nowhere else. A refusal, an unknown address and "cannot tell" are answers
like any other; nothing is raised for them, so no door can mistake a failure for a yes or a no.

A transaction is named by whoever opens it: Postfix's `instance` at the policy daemon, its queue id
at LMTP, an id of our own at the other doors. The daemon is told which queue id an instance became,
and the counters join the two, so that a mail that passes both is reserved and counted once.
"""

from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from enum import Enum, auto
from functools import lru_cache
from itertools import groupby
from typing import NamedTuple

import structlog

from mailtape.deadline import within_seconds
from mailtape.domain.envelope import Delivery
from mailtape.domain.errors import NotFound, Unavailable
from mailtape.domain.ids import OrganisationId
from mailtape.domain.quota import UNLIMITED, Decision, Reason, Verdict
from mailtape.domain.tier import NO_LIMITS, Limits
from mailtape.ports.counters import Counters, Key, NothingNew
from mailtape.services.recipients import Destination, Recipients, Suspended
from mailtape.services.refusals import Refusals

log = structlog.get_logger(__name__)

_TRACE_OCTETS = 1024
"""More than Postfix's Received field takes, and too little to be worth smuggling in."""
_BOOKING_SECONDS = 10.0
"""For what a reply does not depend on: a relay that waits for it too long sends the mail again."""
_SUSPENDED = Decision(Verdict.NEVER, Reason.ORGANISATION_SUSPENDED)
_CANNOT_DECIDE = Decision(Verdict.LATER, Reason.CANNOT_DECIDE)
_ORGANISATIONS = Decision(Verdict.LATER, Reason.ORGANISATIONS)


@lru_cache(maxsize=1000)
def _with_trace(limits: Limits) -> Limits:
    """Make room for the trace of one mail; counters tell limits apart by the object."""
    message, storage = limits.message_bytes, limits.storage_bytes
    return replace(
        limits,
        message_bytes=None if message is None else message + _TRACE_OCTETS,
        storage_bytes=None if storage is None else storage + _TRACE_OCTETS,
    )


class Silent(Enum):
    """What does not answer when a recipient cannot be judged."""

    ROWS = auto()
    """Who it is cannot be told; of those who are remembered it can."""
    COUNTERS = auto()
    """What it may have cannot be told; of those without limits it can."""


class Judged(NamedTuple):
    """A recipient, what was decided on it, and where its mail goes when it is known."""

    recipient: str
    decision: Decision
    destination: Destination | None
    silent: Silent | None = None
    """What would tell and does not answer. It will not of the next recipient either, and takes
    seconds to show it: a door names it when it asks about more of the same mail."""


class Quota:
    """Judges recipients for every door of one process."""

    def __init__(
        self,
        recipients: Recipients,
        counters: Counters,
        refusals: Refusals,
        clock: Callable[[], datetime],
        *,
        most_organisations: int = 100,
    ) -> None:
        """Make one; a mail is taken for so many organisations, each of which keeps a copy."""
        self._most_organisations = most_organisations
        self._recipients = recipients
        self._counters = counters
        self._refusals = refusals
        self._clock = clock

    async def recipient(
        self,
        address: str,
        *,
        transaction: str,
        octets: int,
        received: bool = False,
        taken: Collection[Judged] = (),
        silent: Silent | None = None,
    ) -> Judged:
        """Judge a recipient, and hold room for its mail when it is taken.

        `octets` is the announced size, 0 when there is none, or the true one of a mail that is
        `received`; `taken` are the other recipients that take the mail so far, and `silent` is what
        did not answer for one of the same mail: it is not asked about this one. The same question
        again gets the same answer and holds nothing more.
        """
        ask = self._fits if received else self._reserve
        destination = None
        if silent is not None:
            destination = self._recipients.remembered(address, stale=silent is Silent.ROWS)
            if not _suffices(destination, silent):
                return Judged(address, _CANNOT_DECIDE, None, silent)
        try:
            destination = destination or await self._recipients.resolve(address)
            if self._goes_too_far(destination, taken):
                return Judged(address, _ORGANISATIONS, destination)
            decision = await ask(destination, transaction, octets)
            self._note(destination.delivery, decision)
            return Judged(address, decision, destination)
        except NotFound:
            return Judged(address, Decision(Verdict.NEVER, Reason.ADDRESS_UNKNOWN), None)
        except Suspended as error:
            self._note(error.delivery, _SUSPENDED)
            return Judged(address, _SUSPENDED, None)
        except Unavailable as error:
            log.warning("quota.cannot_decide", why=str(error))
            return Judged(address, _CANNOT_DECIDE, None, _silent(error, destination))
        except Exception:
            log.exception("quota.failed")
            return Judged(address, _CANNOT_DECIDE, None)

    async def received(
        self, transaction: str, judged: Sequence[Judged], octets: int, *, relayed: bool = False
    ) -> list[Decision]:
        """Judge each recipient again now that the mail is here and its size is known.

        A relay has added its trace (RFC 5321, section 4.4) after it asked about the size: what was
        promised then must not be refused for that now. What is held is the true size all the same.

        After the first that nobody answers for, none that is counted is asked about.
        """
        decisions: list[Decision] = []
        asking = True
        for each in judged:
            again = await self._received(each, transaction, octets, relayed=relayed, asking=asking)
            asking = asking and again.silent is None
            decisions.append(again.decision)
        return decisions

    async def commit(self, transaction: str, judged: Sequence[Judged], octets: int) -> None:
        """Count a mail for these recipients: it is safe, and its sender hears so in any case."""

        def commit(organisation_id: OrganisationId, keys: Sequence[Key]) -> Awaitable[None]:
            return self._counters.commit(organisation_id, keys, octets, self._clock())

        try:
            await self._book(transaction, judged, commit)
        except (Unavailable, TimeoutError) as error:  # its rows will count it
            log.warning("quota.mail_not_counted", why=str(error))
        except Exception:
            log.exception("quota.mail_not_counted")

    async def release(self, transaction: str, judged: Sequence[Judged]) -> None:
        """Give back what was held for these recipients: no mail of theirs will come."""
        try:
            await self._book(transaction, judged, self._counters.release)
        except (Unavailable, TimeoutError):  # it runs out, and whoever asks has an answer to give
            log.warning("quota.not_released")

    async def queued(self, instance: str, queue_id: str) -> None:
        """Remember which queue id Postfix gave to a transaction."""
        try:
            await self._counters.rename(instance, queue_id, self._clock())
        except Unavailable:  # no reason to refuse a mail: what was held for it runs out
            log.warning("quota.not_joined")

    def _goes_too_far(self, destination: Destination, taken: Collection[Judged]) -> bool:
        """Whether a mail would go to one organisation more than it may."""
        if len(taken) < self._most_organisations:
            return False
        if destination.delivery.organisation_id in _organisations(taken):
            return False
        return len(set(_organisations(taken))) >= self._most_organisations

    async def _reserve(self, destination: Destination, transaction: str, octets: int) -> Decision:
        if destination.limits == NO_LIMITS:
            return UNLIMITED
        delivery = destination.delivery
        return await self._counters.reserve(
            delivery.organisation_id,
            destination.limits,
            (transaction, delivery.recipient),
            octets,
            self._clock(),
        )

    async def _fits(
        self, destination: Destination, transaction: str, octets: int, *, relayed: bool = False
    ) -> Decision:
        if destination.limits == NO_LIMITS:
            return UNLIMITED
        delivery = destination.delivery
        return await self._counters.fits(
            delivery.organisation_id,
            _with_trace(destination.limits) if relayed else destination.limits,
            (transaction, delivery.recipient),
            octets,
            self._clock(),
        )

    async def _received(
        self, judged: Judged, transaction: str, octets: int, *, relayed: bool, asking: bool
    ) -> Judged:
        destination = judged.destination
        if destination is None:
            return judged
        decision, silent = _CANNOT_DECIDE, None
        if asking or destination.limits == NO_LIMITS:
            try:
                decision = await self._fits(destination, transaction, octets, relayed=relayed)
            except Unavailable as error:
                log.warning("quota.cannot_decide", why=str(error))
                silent = _silent(error, destination)
        self._note(destination.delivery, decision)
        return judged._replace(decision=decision, silent=silent)

    def _note(self, delivery: Delivery, decision: Decision) -> None:
        if decision.reason is not None:
            self._refusals.note(
                delivery.organisation_id, delivery.mailbox, decision.reason, self._clock()
            )

    async def _book(
        self,
        transaction: str,
        judged: Sequence[Judged],
        book: Callable[[OrganisationId, Sequence[Key]], Awaitable[None]],
    ) -> None:
        """Do it for each organisation, within bounds.

        Raises:
            Unavailable: it could not be done for one; the next would only wait as long.
            TimeoutError: they were too many.
        """

        async def each() -> None:
            for organisation_id, keys in self._counted(transaction, judged):
                await book(organisation_id, keys)

        await within_seconds(_BOOKING_SECONDS, each())

    def _counted(
        self, transaction: str, judged: Sequence[Judged]
    ) -> list[tuple[OrganisationId, list[Key]]]:
        """Sort what is counted at all by organisation."""
        counted = [
            each.destination.delivery
            for each in judged
            if each.destination is not None and each.destination.limits != NO_LIMITS
        ]
        counted.sort(key=lambda delivery: delivery.organisation_id)
        return [
            (organisation_id, [(transaction, each.recipient) for each in deliveries])
            for organisation_id, deliveries in groupby(counted, key=lambda d: d.organisation_id)
        ]


def _silent(error: Unavailable, destination: Destination | None) -> Silent | None:
    """Tell what did not answer about somebody, if anything did not."""
    if isinstance(error, NothingNew):
        return None
    return Silent.ROWS if destination is None else Silent.COUNTERS


def _suffices(remembered: Destination | None, silent: Silent) -> bool:
    """Whether a recipient can be judged without what is silent."""
    if remembered is None:
        return False
    return silent is Silent.ROWS or remembered.limits == NO_LIMITS


def _organisations(judged: Iterable[Judged]) -> Iterator[OrganisationId]:
    """Name the organisation of each recipient that is known."""
    return (each.destination.delivery.organisation_id for each in judged if each.destination)
