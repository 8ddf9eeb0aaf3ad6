"""Work that is due again and again: one job after a pause, for ever, whatever went wrong before."""

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from mailtape.background import own_cancellation_only
from mailtape.domain.errors import Unavailable

log = structlog.get_logger(__name__)


async def every(seconds: float, name: str, job: Callable[[], Awaitable[int]]) -> None:
    """Run a job, wait, run it again, until cancelled.

    A job answers how much it did; a failure is logged and tried again after the pause, because a
    store that is down now will be up later.
    """
    while True:
        try:
            with own_cancellation_only():
                done = await job()
        except Unavailable as error:
            log.warning("job.put_off", job=name, reason=error.message)
        except Exception:
            log.exception("job.failed", job=name)
        else:
            if done:
                log.info("job.done", job=name, count=done)
        await asyncio.sleep(seconds)
