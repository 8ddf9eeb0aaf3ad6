"""Work gets its time, and no more; whoever cancels from outside is heard."""

import asyncio
import time

import pytest

from mailtape.deadline import within_seconds

LONG = 30.0


async def test_what_never_waits_has_no_deadline() -> None:
    async def at_once() -> int:
        return 7

    assert await within_seconds(0.0, at_once()) == 7


async def test_what_waits_may_take_its_time() -> None:
    async def slowly() -> list[int]:
        heard = []
        for number in range(3):
            await asyncio.sleep(0.001)
            heard.append(await asyncio.sleep(0, number))
        return heard

    assert await within_seconds(LONG, slowly()) == [0, 1, 2]


async def test_what_waits_too_long_is_cancelled() -> None:
    cleaned_up = False

    async def forever() -> None:
        nonlocal cleaned_up
        try:
            await asyncio.Event().wait()
        finally:
            cleaned_up = True

    with pytest.raises(TimeoutError):
        await within_seconds(0.01, forever())

    assert cleaned_up
    assert not asyncio.current_task().cancelling()  # type: ignore[union-attr]


async def test_work_that_answers_when_it_is_cancelled_has_answered() -> None:
    async def stubborn() -> str:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return "answered all the same"
        return "never"

    assert await within_seconds(0.01, stubborn()) == "answered all the same"


@pytest.mark.parametrize("waits", [False, True])
async def test_an_error_is_raised_as_it_is(*, waits: bool) -> None:
    async def fails() -> None:
        if waits:
            await asyncio.sleep(0)
        raise KeyError("a")

    with pytest.raises(KeyError):
        await within_seconds(LONG, fails())


async def test_an_error_of_what_was_waited_for_reaches_the_work() -> None:
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_soon(future.set_exception, ValueError("b"))

    async def asks() -> str:
        try:
            await future
        except ValueError as error:
            return str(error)
        return "nothing"

    assert await within_seconds(LONG, asks()) == "b"


async def test_whoever_cancels_from_outside_is_heard() -> None:
    async def forever() -> None:
        await asyncio.Event().wait()

    task = asyncio.create_task(within_seconds(LONG, forever()))
    await asyncio.sleep(0.01)
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task


async def test_each_runs_out_in_its_time_though_one_timer_serves_all() -> None:
    begun, late = time.monotonic(), []

    async def waits(seconds: float) -> None:
        await asyncio.sleep(seconds)
        try:
            await within_seconds(0.1, asyncio.Event().wait())
        except TimeoutError:
            late.append(time.monotonic() - begun - seconds)

    done = [within_seconds(0.1, asyncio.sleep(0.01 * n)) for n in range(5)]
    await asyncio.gather(*(waits(0.02 * n) for n in range(10)), *done)

    assert len(late) == 10
    assert min(late) >= 0.09  # a loop may call a millisecond early


async def test_what_is_done_is_not_cancelled_when_its_time_is_up() -> None:
    await within_seconds(0.05, asyncio.sleep(0.01))

    await asyncio.sleep(0.1)


async def test_one_within_another_runs_out_alone() -> None:
    async def inner() -> str:
        try:
            await within_seconds(0.01, asyncio.Event().wait())
        except TimeoutError:
            return await asyncio.sleep(0.01, "went on")
        return "never"

    assert await within_seconds(LONG, inner()) == "went on"


async def test_cancelled_from_outside_as_its_time_runs_out_it_is_cancelled() -> None:
    task = asyncio.create_task(within_seconds(0.01, asyncio.Event().wait()))
    await asyncio.sleep(0)
    asyncio.get_running_loop().call_later(0.01, task.cancel)
    time.sleep(0.05)  # noqa: ASYNC251 - both are due at the same turn of the loop

    with pytest.raises(asyncio.CancelledError):
        await task
