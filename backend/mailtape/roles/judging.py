"""What every process that takes mail or answers for it needs: to judge recipients."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import datetime

from mailtape.domain.errors import NotFound, Unavailable
from mailtape.opening import Stores
from mailtape.ports.counters import Counters
from mailtape.roles import jobs, upkeep
from mailtape.rows import organisations
from mailtape.services.quota import Quota
from mailtape.services.recipients import Recipients, Suspended
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
    await _ask_first(recipients, counting.counters, clock())
    telling = jobs.of_refusals(stores, refusals, stores.wakeups, clock)
    last_words = jobs.last_refusals(stores, refusals, stores.wakeups, clock)
    async with upkeep.doing([telling, *jobs.of_counters(counting, clock)], at_the_end=[last_words]):
        most = settings.smtp_max_organizations
        quota = Quota(recipients, counting.counters, refusals, clock, most_organisations=most)
        yield Judging(recipients, quota)


async def _ask_first(recipients: Recipients, counters: Counters, now: datetime) -> None:
    """Ask about nobody what every door asks, so that connections are open for who asks next.

    Postfix is answered within half a second, which is soon over where each connection is made only
    when it is needed.
    """
    with suppress(Unavailable):  # what is down now may be back when somebody asks
        with suppress(NotFound, Suspended):
            await recipients.resolve("@")
        await counters.usage(organisations.NOBODY, now)
