"""The jobs of upkeep, by what they look after; a program chooses those that are its own."""

from collections.abc import Awaitable, Callable, Iterable
from datetime import datetime, timedelta
from functools import partial

import structlog

from mailtape.domain.errors import Unavailable
from mailtape.domain.ids import OrganisationId
from mailtape.opening import Counting, Stores, Upkeep
from mailtape.roles import process
from mailtape.roles.upkeep import Job
from mailtape.rows import rounds
from mailtape.rows.database import Database
from mailtape.services import retention
from mailtape.services.refusals import Refusals
from mailtape.services.usage import ApiCalls
from mailtape.services.wakeups import Wakeups
from mailtape.settings import Settings

log = structlog.get_logger(__name__)

_TRIM_SECONDS = 30.0
_FLUSH_SECONDS = 5.0
_RECONCILE_SECONDS = 5.0
_LOOK_SECONDS = 5.0
TEND_SECONDS = 0.5
_SWEEP_SECONDS = 3600.0
_TIDY_SECONDS = 60.0
_FILES_SECONDS = 5.0
_NEXT = 0.9
"""A round is due so much of its time after the last: clocks and pauses are not exact."""


def of_files(stores: Stores) -> list[Job]:
    """Give back what the files of the embedded stores no longer need; see that files can be had."""
    return [
        Job(_TIDY_SECONDS, "stores.tidy", stores.tidy),
        Job(_FILES_SECONDS, "process.files", process.try_to_open_a_file),
    ]


def of_rows(
    settings: Settings, stores: Stores, local: OrganisationId, clock: Callable[[], datetime]
) -> list[Job]:
    """Keep the captured mail within its bounds; sweep bodies that nobody names."""
    bounds = retention.Bounds(settings.capture_max_messages, settings.capture_max_bytes)

    async def trim() -> int:
        return await retention.trim(stores.database, stores.bodies, local, bounds, now=clock())

    async def sweep() -> int:
        swept = await retention.sweep(stores.database, stores.bodies, stores.queue, now=clock())
        if stores.claims is not None:
            swept += await retention.sweep_claims(stores.claims, stores.queue, now=clock())
        return swept

    return [
        Job(_TRIM_SECONDS, "retention.trim", trim),
        Job(_SWEEP_SECONDS, "retention.sweep", sweep),
    ]


def in_turn(database: Database, jobs: Iterable[Job], clock: Callable[[], datetime]) -> list[Job]:
    """Have each round of these done by one process; the others pass it over."""
    return [job._replace(run=partial(_in_turn, database, job, clock)) for job in jobs]


async def _in_turn(database: Database, job: Job, clock: Callable[[], datetime]) -> int:
    until_next = timedelta(seconds=job.seconds * _NEXT)
    if await database.write(rounds.take, job.name, clock(), until_next):
        return await job.run()
    return 0


def of_counters(counting: Counting, clock: Callable[[], datetime]) -> list[Job]:
    """Keep the counters of this process true to the rows."""
    due = (
        (_RECONCILE_SECONDS, "counters.reconcile", counting.reconcile),
        (_LOOK_SECONDS, "counters.look", counting.look),
        (TEND_SECONDS, "counters.tend", counting.tend),
    )
    return [
        Job(seconds, name, partial(_at, upkeep, clock))
        for seconds, name, upkeep in due
        if upkeep is not None
    ]


async def _at(upkeep: Upkeep, clock: Callable[[], datetime]) -> int:
    return await upkeep(clock())


def of_calls(stores: Stores, calls: ApiCalls) -> Job:
    """Write how often the API was called."""

    async def flush() -> int:
        await calls.flush(stores.database)
        return 0  # not worth a line in the log

    return Job(_FLUSH_SECONDS, "usage.flush", flush)


def of_refusals(
    stores: Stores, refusals: Refusals, wakeups: Wakeups, clock: Callable[[], datetime]
) -> Job:
    """Tell organisations what was refused."""

    async def tell() -> int:
        return await refusals.flush(stores.database, wakeups, clock())

    return Job(_RECONCILE_SECONDS, "refusals.tell", tell)


def last_refusals(
    stores: Stores, refusals: Refusals, wakeups: Wakeups, clock: Callable[[], datetime]
) -> Callable[[], Awaitable[int]]:
    """Tell, when the process ends, also what was refused in a minute that is not over."""

    async def tell() -> int:
        try:
            return await refusals.flush(stores.database, wakeups, clock(), ending=True)
        except Unavailable:
            log.warning("refusals.untold")
            return 0

    return tell
