"""Tasks that last as long as a process, in the loop that serves, with the signals it owns."""

import asyncio
import signal
from collections.abc import Awaitable, Callable

import pytest
import uvloop
from structlog.testing import capture_logs

from mailtape.background import TaskEnded, check_that_all_lasted, lasting
from mailtape.domain.errors import Unavailable
from mailtape.roles import process
from mailtape_workers.schedule import every

Work = Callable[[], Awaitable[None]]


async def _fail() -> None:
    raise ZeroDivisionError


async def _wait_for_what_another_cancels() -> None:
    raise asyncio.CancelledError


async def _return() -> None:
    pass


async def _last() -> None:
    await asyncio.Event().wait()


def _ends_the_process(work: Work) -> bool:
    """Does it for a moment, and cancels it; tells whether the process was told to end."""

    async def serve() -> bool:
        stopped = process.on_signal()
        try:
            task = lasting(work(), "a task")
            for _ in range(10):
                await asyncio.sleep(0.005)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await asyncio.sleep(0.01)
            return stopped.is_set()
        finally:
            for number in (signal.SIGTERM, signal.SIGINT):
                asyncio.get_running_loop().remove_signal_handler(number)

    return uvloop.run(serve())


@pytest.mark.parametrize("work", [_fail, _wait_for_what_another_cancels])
def test_a_process_ends_in_order_when_one_ends_that_should_last(work: Work) -> None:
    with capture_logs() as logs:
        assert _ends_the_process(work)

    assert [(line["event"], line["task"]) for line in logs] == [("task.ended", "a task")]
    with pytest.raises(TaskEnded, match="a task"):
        check_that_all_lasted()


@pytest.mark.parametrize("work", [_return, _last])
def test_an_end_that_was_asked_for_is_none_of_these(work: Work) -> None:
    with capture_logs() as logs:
        assert not _ends_the_process(work)

    assert logs == []
    check_that_all_lasted()


@pytest.mark.parametrize("error", [ZeroDivisionError, asyncio.CancelledError, Unavailable])
def test_a_job_is_done_again_whatever_became_of_it(error: type[BaseException]) -> None:
    done = 0

    async def job() -> int:
        nonlocal done
        done += 1
        raise error

    with capture_logs():
        assert not _ends_the_process(lambda: every(0.001, "a job", job))

    assert done > 1
