"""People who register and sign in over HTTP, as a test's actors."""

from collections.abc import Awaitable, Callable
from typing import Any

import httpx

PASSWORD = "a long and private sentence"


async def register(
    client: httpx.AsyncClient, email: str = "ada@example.org", **changes: Any
) -> httpx.Response:
    """Register somebody; the refresh token is in the answer."""
    body = {
        "email": email,
        "password": PASSWORD,
        "organization": "Analytical Engines",
        "cookie": False,
    }
    return await client.post("/auth/register", json=body | changes)


async def log_in(
    client: httpx.AsyncClient, email: str = "ada@example.org", **changes: Any
) -> httpx.Response:
    """Sign somebody in; the refresh token is in the answer."""
    body = {"email": email, "password": PASSWORD, "cookie": False}
    return await client.post("/auth/login", json=body | changes)


async def refresh(
    client: httpx.AsyncClient, token: str, *, user_agent: str | None = None
) -> httpx.Response:
    """Exchange a refresh token."""
    headers = {} if user_agent is None else {"User-Agent": user_agent}
    return await client.post("/auth/refresh", json={"refresh_token": token}, headers=headers)


async def is_let_in(client: httpx.AsyncClient, access_token: str) -> bool:
    """Tell whether an access token opens a door."""
    response = await client.get("/addresses", headers={"Authorization": f"Bearer {access_token}"})
    assert response.status_code in {200, 401}
    return response.status_code == 200


async def _log_out(client: httpx.AsyncClient, grant: Any, *, everywhere: bool = False) -> None:
    response = await client.post(
        "/auth/logout-all" if everywhere else "/auth/logout",
        headers={"Authorization": f"Bearer {grant['access_token']}"},
    )
    assert response.status_code == 204


async def _log_out_everywhere(client: httpx.AsyncClient, grant: Any) -> None:
    await _log_out(client, grant, everywhere=True)


async def _sign_this_device_out(client: httpx.AsyncClient, grant: Any) -> None:
    bearer = {"Authorization": f"Bearer {grant['access_token']}"}
    (device,) = (await client.get("/auth/sessions", headers=bearer)).json()["items"]
    response = await client.delete(f"/auth/sessions/{device['uuid']}", headers=bearer)
    assert response.status_code == 204


async def _use_a_refresh_token_again(client: httpx.AsyncClient, grant: Any) -> None:
    newer = (await refresh(client, grant["refresh_token"])).json()
    await refresh(client, newer["refresh_token"])
    response = await refresh(client, grant["refresh_token"])
    assert response.json()["code"] == "refresh_token_reused"


async def _sign_in_over_it(client: httpx.AsyncClient, grant: Any) -> None:
    renewed = await client.post(
        "/auth/login",
        json={"email": "ada@example.org", "password": PASSWORD},
        headers={"Cookie": f"refresh_token={grant['refresh_token']}"},
    )
    assert renewed.status_code == 200


WAYS_OUT: dict[str, Callable[[httpx.AsyncClient, Any], Awaitable[None]]] = {
    "logout": _log_out,
    "logout-all": _log_out_everywhere,
    "revoked": _sign_this_device_out,
    "refresh token reused": _use_a_refresh_token_again,
    "replaced": _sign_in_over_it,
}
"""The ways in which a session ends before its time; each is given what `register` answered."""
