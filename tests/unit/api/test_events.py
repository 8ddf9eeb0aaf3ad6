import asyncio
import json
from contextlib import AsyncExitStack

import httpx
import pytest

from installation import Installation
from live import follow, serving
from people import WAYS_OUT, register
from postroom import deliver


async def collect(response: httpx.Response, count: int) -> list[tuple[int, str]]:
    """Read so many events; gives sequence and message id."""
    told: list[tuple[int, str]] = []
    async with asyncio.timeout(10):
        async for event in follow(response):
            told.append((int(event.id), json.loads(event.data)["id"]))
            if len(told) == count:
                break
    return told


async def test_tells_of_each_message_as_lists_show_it(installation: Installation) -> None:
    acme = await installation.an_organisation()
    bearer = installation.as_bearer(await installation.a_token(acme))
    hostile = "line\r\nevent: forged\r\n\r\ndata: x\u2028\u2029 <script>"
    await deliver(installation, acme, b"Subject: before\r\n\r\nnot told\r\n")

    async with (
        serving(installation.app) as client,
        client.stream("GET", "/events", headers=bearer) as response,
    ):
        subject = b"=?utf-8?q?" + b"".join(b"=%02X" % octet for octet in hostile.encode()) + b"?="
        (message_id,) = await deliver(installation, acme, b"Subject: " + subject + b"\r\n\r\nb\r\n")
        event = await anext(follow(response))

    listed = await installation.client.get("/messages?limit=1", headers=bearer)
    data = json.loads(event.data)
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.headers["cache-control"] == "no-store"
    assert (event.id, event.event) == ("2", "message.stored")
    assert (data["type"], data["sequence"], data["id"]) == ("message.stored", 2, message_id)
    assert data["message"] == listed.json()["items"][0]


@pytest.mark.parametrize(
    ("headers", "query"),
    [
        ({"Last-Event-ID": "2"}, ""),
        ({}, "?last_event_id=2"),
        ({}, "?since=2"),
        ({"Last-Event-ID": "2"}, "?since=0"),
    ],
)
async def test_resumes_after_what_the_client_has_seen(
    installation: Installation, headers: dict[str, str], query: str
) -> None:
    acme = await installation.an_organisation()
    bearer = installation.as_bearer(await installation.a_token(acme))
    delivered = [(await deliver(installation, acme))[0] for _ in range(4)]
    await installation.client.delete(f"/messages/{delivered[2]}", headers=bearer)

    async with (
        serving(installation.app) as client,
        client.stream("GET", "/events" + query, headers=bearer | headers) as response,
    ):
        stream = follow(response)
        told = [await anext(stream), await anext(stream)]

    assert [event.id for event in told] == ["3", "4"]
    assert [json.loads(event.data)["id"] for event in told] == delivered[2:]
    assert json.loads(told[0].data)["message"] is None


async def test_a_client_that_reconnects_meets_no_hole_and_no_repeat(
    installation: Installation,
) -> None:
    acme = await installation.an_organisation()
    bearer = installation.as_bearer(await installation.a_token(acme))
    total, a_connection = 60, 7
    told: list[tuple[int, str]] = []

    async def keep_delivering() -> list[str]:
        return [(await deliver(installation, acme))[0] for _ in range(total)]

    async with serving(installation.app) as client:
        delivering = asyncio.create_task(keep_delivering())
        while len(told) < total:
            resume = {"Last-Event-ID": str(told[-1][0] if told else 0)}
            async with client.stream("GET", "/events", headers=bearer | resume) as response:
                told += await collect(response, min(a_connection, total - len(told)))
        delivered = await delivering

    assert told == list(enumerate(delivered, 1))


async def test_a_place_that_was_never_reached_is_now(installation: Installation) -> None:
    acme = await installation.an_organisation()
    bearer = installation.as_bearer(await installation.a_token(acme))
    await deliver(installation, acme)

    async with (
        serving(installation.app) as client,
        client.stream("GET", "/events?since=999", headers=bearer) as response,
    ):
        await deliver(installation, acme)

        assert [sequence for sequence, _ in await collect(response, 1)] == [2]


@pytest.mark.parametrize("wrong", ["-1", "x", "1.5", "9" * 19, "1 OR 1=1"])
async def test_refuses_a_place_that_is_no_sequence(installation: Installation, wrong: str) -> None:
    acme = await installation.an_organisation()
    bearer = installation.as_bearer(await installation.a_token(acme))

    response = await installation.client.get("/events", headers=bearer | {"Last-Event-ID": wrong})

    assert response.status_code == 422
    assert response.json()["code"] == "invalid"


async def test_a_stream_of_a_revoked_token_ends_and_shows_nothing_more(
    installation: Installation,
) -> None:
    acme = await installation.an_organisation()
    bearer = installation.as_bearer(await installation.a_token(acme))
    listed = (await installation.client.get("/tokens", headers=bearer)).json()["items"]

    async with (
        serving(installation.app) as client,
        client.stream("GET", "/events", headers=bearer) as response,
    ):
        await client.delete(f"/tokens/{listed[0]['uuid']}", headers=bearer)
        await deliver(installation, acme)

        async with asyncio.timeout(5):
            assert [event async for event in follow(response)] == []


@pytest.mark.parametrize("way", [*WAYS_OUT])
async def test_a_quiet_stream_ends_with_its_session(installation: Installation, way: str) -> None:
    grant = (await register(installation.client)).json()
    bearer = installation.as_bearer(grant["access_token"])

    async with (
        serving(installation.app) as client,
        client.stream("GET", "/events", headers=bearer) as response,
    ):
        await WAYS_OUT[way](client, grant)

        async with asyncio.timeout(5):
            assert [event async for event in follow(response)] == []


async def test_streams_end_cleanly_when_the_process_ends(installation: Installation) -> None:
    acme = await installation.an_organisation()
    bearer = installation.as_bearer(await installation.a_token(acme))

    async with (
        serving(installation.app) as client,
        client.stream("GET", "/events", headers=bearer) as response,
    ):
        installation.parts.wakeups.close()

        async with asyncio.timeout(5):
            assert [event async for event in follow(response)] == []


async def test_an_organisation_has_a_bounded_number_of_watchers(
    installation: Installation,
) -> None:
    acme = await installation.an_organisation()
    rival = await installation.an_organisation("rival")
    token = await installation.a_token(acme)
    async with serving(installation.app) as client:
        async with AsyncExitStack() as stack:
            for _ in range(installation.parts.wakeups.most):
                await stack.enter_async_context(installation.parts.wakeups.watch(acme))

            refused = await client.get("/events", headers=installation.as_bearer(token))
            waiting = await client.get("/messages/wait", headers=installation.as_bearer(token))
            theirs = installation.as_bearer(await installation.a_token(rival))
            async with client.stream("GET", "/events", headers=theirs) as other:
                assert other.status_code == 200

        for response in (refused, waiting):
            assert response.status_code == 429
            assert response.headers["retry-after"]
        async with client.stream("GET", "/events", headers=installation.as_bearer(token)) as free:
            assert free.status_code == 200


async def test_a_stream_that_its_client_left_is_no_longer_watching(
    installation: Installation,
) -> None:
    acme = await installation.an_organisation()
    bearer = installation.as_bearer(await installation.a_token(acme))
    watches = installation.parts.wakeups

    async with serving(installation.app) as client:
        async with client.stream("GET", "/events", headers=bearer) as response:
            assert response.status_code == 200
            assert watches.watching(acme) == 1
        async with asyncio.timeout(5):
            while watches.watching(acme):
                await asyncio.sleep(0)
