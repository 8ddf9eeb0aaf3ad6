"""Bodies beyond their limit, and bodies that break parsers."""

import json
from collections.abc import AsyncIterator

import httpx
import pytest

from installation import Installation

JSON = {"Content-Type": "application/json"}


async def _drip(total: int) -> AsyncIterator[bytes]:
    for _ in range(total // 2**16):
        yield b" " * 2**16


async def test_a_body_that_says_it_is_too_long_is_not_read(client: httpx.AsyncClient) -> None:
    async def never() -> AsyncIterator[bytes]:
        raise AssertionError("the body was read")
        yield b""

    response = await client.post(
        "/auth/login", content=never(), headers=JSON | {"Content-Length": str(2**24)}
    )

    assert response.status_code == 413
    assert response.json()["code"] == "body_too_large"


async def test_a_body_that_does_not_say_is_cut_off(client: httpx.AsyncClient) -> None:
    response = await client.post("/auth/login", content=_drip(2**24), headers=JSON)

    assert response.status_code == 413
    assert response.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("length", ["9" * 5_000, "-1", "1e9", "0x10"])
async def test_a_senseless_length_is_no_way_around(client: httpx.AsyncClient, length: str) -> None:
    response = await client.post(
        "/auth/login", content=_drip(2**20), headers=JSON | {"Content-Length": length}
    )

    assert response.status_code == 413


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"nonsense",
        b'{"email": ',
        b"[" * 100_000,
        b'{"a":' * 40_000,
        b"\xff\xfe",
        b'"\\ud800"',
        b"null",
        b"[]",
        b'{"email": "\\ud800", "password": "x"}',
        b'{"email": NaN, "password": Infinity}',
        b"1" * 10_000,
        json.dumps({f"k{n}": n for n in range(10_000)}).encode(),
        json.dumps({"email": list(range(10_000)), "password": {}}).encode(),
    ],
)
async def test_bodies_that_break_parsers_are_refused(
    client: httpx.AsyncClient, body: bytes
) -> None:
    response = await client.post("/auth/login", content=body, headers=JSON)

    assert response.status_code in {400, 422}
    assert response.headers["content-type"] == "application/problem+json"
    assert len(response.content) < 10_000


@pytest.mark.parametrize(
    "content_type", ["application/x-www-form-urlencoded", "text/plain", "multipart/form-data", ""]
)
async def test_a_form_of_another_site_is_not_taken_for_json(
    client: httpx.AsyncClient, content_type: str
) -> None:
    body = json.dumps(
        {"email": "a@example.org", "password": "long and private", "organization": "x"}
    )

    response = await client.post(
        "/auth/register", content=body, headers={"Content-Type": content_type}
    )

    assert response.status_code in {400, 422}


async def test_answers_carry_safe_headers(client: httpx.AsyncClient) -> None:
    for path in ("/nothing", "/addresses", "/openapi.json"):
        headers = (await client.get(path)).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cache-control"] == "no-store"


async def test_a_route_may_say_otherwise(installation: Installation) -> None:
    from fastapi import Response

    @installation.app.get("/cached")
    async def _cached() -> Response:
        return Response(headers={"Cache-Control": "max-age=60"})

    response = await installation.client.get("/cached")

    assert response.headers["cache-control"] == "max-age=60"


@pytest.mark.parametrize("path", ["/health", "/docs", "/openapi.json", "/messages", "/nothing"])
async def test_head_answers_as_get_without_the_body(installation: Installation, path: str) -> None:
    bearer = installation.as_bearer(
        await installation.a_token(await installation.an_organisation())
    )

    got = await installation.client.get(path, headers=bearer)
    head = await installation.client.head(path, headers=bearer)

    assert head.status_code == got.status_code
    assert head.headers["content-type"] == got.headers["content-type"]
    assert head.content == b""


@pytest.mark.parametrize(
    ("path", "allowed"),
    [("/messages", "DELETE, GET, HEAD"), ("/messages/x", "DELETE, GET, HEAD, PATCH")],
)
async def test_a_wrong_method_is_told_every_right_one(
    client: httpx.AsyncClient, path: str, allowed: str
) -> None:
    response = await client.put(path)

    assert (response.status_code, response.headers["allow"]) == (405, allowed)
