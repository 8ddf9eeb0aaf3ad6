"""Opens what an installation stands on: of each store the twin that its setting names.

The one place where technologies are chosen. What has no setting is SQLite in the data folder, whose
files belong to one process. Servers are not waited for: a process starts while one of them is down,
and works with it as soon as it is there.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

from mailtape.data_folder import DataFolder
from mailtape.ports.bodies import Bodies
from mailtape.ports.limits import FailureLimits
from mailtape.ports.queue import Queue
from mailtape.rows.database import Database
from mailtape.services.wakeups import Wakeups
from mailtape.settings import Settings
from mailtape.stores.embedded import open_stores
from mailtape.stores.sql_counters import SqlCounters
from mailtape.stores.sql_limits import SqlFailureLimits


@dataclass(frozen=True, slots=True)
class Stores:
    """What one process stands on, open."""

    database: Database
    bodies: Bodies
    queue: Queue
    counters: SqlCounters
    limits: FailureLimits
    wakeups: Wakeups
    tidy: Callable[[], Awaitable[int]]
    """Gives back what files no longer need; tells how much."""


@asynccontextmanager
async def opened(settings: Settings, folder: DataFolder) -> AsyncIterator[Stores]:
    """Open everything, and close it again.

    The counters have read what waits in the queue, so nothing may be taken from it before.

    Raises:
        Unavailable: a file cannot be opened.
    """
    embedded = open_stores(folder, queue_max_bytes=settings.queue_max_bytes)
    try:
        counters = SqlCounters(embedded.database, await embedded.queue.backlog())
        await counters.start(datetime.now(UTC))
        yield Stores(
            database=embedded.database,
            bodies=embedded.bodies,
            queue=embedded.queue,
            counters=counters,
            limits=SqlFailureLimits(embedded.database),
            wakeups=Wakeups(settings.watches_per_organization),
            tidy=embedded.tidy,
        )
    finally:
        await asyncio.to_thread(embedded.close)
