"""The event stream of an organisation: resume after any number, miss nothing, repeat nothing."""

from collections.abc import AsyncIterator, Awaitable, Callable

from mailtape.domain.event import StoredEvent
from mailtape.domain.ids import OrganisationId
from mailtape.rows import events
from mailtape.rows.database import Database
from mailtape.services.wakeups import Wakeups

_PAGE = 100


async def last_sequence(database: Database, organisation_id: OrganisationId) -> int:
    """Tell the number of the newest event."""
    return await database.read(events.last_sequence, organisation_id)


async def follow(
    database: Database,
    wakeups: Wakeups,
    organisation_id: OrganisationId,
    *,
    after: int,
    quiet_seconds: float,
    check: Callable[[], Awaitable[None]],
) -> AsyncIterator[list[StoredEvent]]:
    """Give the events after a number in pages, as they are stored, until the process ends.

    The first page is empty and comes at once: it says that the watch is open, so that no hole can
    lie between the look that gave `after` and this one. Later an empty page says that nothing was
    stored for `quiet_seconds`. Each page begins after the last one's end, so there is no repeat.

    `check` raises when the reader's leave has ended. It is asked after each look, so before every
    page: what was stored after a revocation is not shown any more.

    Raises:
        TooMany: the organisation has too many watchers.
        Refused, Unavailable: `check` said so.
    """
    async with wakeups.watch(organisation_id) as woken:
        yield []
        while not wakeups.closed:
            page = await database.read(events.page, organisation_id, after=after, limit=_PAGE)
            await check()
            if page:
                after = page[-1].sequence
                yield page
            if len(page) < _PAGE and not await woken.wait(quiet_seconds):
                yield []
