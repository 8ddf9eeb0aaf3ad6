"""The one thread that writes to SQLite.

SQLite has one writer a file, and writers that meet wait for each other with sleeps; so everything
that is written goes through this thread, in order, except that urgent work (a person is waiting
for it) passes the rest. What was handed over is done, even when nobody waits for it any more.
"""

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class _Work(NamedTuple):
    run: Callable[[], Any]
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[Any]


class WritingThread:
    """Runs work in order of arrival, urgent work first."""

    def __init__(self) -> None:
        self._urgent: deque[_Work] = deque()
        self._normal: deque[_Work] = deque()
        self._arrived = threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(target=self._work, name="writing", daemon=True)
        self._thread.start()

    def submit(self, run: Callable[[], T], *, urgent: bool = False) -> asyncio.Future[T]:
        """Hand over work from the event loop; the future is its result or its error."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        with self._arrived:
            if self._stopping:
                raise RuntimeError("the writing thread has stopped")
            (self._urgent if urgent else self._normal).append(_Work(run, loop, future))
            self._arrived.notify()
        return future

    def stop(self) -> None:
        """Finish all that was handed over, then end. Blocks; call it once, at the very end."""
        with self._arrived:
            self._stopping = True
            self._arrived.notify()
        self._thread.join()

    def _work(self) -> None:
        while (work := self._next()) is not None:
            try:
                result = work.run()
            except BaseException as error:  # noqa: BLE001 - carried to whoever waits
                outcome: tuple[Any, BaseException | None] = (None, error)
            else:
                outcome = (result, None)
            try:
                work.loop.call_soon_threadsafe(_settle, work.future, *outcome)
            except RuntimeError:
                continue  # the loop is closed: nobody waits, and the work itself is done

    def _next(self) -> _Work | None:
        with self._arrived:
            while not (self._urgent or self._normal or self._stopping):
                self._arrived.wait()
            if self._urgent:
                return self._urgent.popleft()
            return self._normal.popleft() if self._normal else None


def _settle(future: asyncio.Future[Any], result: object, error: BaseException | None) -> None:
    if future.done():  # cancelled by whoever waited
        return
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(result)
