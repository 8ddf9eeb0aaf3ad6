"""Deadlines that cost next to nothing to what is done in time, which is nearly everything.

`asyncio.timeout` sets a timer and takes it back, whether it is needed or not: a twelfth of a policy
check. Here a coroutine first runs up to where it waits for something, and what never waits has no
deadline. All others of the same length share one timer, since they run out in the order in which
they were set.
"""

import asyncio
import types
from collections import deque
from collections.abc import Coroutine, Generator
from types import TracebackType
from typing import Any, TypeVar

T = TypeVar("T")

_TICK = 0.001
"""What a loop's clock may be short of when a timer rings."""


async def within_seconds(seconds: float, work: Coroutine[Any, Any, T]) -> T:
    """Do work that may wait for so many seconds.

    Raises:
        TimeoutError: it waited longer, and was cancelled.
    """
    try:
        waits_for = work.send(None)
    except StopIteration as done:
        return done.value  # type: ignore[no-any-return]  # what the coroutine returned
    with _deadlines(seconds).set():
        return await _rest(work, waits_for)


class _Deadline:
    """When a task is cancelled, unless the block ends before; else as `asyncio.timeout`."""

    __slots__ = ("_asked_before", "_passed", "at", "task")

    def __init__(self, at: float, task: asyncio.Task[Any]) -> None:
        self.at = at
        self.task: asyncio.Task[Any] | None = task  # none any more when the block has ended
        self._passed = False
        self._asked_before = task.cancelling()

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, _: type[BaseException] | None, error: BaseException | None, __: TracebackType | None
    ) -> None:
        task, self.task = self.task, None  # this may stand in line for long, behind one that waits
        if task is None or not self._passed:
            return
        ours_alone = task.uncancel() <= self._asked_before
        if ours_alone and isinstance(error, asyncio.CancelledError):
            raise TimeoutError from error

    def let_pass(self) -> None:
        """Cancel the task, if it is still at it; the block then ends with TimeoutError."""
        if self.task is not None:
            self._passed = True
            self.task.cancel()


class _Deadlines:
    """Those of one length in one event loop, in the order in which they run out."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._set: deque[_Deadline] = deque()
        self._timer: asyncio.TimerHandle | None = None

    def set(self) -> _Deadline:
        """Set one for the running task, from now on."""
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None  # noqa: S101 - a coroutine is awaited by a task
        deadline = _Deadline(loop.time() + self._seconds, task)
        while self._set and self._set[0].task is None:
            self._set.popleft()
        self._set.append(deadline)
        if self._timer is None:
            self._timer = loop.call_at(deadline.at, self._ring)
        return deadline

    def _ring(self) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time() + _TICK
        try:
            while self._set and (self._set[0].task is None or self._set[0].at <= now):
                self._set.popleft().let_pass()
        finally:
            self._timer = loop.call_at(self._set[0].at, self._ring) if self._set else None


_of: dict[asyncio.AbstractEventLoop, dict[float, _Deadlines]] = {}
"""Of each loop, by their length."""


def _deadlines(seconds: float) -> _Deadlines:
    loop = asyncio.get_running_loop()
    lengths = _of.get(loop)
    if lengths is None:
        for ended in [each for each in _of if each.is_closed()]:
            del _of[ended]
        lengths = _of[loop] = {}
    deadlines = lengths.get(seconds)
    if deadlines is None:
        deadlines = lengths[seconds] = _Deadlines(seconds)
    return deadlines


@types.coroutine
def _rest(work: Coroutine[Any, Any, T], waits_for: Any) -> Generator[Any, Any, T]:
    """Go on with a coroutine that has begun: PEP 380's `yield from`, from its second step on."""
    while True:
        try:
            try:
                heard = yield waits_for
            except BaseException as error:  # noqa: BLE001 - the coroutine's to deal with
                waits_for = work.throw(error)
            else:
                waits_for = work.send(heard)
        except StopIteration as done:
            return done.value  # type: ignore[no-any-return]
