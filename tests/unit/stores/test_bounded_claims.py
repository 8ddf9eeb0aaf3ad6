"""What large mails are told while the store of claims says nothing."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator

import pytest

from mailtape.domain.errors import Unavailable
from mailtape.stores.bounded_claims import BoundedClaims
from mailtape.stores.mongo_claims import MongoClaims
from mailtape.stores.mongo_connection import open_client

_QUESTION_SECONDS = 0.5


@pytest.fixture
async def bounded() -> AsyncIterator[BoundedClaims]:
    """The bound of a store that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as mute:
        url = f"mongodb://127.0.0.1:{mute.getsockname()[1]}"
        async with open_client(url, operation_seconds=_QUESTION_SECONDS) as client:
            yield BoundedClaims(MongoClaims(client["mailtape"]), max_bytes=1000)


async def _ask(bounded: BoundedClaims) -> None:
    async with bounded.room(1):
        pass


async def test_whoever_asks_at_once_is_told_within_the_time_of_one_question(
    bounded: BoundedClaims,
) -> None:
    begun = time.monotonic()

    ends = await asyncio.gather(*(_ask(bounded) for _ in range(5)), return_exceptions=True)

    assert [type(end) for end in ends] == [Unavailable] * 5
    assert time.monotonic() - begun < 4 * _QUESTION_SECONDS, "one after the other it would be 5"


async def test_who_leaves_takes_no_answer_from_the_others(bounded: BoundedClaims) -> None:
    leaves, stays = (asyncio.create_task(_ask(bounded)) for _ in range(2))
    await asyncio.sleep(_QUESTION_SECONDS / 2)

    leaves.cancel()

    with pytest.raises(Unavailable):
        await stays
