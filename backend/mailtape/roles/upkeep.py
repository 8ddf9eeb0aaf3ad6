"""Work that is due again and again while a process lives, and once more when it ends."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import NamedTuple

from mailtape.background import lasting
from mailtape_workers.schedule import every

_LAST_SECONDS = 0.5
"""For what is done once more: little is lost without it, and a server that hangs is not waited for
when the process must be gone thirty seconds after it was asked."""


class Job(NamedTuple):
    """What is done every so many seconds; it answers how much it did."""

    seconds: float
    name: str
    run: Callable[[], Awaitable[int]]


@asynccontextmanager
async def doing(
    jobs: Sequence[Job], *, at_the_end: Sequence[Callable[[], Awaitable[int]]] = ()
) -> AsyncIterator[None]:
    """Do these for as long as the context lasts, and the last ones if they are done at once."""
    tasks = [lasting(every(*job), job.name) for job in jobs]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for last in at_the_end:
            await _soon(last)


async def _soon(last: Callable[[], Awaitable[int]]) -> None:
    task = asyncio.ensure_future(last())
    done, _ = await asyncio.wait({task}, timeout=_LAST_SECONDS)
    if done:
        task.result()
    task.cancel()
