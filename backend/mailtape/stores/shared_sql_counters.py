"""Counters in the rows, for any number of processes: each verb is one transaction.

For a fleet without Redis, and for one whose Redis is down. The organisation's row is locked, so
verbs on one organisation come one after the other, wherever they run. What is used is what the
rows say, and what is committed and has no rows yet; the transaction that stores a mail ends its
hold. So nothing has to be rebuilt here, ever.

A mail that was reserved under another name stays held under that; it is found by either, by
whoever asks and by the worker that stores it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from mailtape.domain.ids import OrganisationId
from mailtape.domain.quota import Decision, Request, Usage, Verdict, decide
from mailtape.domain.tier import Limits
from mailtape.ports.counters import Key
from mailtape.rows import events, holds, organisations, usage
from mailtape.rows.database import Database, Session
from mailtape.rows.holds import Hold, State
from mailtape.rows.organisations import Organisation
from mailtape.stores.joined_names import may_be_joined

_RESERVED = timedelta(minutes=10)
"""Longer than a sender may take from RCPT to the end of DATA and Postfix to hand the mail over."""
_COMMITTED = timedelta(days=40)
"""Longer than a mail waits to be stored, and than its month lasts."""
_JOINED = timedelta(hours=1)
_CLOCKS = timedelta(seconds=1)
"""So far apart are those of a fleet."""
_STORED_AT_MOST = 100_000
"""Events that are looked at for it; nobody holds more elsewhere."""


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """What was held elsewhere until now."""

    hold: Hold
    first: str
    """The name of the transaction that it is held under."""
    recipient: str
    last: str | None
    """What the transaction was called later, if it was."""
    since: datetime
    """Its mail was not stored before that."""

    @property
    def digests(self) -> set[bytes]:
        """The names that its mail may have been stored under."""
        names = {self.first, self.last or self.first}
        return {holds.digest(name, self.recipient) for name in names}


class SharedSqlCounters:
    """`ports.counters.Counters` over `rows.holds`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def rename(self, transaction: str, became: str, now: datetime) -> None:
        """See `ports.counters`."""
        if may_be_joined(became):
            name, first = holds.name_digest(became), holds.name_digest(transaction)
            await self._database.write(holds.join, name, first, now + _JOINED, now)

    async def reserve(
        self, organisation_id: OrganisationId, limits: Limits, key: Key, octets: int, now: datetime
    ) -> Decision:
        """See `ports.counters`."""
        return await self._database.write(_reserve, organisation_id, limits, key, octets, now)

    async def fits(
        self, organisation_id: OrganisationId, limits: Limits, key: Key, octets: int, now: datetime
    ) -> Decision:
        """See `ports.counters`."""
        return await self._database.write(_fits, organisation_id, limits, key, octets, now)

    async def commit(
        self, organisation_id: OrganisationId, keys: Sequence[Key], octets: int, now: datetime
    ) -> None:
        """See `ports.counters`."""
        await self._database.write(_commit, organisation_id, keys, octets, now)

    async def release(self, organisation_id: OrganisationId, keys: Sequence[Key]) -> None:
        """See `ports.counters`."""
        await self._database.write(_release, organisation_id, keys)

    async def usage(self, organisation_id: OrganisationId, now: datetime) -> Usage:
        """See `ports.counters`."""
        return await self._database.read(used, organisation_id, now)

    async def adopt(
        self, organisation_id: OrganisationId, known: Sequence[Elsewhere], now: datetime
    ) -> None:
        """Hold as well what was held elsewhere; a name that is there already stays as it is.

        What has rows is counted there, and not held.

        Raises:
            Unavailable: nothing was changed.
        """
        await self._database.write(_adopt, organisation_id, known, now)


def used(session: Session, organisation_id: OrganisationId, now: datetime) -> Usage:
    """Add up an organisation's rows and holds."""
    return _used(session, organisations.find(session, organisation_id), organisation_id, now)


def period_of(now: datetime) -> str:
    """Name the month of a time in UTC."""
    return f"{now.year:04}-{now.month:02}"


def _used(
    session: Session,
    organisation: Organisation | None,
    organisation_id: OrganisationId,
    now: datetime,
) -> Usage:
    period = period_of(now)
    month = usage.find(session, organisation_id, period)
    held = holds.totals(session, organisation_id, period, now)
    return Usage(
        emails=(month.emails if month else 0) + held.committed_emails,
        storage_bytes=(organisation.storage_bytes if organisation else 0) + held.committed_bytes,
        reserved_emails=held.reserved_emails,
        reserved_bytes=held.reserved_bytes,
        arrival_us=organisation.arrival_us if organisation else 0,
    )


