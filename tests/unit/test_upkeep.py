import asyncio
import time

from mailtape.roles import upkeep


async def test_what_is_done_at_the_end_keeps_nobody_from_ending() -> None:
    done = []

    async def hangs() -> int:
        await asyncio.sleep(60)
        return 0

    async def ends() -> int:
        done.append("last")
        return 1

    async with upkeep.doing([], at_the_end=[hangs, ends]):
        began = time.monotonic()

    assert time.monotonic() - began < 5
    assert done == ["last"]
