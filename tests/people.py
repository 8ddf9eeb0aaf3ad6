"""People who register and sign in over HTTP, as a test's actors."""

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
