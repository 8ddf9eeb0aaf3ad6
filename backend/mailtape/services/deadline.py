"""A deadline that costs nothing to what never waits.

`asyncio.timeout` sets a timer and takes it back, whether it is needed or not: a sixth of a policy
check, and nearly every check is answered from memory. Here a coroutine first runs up to where it
waits for something; only then is a timer set.
"""

import asyncio
import types
from collections.abc import Coroutine, Generator
from typing import Any, TypeVar

T = TypeVar("T")


async def within_seconds(seconds: float, work: Coroutine[Any, Any, T]) -> T:
    """Do work that may wait for so many seconds.

    Raises:
        TimeoutError: it waited longer, and was cancelled.
    """
    try:
        waits_for = work.send(None)
    except StopIteration as done:
        return done.value  # type: ignore[no-any-return]  # what the coroutine returned
    async with asyncio.timeout(seconds):
        return await _rest(work, waits_for)


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
