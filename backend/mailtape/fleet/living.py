"""What the processes of a fleet share: judging, being looked after, serving until told."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

from mailtape.opening import Stores
from mailtape.ports.queue import Queue
from mailtape.roles import http, jobs, listening, metrics, process, upkeep
from mailtape.rows import organisations
from mailtape.services.health import Question
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
async def judging(settings: Settings, stores: Stores) -> AsyncIterator[Judging]:
    """Judge recipients, and tell organisations what was refused."""
    capture = await stores.database.read(organisations.find_local) if settings.capture else None
    recipients = Recipients(stores.database, domain=settings.domain, capture=capture)
    refusals = Refusals()
    telling = jobs.of_refusals(stores, refusals, stores.wakeups, now)
    counting = stores.counting
    last_words = jobs.last_refusals(stores, refusals, stores.wakeups, now)
    async with upkeep.doing([telling, *jobs.of_counters(counting, now)], at_the_end=[last_words]):
        yield Judging(recipients, Quota(recipients, counting.counters, refusals, now))


async def looked_after(
    settings: Settings,
    stack: AsyncExitStack,
    questions: Mapping[str, Question],
    queue: Queue | None = None,
) -> None:
    """Show health and metrics where METRICS_LISTEN says."""
    if settings.metrics_listen is not None:
        bound = stack.enter_context(listening.bind(settings.metrics_listen))
        await stack.enter_async_context(
            http.serving(settings, metrics.create_app(questions, queue), bound, lambda: None)
        )


async def until(stopped: asyncio.Event, settings: Settings, *addresses: str) -> None:
    """Serve until it is time to stop; then the caller's contexts end one after the other."""
    process.settle_memory()
    process.tell_ready(settings, *addresses)
    await stopped.wait()
    process.tell_stopping(settings)


def now() -> datetime:
    """Read the clock."""
    return datetime.now(UTC)