def _reserve(
    session: Session,
    organisation_id: OrganisationId,
    limits: Limits,
    key: Key,
    octets: int,
    now: datetime,
) -> Decision:
    organisation = organisations.lock(session, organisation_id)
    holds.sweep(session, organisation_id, now)
    digest, hold = _find(session, organisation_id, key, now)
    if hold is not None:
        return Decision(Verdict.ACCEPT)
    used = _used(session, organisation, organisation_id, now)
    return _take(session, organisation, used, limits, digest, octets, now)


def _take(
    session: Session,
    organisation: Organisation,
    used: Usage,
    limits: Limits,
    digest: bytes,
    octets: int,
    now: datetime,
) -> Decision:
    """Decide on a mail that nothing is held for, and hold room for it when it is taken."""
    decision = decide(limits, used, Request(octets), now)
    if decision.accepted:
        organisation.arrival_us = decision.arrival_us
        holds.put(
            session,
            Hold(
                organisation_id=organisation.id,
                digest=digest,
                state=State.RESERVED,
                octets=octets,
                period=period_of(now),
                expires_at=now + _RESERVED,
            ),
        )
    return decision


def _fits(
    session: Session,
    organisation_id: OrganisationId,
    limits: Limits,
    key: Key,
    octets: int,
    now: datetime,
) -> Decision:
    organisation = organisations.lock(session, organisation_id)
    holds.sweep(session, organisation_id, now)
    digest, hold = _find(session, organisation_id, key, now)
    if hold is not None and hold.state != State.RESERVED:
        return Decision(Verdict.ACCEPT)
    used = _used(session, organisation, organisation_id, now)
    others = used._replace(reserved_bytes=used.reserved_bytes - (hold.octets if hold else 0))
    decision = decide(limits, others, Request(octets, received=True), now)
    if not decision.accepted:
        return decision
    if hold is None:  # it took so long that the room may be somebody else's
        return _take(session, organisation, used, limits, digest, octets, now)
    hold.octets = octets
    return decision


def _commit(
    session: Session,
    organisation_id: OrganisationId,
    keys: Sequence[Key],
    octets: int,
    now: datetime,
) -> None:
    organisations.lock(session, organisation_id)
    for key in keys:
        digest, hold = _find(session, organisation_id, key, now)
        if hold is not None and hold.state == State.KNOWN:  # by the worker, and by nobody else yet
            hold.state, hold.octets = State.STORED, octets
        if hold is not None and hold.state != State.RESERVED:
            continue
        if digest != holds.digest(*key):  # so that the worker finds it, however late
            _keep_joined(session, key, now)
        holds.put(
            session,
            Hold(
                organisation_id=organisation_id,
                digest=digest,
                state=State.COMMITTED,
                octets=octets,
                period=period_of(now),
                expires_at=now + _COMMITTED,
            ),
        )


def _release(session: Session, organisation_id: OrganisationId, keys: Sequence[Key]) -> None:
    organisations.lock(session, organisation_id)
    for key in keys:
        digest, first = holds.digest(*key), _first(session, key)
        digests = [digest] if first is None else [digest, first]
        holds.release(session, organisation_id, digests)


def _adopt(
    session: Session, organisation_id: OrganisationId, known: Sequence[Elsewhere], now: datetime
) -> None:
    if not known:
        return
    organisations.lock(session, organisation_id)
    holds.sweep(session, organisation_id, now)
    joined = {each.last: each.first for each in known if each.last is not None}
    hashed = {holds.name_digest(last): holds.name_digest(first) for last, first in joined.items()}
    holds.join_missing(session, hashed, now + _JOINED)
    # Under the lock: what is not stored by now is stored by somebody who finds the hold.
    since = min(each.since for each in known) - _CLOCKS
    stored = events.held_before(session, organisation_id, since, _STORED_AT_MOST)
    for each in known:
        if not stored.isdisjoint(each.digests):
            each.hold.state = State.KNOWN
    holds.add_missing(session, organisation_id, [each.hold for each in known])


def _find(
    session: Session, organisation_id: OrganisationId, key: Key, now: datetime
) -> tuple[bytes, Hold | None]:
    """Find a hold by the name that is asked about, or by the one before; and what it is under.

    What nothing is held for would be held under the name before.
    """
    digest = holds.digest(*key)
    hold = holds.find(session, organisation_id, digest, now)
    first = None if hold is not None else _first(session, key)
    if first is None:
        return digest, hold
    return first, holds.find(session, organisation_id, first, now)


def _keep_joined(session: Session, key: Key, now: datetime) -> None:
    name = holds.name_digest(key[0])
    first = holds.first_name(session, name)
    if first is not None:
        holds.join(session, name, first, now + _COMMITTED, now)


def _first(session: Session, key: Key) -> bytes | None:
    """Name the hold by what its transaction was called before."""
    name, recipient = key
    if not may_be_joined(name):
        return None
    first = holds.first_name(session, holds.name_digest(name))
    return None if first is None else holds.digest_of(first, recipient)
