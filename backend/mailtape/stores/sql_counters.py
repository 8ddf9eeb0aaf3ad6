"""Counters over the rows, with memory in front, for the one process that owns them.

An organisation is read from the rows when it is first asked about; from then on memory is exact,
because everything that is accepted passes here. Accepted mail that still waits in the queue is not
in rows yet, so what waited at the start is added once, before anything is taken from the queue;
save what has its row already, because a process was killed between storing and acknowledging it.
What a relay handed over is read with its name, from both: after a restart, too, it may come again
and is neither refused nor counted for that.

`reconcile` reads the rows of those again who have nothing in the queue: so deletions give room
back, and mail that was recognised as a duplicate or parked stops counting.
"""

import asyncio
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import NamedTuple

from mailtape.domain.ids import MessageId, OrganisationId
from mailtape.domain.quota import Decision, Request, Usage, Verdict, decide
from mailtape.domain.tier import Limits
from mailtape.ports.counters import Key
from mailtape.rows import messages, organisations, usage
from mailtape.rows.database import Database, Session
from mailtape.stores.joined_names import JoinedNames
from mailtape.stores.sqlite_queue import Backlog

_RESERVED_SECONDS = 600
"""Longer than senders take from RCPT to the end of DATA, and Postfix to hand the mail over; what
takes longer all the same is decided on again."""
_REMEMBERED_SECONDS = 3600
"""How long a key is known to be committed: a retry of Postfix comes much sooner."""
_MOST_REMEMBERED = 100_000
"""Of one organisation; beyond it the oldest are forgotten sooner."""
_MOST_READ = 10_000
"""Messages of an organisation that are looked at for such keys when it is first asked about: a
relay repeats what was on its way when we ended, and the first question must not wait long."""


@dataclass(slots=True)
class _Account:
    """One organisation's counters."""

    period: str
    emails: int
    storage_bytes: int
    arrival_us: int = 0
    reserved: OrderedDict[Key, tuple[int, float]] = field(default_factory=OrderedDict)
    """Octets held for each, and until when; in the order of that time."""
    reserved_bytes: int = 0
    committed: dict[Key, None] = field(default_factory=dict)
    forgetting: deque[tuple[float, Key]] = field(default_factory=deque)
    changes: int = 0
    """Raised by every commit: a look at the rows that one overlaps is void."""

    def used(self) -> Usage:
        return Usage(
            emails=self.emails,
            storage_bytes=self.storage_bytes,
            reserved_emails=len(self.reserved),
            reserved_bytes=self.reserved_bytes,
            arrival_us=self.arrival_us,
        )

    def remember(self, key: Key, now: datetime) -> None:
        """Know for a while that this is counted."""
        self.committed[key] = None
        self.forgetting.append((now.timestamp() + _REMEMBERED_SECONDS, key))
        if len(self.forgetting) > _MOST_REMEMBERED:
            self.committed.pop(self.forgetting.popleft()[1], None)

    def hold(self, key: Key, octets: int, until: float) -> None:
        before, _ = self.reserved.get(key, (0, 0.0))
        self.reserved[key] = octets, until  # where it stood, when it is held already
        self.reserved_bytes += octets - before

    def drop(self, key: Key) -> None:
        held = self.reserved.pop(key, None)
        if held is not None:
            self.reserved_bytes -= held[0]

    def expire(self, now: float) -> None:
        """Let go of what nobody came back for."""
        while self.reserved:
            key, (_, until) = next(iter(self.reserved.items()))
            if until > now:
                break
            self.drop(key)
        while self.forgetting and self.forgetting[0][0] <= now:
            self.committed.pop(self.forgetting.popleft()[1], None)


