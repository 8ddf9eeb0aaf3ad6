"""Counters in Redis while it answers, in the rows while it does not.

Who goes over to the rows takes along what this process has granted and counted, and what has rows
is left out: the rest counts as used until it is stored or its time is up. Whoever comes back takes
what the rows hold into Redis before anything is asked there about that organisation again. Both go
by the names of what is held, so it does not matter how many processes do it, or how often.

Nothing is decided by the rows before Redis is left alone (`redis_connection`): when it does not
answer once, nor when asked again, whoever asks is told that it cannot be told. What only counts or
gives back goes into the rows at once, which is never wrong.

Processes do not agree on whether Redis answers. One that goes over alone knows of the others only
what is in the rows, so for that time at most what they hold may be granted too much.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import TypeVar

import structlog

from mailtape.domain.errors import Unavailable
from mailtape.domain.ids import OrganisationId
from mailtape.domain.quota import Decision, Usage
from mailtape.domain.tier import Limits
from mailtape.ports.counters import Counters, Key, NothingNew
from mailtape.rows.base import from_us
from mailtape.rows.holds import Hold, State
from mailtape.stores.joined_names import may_be_joined
from mailtape.stores.own_grants import Grant
from mailtape.stores.redis_connection import RedisConnection
from mailtape.stores.redis_counters import RedisCounters
from mailtape.stores.shared_sql_counters import Elsewhere, SharedSqlCounters, period_of

log = structlog.get_logger(__name__)

T = TypeVar("T")

_LOOK_SECONDS = 0.5
_TRIES = 3
"""As often as Redis may fail before it is left alone."""
_AGAIN_SECONDS = 0.35
"""No longer after a question was asked it is asked again: one call that is not answered in time."""
_MOST_GIVEN_BACK = 10_000
"""Of one organisation, while Redis does not answer; what is more runs out by itself."""


class StandbyCounters:
    """`ports.counters.Counters` for a fleet with Redis. Needs a running event loop."""

    def __init__(
        self, redis: RedisCounters, rows: SharedSqlCounters, connection: RedisConnection
    ) -> None:
        self._redis = redis
        self._rows = rows
        self._connection = connection
        self._taken_along: set[OrganisationId] = set()
        """Organisations for which the rows hold what this process knows."""
        self._away: set[OrganisationId] = set()
        """Organisations that Redis was not asked about meanwhile."""
        self._coming: dict[OrganisationId, asyncio.Task[None]] = {}
        self._given_back: dict[OrganisationId, dict[Key, None]] = {}
        """What Redis may hold still and nobody waits for."""
        self._returning: asyncio.Task[None] | None = None

    async def rename(self, transaction: str, became: str, now: datetime) -> None:
        """See `ports.counters`."""
        if self._connection.available:
            try:
                await self._redis.rename(transaction, became, now)
            except Unavailable:
                pass
            else:
                return
        await self._rows.rename(transaction, became, now)

    async def reserve(
        self, organisation_id: OrganisationId, limits: Limits, key: Key, octets: int, now: datetime
    ) -> Decision:
        """See `ports.counters`."""

        def ask(counters: Counters) -> Awaitable[Decision]:
            return counters.reserve(organisation_id, limits, key, octets, now)

        try:
            return await self._ask(organisation_id, (key,), now, ask)
        except NothingNew:
            raise
        except Unavailable:
            if not may_be_joined(key[0]):  # else it may have been promised elsewhere before
                self._give_back_later(organisation_id, (key,))
            raise

    async def fits(
        self, organisation_id: OrganisationId, limits: Limits, key: Key, octets: int, now: datetime
    ) -> Decision:
        """See `ports.counters`."""

        def ask(counters: Counters) -> Awaitable[Decision]:
            return counters.fits(organisation_id, limits, key, octets, now)

        return await self._ask(organisation_id, (key,), now, ask)

    async def commit(
        self, organisation_id: OrganisationId, keys: Sequence[Key], octets: int, now: datetime
    ) -> None:
        """See `ports.counters`."""

        def ask(counters: Counters) -> Awaitable[None]:
            return counters.commit(organisation_id, keys, octets, now)

        await self._ask(organisation_id, keys, now, ask, decides=False)

    async def release(self, organisation_id: OrganisationId, keys: Sequence[Key]) -> None:
        """See `ports.counters`."""

        async def ask(counters: Counters) -> None:
            await counters.release(organisation_id, keys)
            if counters is self._rows:
                self._give_back_later(organisation_id, keys)

        self._redis.forget(keys)
        await self._ask(organisation_id, keys, datetime.now(UTC), ask, decides=False)

    async def usage(self, organisation_id: OrganisationId, now: datetime) -> Usage:
        """See `ports.counters`."""

        def ask(counters: Counters) -> Awaitable[Usage]:
            return counters.usage(organisation_id, now)

        return await self._ask(organisation_id, (), now, ask)

    async def close(self) -> None:
        """Stop what is under way."""
        running = [*self._coming.values(), *([self._returning] if self._returning else [])]
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    async def _ask(
        self,
        organisation_id: OrganisationId,
        keys: Sequence[Key],
        now: datetime,
        ask: Callable[[Counters], Awaitable[T]],
        *,
        decides: bool = True,
    ) -> T:
        """Ask Redis, or the rows; those before Redis is left alone only if nothing is decided."""
        if self._connection.available:
            try:
                return await self._ask_redis(organisation_id, now, ask)
            except Unavailable:
                if decides and self._connection.available:
                    raise
        return await self._ask_rows(organisation_id, keys, now, ask)

    async def _ask_redis(
        self,
        organisation_id: OrganisationId,
        now: datetime,
        ask: Callable[[Counters], Awaitable[T]],
    ) -> T:
        """Ask Redis, and again when it fails, as long as there is time.

        The same question again finds what was granted to the one that was not answered.
        """
        again_until = time.monotonic() + _AGAIN_SECONDS
        tries = 0
        while True:
            try:
                if organisation_id in self._away:
                    await self._come_back(organisation_id, now)
                return await ask(self._redis)
            except NothingNew:
                raise
            except Unavailable:
                tries += 1
                too_late = tries == _TRIES or time.monotonic() > again_until
                if too_late or not self._connection.available:
                    raise

    async def _ask_rows(
        self,
        organisation_id: OrganisationId,
        keys: Sequence[Key],
        now: datetime,
        ask: Callable[[Counters], Awaitable[T]],
    ) -> T:
        self._go_away(organisation_id)
        if organisation_id not in self._taken_along:
            own = self._redis.own(organisation_id, now)
            known = [self._elsewhere(grant) for grant in own]
            await self._rows.adopt(organisation_id, known, now)
            self._taken_along.add(organisation_id)
        for name in dict.fromkeys(key[0] for key in keys):
            first = self._redis.first_name(name)
            if first is not None:
                await self._rows.rename(first, name, now)
        try:
            return await ask(self._rows)
        finally:
            self._go_away(organisation_id)  # it may have come back while this was under way

    def _go_away(self, organisation_id: OrganisationId) -> None:
        self._away.add(organisation_id)
        if self._returning is None:
            self._returning = asyncio.create_task(self._return())

    def _elsewhere(self, grant: Grant) -> Elsewhere:
        name, recipient = grant.key
        first, last = self._redis.first_name(name) or name, self._redis.last_name(name)
        return Elsewhere(_hold(grant), first, recipient, last, from_us(grant.at_us))

    def _give_back_later(self, organisation_id: OrganisationId, keys: Sequence[Key]) -> None:
        given_back = self._given_back.setdefault(organisation_id, {})
        if len(given_back) < _MOST_GIVEN_BACK:
            given_back.update(dict.fromkeys(keys))
        self._go_away(organisation_id)

    async def _come_back(self, organisation_id: OrganisationId, now: datetime) -> None:
        """Come back once, however many ask: each look holds the organisation's row."""
        coming = self._coming.get(organisation_id)
        if coming is None:
            coming = asyncio.create_task(self._bring_in(organisation_id, now))
            self._coming[organisation_id] = coming
            coming.add_done_callback(lambda done: self._came(organisation_id, done))
        try:
            await asyncio.shield(coming)
        except asyncio.CancelledError:
            if coming.cancelled():  # closed, which is not what whoever asks has asked for
                raise Unavailable("The counters are being closed.") from None
            raise

    def _came(self, organisation_id: OrganisationId, done: "asyncio.Task[None]") -> None:
        del self._coming[organisation_id]
        if not done.cancelled():
            done.exception()  # whoever waited has it; nobody may have

    async def _bring_in(self, organisation_id: OrganisationId, now: datetime) -> None:
        """Tell Redis what happened meanwhile.

        First what was given back, since the same may be held again by the rows.
        """
        given_back = self._given_back.pop(organisation_id, {})
        try:
            if given_back:
                await self._redis.release(organisation_id, list(given_back))
        except Unavailable:
            self._given_back.setdefault(organisation_id, {}).update(given_back)
            raise
        await self._redis.bring_in(organisation_id, now)
        if organisation_id not in self._given_back:  # more may have come while this was under way
            self._away.discard(organisation_id)
        self._taken_along.discard(organisation_id)

    async def _return(self) -> None:
        """Come back with every organisation as soon as Redis answers."""
        try:
            while self._away:
                await asyncio.sleep(_LOOK_SECONDS)
                if self._connection.available:
                    await self._return_all()
        finally:
            self._returning = None

    async def _return_all(self) -> None:
        for organisation_id in list(self._away):
            try:
                await self._come_back(organisation_id, datetime.now(UTC))
            except Unavailable:
                return
            except Exception:
                log.exception("counters.not_brought_back", organisation=organisation_id.hex())


def _hold(grant: Grant) -> Hold:
    """Write what this process knows as the rows hold it."""
    return Hold(
        organisation_id=grant.organisation_id,
        digest=grant.digest,
        state=State.COMMITTED if grant.committed else State.RESERVED,
        octets=grant.octets,
        period=period_of(from_us(grant.at_us)),
        expires_at=from_us(grant.until_us),
    )
