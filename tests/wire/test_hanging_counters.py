"""Counters that answer slowly or not at all: a mail of many recipients must not wait for each."""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from mailtape.domain.errors import Unavailable
from mailtape.ports.counters import NothingNew
from mailtape.services import quota as quota_module
from mailtape.services.quota import Quota
from mailtape.stores.sql_counters import SqlCounters
from mailtape_ingest import handler
from wire.conftest import House, OpenHouse

CANNOT_TELL = "451 4.3.0 cannot tell at the moment, try again later"
MANY = 10
LIMITED = [f"twice{number}@b" for number in range(MANY)]
"""Each of an organisation of its own."""


class FarCounters:
    """The real counters at the end of a wire on which some verbs are slow, or find no answer."""

    def __init__(self, counters: SqlCounters) -> None:
        self.counters = counters
        self.seconds: dict[str, float] = {}
        self.silent: set[str] = set()
        self.forgotten: set[tuple[str, str]] = set()
        """What is asked, and of whom nothing is known any more then."""
        self.asked: Counter[str] = Counter()

    def __getattr__(self, verb: str) -> Callable[..., Awaitable[Any]]:
        async def ask(*args: Any) -> Any:
            self.asked[verb] += 1
            await asyncio.sleep(self.seconds.get(verb, 0))
            if verb in self.silent:
                raise Unavailable("The counters do not answer.")
            if verb in {"reserve", "fits"} and (verb, args[2][1]) in self.forgotten:
                raise NothingNew("The counters were lost a moment ago.")
            return await getattr(self.counters, verb)(*args)

        return ask


@pytest.fixture
def counters(quota: Quota) -> FarCounters:
    quota._counters = FarCounters(quota._counters)
    return quota._counters


async def hand_over(house: House, recipients: list[str]) -> tuple[list[str], float]:
    """Has the recipients accepted, then sends the mail; gives a reply for each, and the time."""
    client = await house.client()
    said = ["LHLO a", "MAIL FROM:<>", *(f"RCPT TO:<{each}>" for each in recipients), "DATA"]
    assert [reply[:3] for reply in await client.says(*said)] == ["250"] * (len(said) - 1) + ["354"]
    started = time.monotonic()
    await client.send(b"x\r\n.\r\n")
    replies = [await client.reply() for _ in recipients]
    return replies, time.monotonic() - started


async def test_after_the_first_that_cannot_be_told_no_other_of_the_mail_is_asked_about(
    open_lmtp: OpenHouse, counters: FarCounters
) -> None:
    house = await open_lmtp()

    counters.silent = {"fits", "release"}

    replies, _ = await hand_over(house, [*LIMITED, "qa@b"])

    assert replies == [CANNOT_TELL] * MANY + ["250 2.0.0 Message accepted"]
    assert counters.asked == {"reserve": MANY, "fits": 1, "release": 1}


async def test_after_the_first_recipient_that_cannot_be_told_no_other_is_asked_about(
    open_house: OpenHouse, counters: FarCounters
) -> None:
    house = await open_house()
    client = await house.client()
    counters.silent = {"reserve"}

    blind = await client.says("HELO a", "MAIL FROM:<>", *(f"RCPT TO:<{each}>" for each in LIMITED))
    asked = dict(counters.asked)
    counters.silent.clear()
    again = await client.says("RSET", "MAIL FROM:<>", f"RCPT TO:<{LIMITED[0]}>")

    assert blind[2:] == [CANNOT_TELL] * MANY
    assert asked == {"reserve": 1}
    assert again[-1].startswith("250")


async def test_who_is_not_counted_is_taken_after_one_who_cannot_be_told(
    open_house: OpenHouse, counters: FarCounters
) -> None:
    house = await open_house()
    client = await house.client()
    await client.says("HELO a", "MAIL FROM:<>", "RCPT TO:<qa@b>", "RSET")
    counters.silent = {"reserve"}

    said = ["MAIL FROM:<>", *(f"RCPT TO:<{each}>" for each in [LIMITED[0], "qa@b", LIMITED[1]])]
    told = (await client.says(*said))[1:]

    assert [reply[:9] for reply in told] == [CANNOT_TELL[:9], "250 2.1.5", CANNOT_TELL[:9]]
    assert counters.asked == {"reserve": 1}


async def test_counters_that_forgot_somebody_are_asked_about_the_others(
    open_house: OpenHouse, counters: FarCounters
) -> None:
    """They say so at once, and what is held for others holds."""
    house = await open_house()
    client = await house.client()
    counters.forgotten = {("reserve", LIMITED[0])}

    recipients = [LIMITED[0], "unknown@b", "qa@b", LIMITED[1]]
    said = ["HELO a", "MAIL FROM:<>", *(f"RCPT TO:<{each}>" for each in recipients)]
    told = (await client.says(*said))[2:]

    assert [reply[:9] for reply in told] == [
        CANNOT_TELL[:9],
        "550 5.1.1",
        "250 2.1.5",
        "250 2.1.5",
    ]


async def test_a_mail_whose_room_was_forgotten_is_put_off_for_that_recipient_alone(
    open_lmtp: OpenHouse, counters: FarCounters
) -> None:
    house = await open_lmtp()
    counters.forgotten = {("fits", LIMITED[0])}

    replies, _ = await hand_over(house, LIMITED[:3])

    assert [reply[:3] for reply in replies] == ["451", "250", "250"]


async def test_a_mail_that_takes_too_long_to_judge_is_for_later(
    open_lmtp: OpenHouse, counters: FarCounters, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handler, "_JUDGING_SECONDS", 1)
    house = await open_lmtp()
    counters.seconds["fits"] = 0.5

    replies, seconds = await hand_over(house, LIMITED)

    assert [reply[:9] for reply in replies] == ["451 4.3.0"] * MANY
    assert seconds < 0.5 * MANY
    assert await house.kept() == []


async def test_a_mail_that_is_kept_is_answered_however_long_it_takes_to_count_it(
    open_lmtp: OpenHouse, counters: FarCounters, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quota_module, "_BOOKING_SECONDS", 1)
    house = await open_lmtp()
    counters.seconds["commit"] = 0.5

    replies, seconds = await hand_over(house, LIMITED)

    assert [reply[:3] for reply in replies] == ["250"] * MANY
    assert seconds < 0.5 * MANY
    assert len(await house.kept()) == 1