class SqlCounters:
    """`ports.counters.Counters` for `serve`."""

    def __init__(
        self, database: Database, waiting: Mapping[OrganisationId, Backlog] | None = None
    ) -> None:
        self._database = database
        self._waiting = dict(waiting or {})
        self._accounts: dict[OrganisationId, _Account] = {}
        self._opening: dict[OrganisationId, asyncio.Task[_Account]] = {}
        self._joined = JoinedNames()

    async def start(self, now: datetime) -> None:
        """Read the organisations whose mail waits; call it before any is taken from the queue."""
        for organisation_id in list(self._waiting):
            await self._account(organisation_id, now)

    async def rename(self, transaction: str, became: str, now: datetime) -> None:  # noqa: ARG002
        """See `ports.counters`."""
        self._joined.join(transaction, became)

    async def reserve(
        self, organisation_id: OrganisationId, limits: Limits, key: Key, octets: int, now: datetime
    ) -> Decision:
        """See `ports.counters`."""
        key = self._joined.key(key)
        account = await self._account(organisation_id, now)
        if key in account.reserved or key in account.committed:
            return Decision(Verdict.ACCEPT)
        decision = decide(limits, account.used(), Request(octets), now)
        if decision.accepted:
            account.arrival_us = decision.arrival_us
            account.hold(key, octets, now.timestamp() + _RESERVED_SECONDS)
        return decision

    async def fits(
        self, organisation_id: OrganisationId, limits: Limits, key: Key, octets: int, now: datetime
    ) -> Decision:
        """See `ports.counters`."""
        key = self._joined.key(key)
        account = await self._account(organisation_id, now)
        if key in account.committed:
            return Decision(Verdict.ACCEPT)
        used = account.used()
        held, until = account.reserved.get(key, (0, 0.0))
        others = used._replace(reserved_bytes=used.reserved_bytes - held)
        decision = decide(limits, others, Request(octets, received=True), now)
        if not decision.accepted:
            return decision
        if key not in account.reserved:  # it took so long that the room may be somebody else's
            return await self.reserve(organisation_id, limits, key, octets, now)
        account.hold(key, octets, until)
        return decision

    async def commit(
        self, organisation_id: OrganisationId, keys: Sequence[Key], octets: int, now: datetime
    ) -> None:
        """See `ports.counters`."""
        account = await self._account(organisation_id, now)
        for key in map(self._joined.key, keys):
            if key in account.committed:
                continue
            account.drop(key)
            account.emails += 1
            account.storage_bytes += octets
            account.changes += 1
            account.remember(key, now)

    async def release(self, organisation_id: OrganisationId, keys: Sequence[Key]) -> None:
        """See `ports.counters`."""
        account = self._accounts.get(organisation_id)
        if account is not None:
            for key in map(self._joined.key, keys):
                account.drop(key)

    async def usage(self, organisation_id: OrganisationId, now: datetime) -> Usage:
        """See `ports.counters`."""
        return (await self._account(organisation_id, now)).used()

    async def reconcile(
        self, now: datetime, waiting: Callable[[], Awaitable[Collection[OrganisationId]]]
    ) -> int:
        """Read the rows again; tell how many organisations differed.

        Left for the next time are those that something is accepted for meanwhile, and those that
        `waiting` names, because they have mail in the queue: theirs is not all in rows yet.
        """
        known = [(*each, each[1].changes) for each in self._accounts.items()]
        busy = await waiting()  # after the changes were noted: what comes later is in no row
        differed, month = 0, _month(now)
        for organisation_id, account, before in known:
            account.expire(now.timestamp())
            if organisation_id in busy:
                continue
            used = await self._database.read(_used, organisation_id, month)
            if account.changes != before or account.period > month:
                continue
            differed += used != (account.emails, account.storage_bytes)
            account.period = month
            account.emails, account.storage_bytes = used
        return differed

    async def _account(self, organisation_id: OrganisationId, now: datetime) -> _Account:
        account = self._accounts.get(organisation_id)
        if account is None:
            account = await self._open(organisation_id, now)
        if account.period != _month(now):
            account.period, account.emails = _month(now), 0
        account.expire(now.timestamp())
        return account

    async def _open(self, organisation_id: OrganisationId, now: datetime) -> _Account:
        """Read an organisation once, however many ask at the same moment."""
        opening = self._opening.get(organisation_id)
        if opening is None:
            opening = asyncio.ensure_future(self._read(organisation_id, now))
            self._opening[organisation_id] = opening
            opening.add_done_callback(lambda _: self._opening.pop(organisation_id, None))
        return await asyncio.shield(opening)

    async def _read(self, organisation_id: OrganisationId, now: datetime) -> _Account:
        waiting = self._waiting.get(organisation_id, Backlog())
        found = await self._database.read(_look_up, organisation_id, _month(now), waiting.oldest)
        self._waiting.pop(organisation_id, None)
        emails, storage_bytes = found.used
        twice = [octets for identity, octets in waiting.oldest if identity in found.stored]
        account = _Account(
            _month(now),
            emails + waiting.messages - len(twice),
            storage_bytes + waiting.octets - sum(twice),
        )
        for key in (*found.relayed, *waiting.relayed):
            account.remember(key, now)
        self._accounts[organisation_id] = account
        return account


def _used(session: Session, organisation_id: OrganisationId, period: str) -> tuple[int, int]:
    organisation = organisations.find(session, organisation_id)
    month = usage.find(session, organisation_id, period)
    return (month.emails if month else 0), (organisation.storage_bytes if organisation else 0)


class _Found(NamedTuple):
    """What the rows say of an organisation when it is first asked about."""

    used: tuple[int, int]
    relayed: list[Key]
    stored: set[MessageId]
    """What waits in the queue all the same."""


def _look_up(
    session: Session,
    organisation_id: OrganisationId,
    period: str,
    waiting: Sequence[tuple[MessageId, int]],
) -> _Found:
    within = timedelta(seconds=_REMEMBERED_SECONDS)
    return _Found(
        _used(session, organisation_id, period),
        messages.relayed(session, organisation_id, within, _MOST_READ),
        messages.stored(session, organisation_id, [identity for identity, _ in waiting]),
    )


def _month(now: datetime) -> str:
    return f"{now.year}-{now.month:02}"  # strftime would be a tenth of a policy check
