"""What every process that takes mail or answers for it needs: to judge recipients."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime

from mailtape.opening import Stores
from mailtape.roles import jobs, upkeep
from mailtape.rows import organisations
from mailtape.services.quota import Quota
from mailtape.services.recipients import Recipients
from mailtape.services.refusals import Refusals
from mailtape.settings import Settings


@dataclass(frozen=True, slots=True)
class Judging:
    """Who judges recipients in this process."""

    recipients: Recipients
    quota: Quota


@asynccontextmanager
async def judging(
    settings: Settings, stores: Stores, clock: Callable[[], datetime]
) -> AsyncIterator[Judging]:
    """Judge recipients, and tell organisations what was refused.

    Enter it before anything is taken from the queue.
    """
    capture = await stores.database.read(organisations.find_local) if settings.capture else None
    recipients = Recipients(stores.database, domain=settings.domain, capture=capture)
    refusals = Refusals()
    counting = await stores.counting()
    telling = jobs.of_refusals(stores, refusals, stores.wakeups, clock)
    last_words = jobs.last_refusals(stores, refusals, stores.wakeups, clock)
    async with upkeep.doing([telling, *jobs.of_counters(counting, clock)], at_the_end=[last_words]):
        yield Judging(recipients, Quota(recipients, counting.counters, refusals, clock))
