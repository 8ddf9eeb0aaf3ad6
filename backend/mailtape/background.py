"""Tasks that last as long as what started them.

A task that ends of itself leaves a process that looks alive and does that work no more. So an end
that nobody asked for is logged, and the process ends in order, as by SIGTERM, but with a failure:
whoever supervises it starts it anew.
"""

import asyncio
import signal
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

import structlog

from mailtape.domain.errors import Unavailable

log = structlog.get_logger(__name__)

_ended_early: list[str] = []


class TaskEnded(Exception):
    """A task that should last as long as the process did not; the log says why."""


def lasting(work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
    """Start a task that ends when it is cancelled, or returns because its work is over."""
    task = asyncio.create_task(work, name=name)
    task.add_done_callback(_ended)
    return task


def check_that_all_lasted() -> None:
    """Call it when the loop has ended.

    Raises:
        TaskEnded: the process ended because of a task, not because it was told to.
    """
    if _ended_early:
        raise TaskEnded(f"This should have lasted and did not: {_ended_early.pop()}.")


def _ended(task: asyncio.Task[None]) -> None:
    if task.cancelling():  # asked for
        return
    error = asyncio.CancelledError() if task.cancelled() else task.exception()
    if error is not None:
        log.critical("task.ended", task=task.get_name(), exc_info=error)
        _ended_early.append(task.get_name())
        signal.raise_signal(signal.SIGTERM)


@contextmanager
def own_cancellation_only() -> Iterator[None]:
    """Take it for a failure when what this task waits for was cancelled, and not the task.

    Raises:
        Unavailable: it was.
    """
    try:
        yield
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise Unavailable("What was waited for has been given up.") from error
