"""Keeping within bounds: the oldest captured mail goes when there is too much of it.

Rows first, bodies after: killed in between, a body is left that no row names, which the sweep
takes later. The other way round a message would be shown whose body is gone.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TypeVar

from mailtape.domain.ids import IngestId, OrganisationId
from mailtape.ports.bodies import Bodies, BodyKey
from mailtape.ports.claims import Claims
from mailtape.ports.queue import Queue
from mailtape.rows import receipts, retention
from mailtape.rows.database import Database, Session

T = TypeVar("T")

_CHUNK = 50
"""Messages a transaction: a person's change waits for one of these at the most."""

_SWEPT_AT_ONCE = 1000
"""Bodies a page: a server that has no index to walk reads all of them for each page."""

_FORGOTTEN_AT_ONCE = 1000
"""Rows a transaction: others wait for one of these, and a server ends what takes it too long."""

_REPEATS_COME_WITHIN = timedelta(days=7)
"""After this nobody sends a mail again; Postfix gives up after five days."""

_ORPHAN_AGE = timedelta(hours=24)
"""Younger bodies may belong to a mail whose rows are being written."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """What an organisation that captures keeps at the most."""

    messages: int
    storage_bytes: int


async def trim(
    database: Database,
    bodies: Bodies,
    organisation_id: OrganisationId,
    bounds: Bounds,
    *,
    now: datetime,
) -> int:
    """Delete the oldest messages until the organisation is within its bounds; tell how many.

    Any number of processes may do so at a time.
    """
    deleted = 0
    asked = (organisation_id, bounds.messages, bounds.storage_bytes, _CHUNK)
    while await database.read(retention.excess, *asked):
        gone = await database.write_bulk(retention.delete_excess, *asked, now=now)
        await bodies.delete([BodyKey(ingest_id, organisation_id) for ingest_id in gone.bodiless])
        deleted += gone.messages
    if deleted:
        await _forget(database, retention.forget_events, organisation_id)
    return deleted


async def sweep(database: Database, bodies: Bodies, queue: Queue, *, now: datetime) -> int:
    """Delete bodies that no row and no queued mail names; tell how many.

    Their age is read from the ingest id, whose order is that of the keys; a young one, and all that
    follow it, are left for the next time.
    """
    oldest_spared = int((now - _ORPHAN_AGE).timestamp() * 1000).to_bytes(6, "big")
    deleted = 0
    after: BodyKey | None = None
    while page := await bodies.keys(after, _SWEPT_AT_ONCE):
        old = [key for key in page if key.ingest_id[:6] < oldest_spared]
        suspects = await database.read(retention.without_rows, old)
        # The queue, then the rows again: a mail leaves it only when its rows are there to be seen.
        # One that is stored between the first look and the second would be seen by neither.
        queued = await queue.named([key.ingest_id for key in suspects])
        unqueued = [key for key in suspects if key.ingest_id not in queued]
        orphans = await database.read(retention.without_rows, unqueued)
        await _delete(bodies.delete, orphans)
        deleted += len(orphans)
        if len(old) < len(page):
            break
        after = page[-1]
    for forget in (retention.forget_keys, receipts.forget):
        await _forget(database, forget, now - _REPEATS_COME_WITHIN)
    return deleted


async def sweep_claims(claims: Claims, queue: Queue, *, now: datetime) -> int:
    """Delete claims of large mail that no queue names any more; tell how many.

    A claim is left when a process ended between the queue and the claim, either way round.
    """
    deleted = 0
    after: IngestId | None = None
    while page := await claims.older_than(now - _ORPHAN_AGE, _SWEPT_AT_ONCE, after):
        queued = await queue.named(page)  # which looks through all that is parked
        orphans = [ingest_id for ingest_id in page if ingest_id not in queued]
        await _delete(claims.delete, orphans)
        deleted += len(orphans)
        after = page[-1]
    return deleted


async def _delete(delete: Callable[[Sequence[T]], Awaitable[None]], orphans: Sequence[T]) -> None:
    for start in range(0, len(orphans), _CHUNK):
        await delete(orphans[start : start + _CHUNK])


async def _forget(database: Database, forget: Callable[[Session, T, int], int], what: T) -> None:
    """Have rows deleted in as many transactions as it takes."""
    while await database.write_bulk(forget, what, _FORGOTTEN_AT_ONCE) == _FORGOTTEN_AT_ONCE:
        pass
