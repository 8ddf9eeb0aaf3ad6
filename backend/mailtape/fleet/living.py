"""What the processes of a fleet share: being looked after, serving until told."""

import asyncio
from collections.abc import Mapping
from contextlib import AsyncExitStack
from datetime import UTC, datetime

from mailtape.ports.queue import Queue
from mailtape.roles import http, listening, metrics, process
from mailtape.services.health import Question
from mailtape.settings import Settings


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
