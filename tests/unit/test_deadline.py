"""Work gets its time, and no more; whoever cancels from outside is heard."""

import asyncio
import gc
import time

import pytest
import uvloop

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


class Unhurried(asyncio.SelectorEventLoop):
    """A loop whose clock stands still while anything is to be done, then goes to the next timer."""

    _now = 0.0

    def time(self) -> float:
        return self._now

    def _run_once(self) -> None:
        if not self._ready and self._scheduled:  # type: ignore[attr-defined]
            self._now = max(self._now, self._scheduled[0].when())  # type: ignore[attr-defined]
        super()._run_once()  # type: ignore[misc]


def test_each_runs_out_in_its_own_time() -> None:
    async def waits(after: float) -> float:
        await asyncio.sleep(after)
        begun = asyncio.get_running_loop().time()
        with pytest.raises(TimeoutError):
            await within_seconds(0.2, asyncio.Event().wait())
        return asyncio.get_running_loop().time() - begun

    async def all_of_them() -> list[float]:
        done = [within_seconds(0.2, asyncio.sleep(0.05 * n)) for n in range(4)]
        took = asyncio.gather(*(waits(0.03 * n) for n in range(10)))
        await asyncio.gather(*done)
        return await took

    with asyncio.Runner(loop_factory=Unhurried) as runner:
        assert runner.run(all_of_them()) == pytest.approx([0.2] * 10, abs=0.002)


async def test_what_is_done_is_not_cancelled_when_its_time_is_up() -> None:
    await within_seconds(0.05, asyncio.sleep(0))

    await asyncio.sleep(0.1)


async def test_what_is_done_is_remembered_no_longer_than_what_began_before_it() -> None:
    for _ in range(1000):
        await within_seconds(LONG, asyncio.sleep(0))

    left = sum(type(each).__name__ == "_Deadline" for each in gc.get_objects())
    assert left < 100


async def test_a_task_that_was_to_be_cancelled_before_is_told_that_time_is_up() -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.sleep(0)

    with pytest.raises(TimeoutError):
        await within_seconds(0.01, asyncio.Event().wait())
    assert task.uncancel() == 0


async def test_one_within_another_runs_out_alone() -> None:
    async def inner() -> str:
        try:
            await within_seconds(0.05, asyncio.Event().wait())
        except TimeoutError:
            return await asyncio.sleep(0.01, "went on")
        return "never"

    assert await within_seconds(LONG, inner()) == "went on"


async def test_one_within_another_of_the_same_length() -> None:
    inside = within_seconds(0.05, asyncio.Event().wait())

    with pytest.raises(TimeoutError):
        await within_seconds(0.05, inside)
    assert not asyncio.current_task().cancelling()  # type: ignore[union-attr]


async def test_cancelled_from_outside_as_its_time_runs_out_it_is_cancelled() -> None:
    task = asyncio.create_task(within_seconds(0.01, asyncio.Event().wait()))
    await asyncio.sleep(0)
    asyncio.get_running_loop().call_later(0.01, task.cancel)
    time.sleep(0.05)  # noqa: ASYNC251 - both are due at the same turn of the loop

    with pytest.raises(asyncio.CancelledError):
        await task


def test_it_runs_out_on_the_loop_that_serves_too() -> None:
    async def forty() -> list[object]:
        late = [within_seconds(0.5, asyncio.Event().wait()) for _ in range(20)]
        done = [within_seconds(0.5, asyncio.sleep(0, "done")) for _ in range(20)]
        return await asyncio.gather(*late, *done, return_exceptions=True)

    for _ in range(2):  # one loop after the other
        told = uvloop.run(forty())
        assert [type(each) for each in told[:20]] == [TimeoutError] * 20
        assert told[20:] == ["done"] * 20
