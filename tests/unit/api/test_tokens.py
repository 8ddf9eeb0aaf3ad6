import re
from datetime import timedelta

import pytest

from installation import Installation
from mailtape.domain.account import Scope
from mailtape.rows.tokens import ApiToken
from people import register

EVERYTHING_OF_A_TENANT = sorted(set(Scope) - {Scope.INGEST, Scope.POLICY})


async def _owner(installation: Installation) -> dict[str, str]:
    signed_in = (await register(installation.client)).json()
    return installation.as_bearer(signed_in["access_token"])


async def test_a_token_is_shown_once_and_opens_what_its_scopes_say(
    installation: Installation,
) -> None:
    owner = await _owner(installation)

    made = await installation.client.post(
        "/tokens", json={"name": "ci", "scopes": ["addresses:read"]}, headers=owner
    )

    token = made.json()["token"]
    bearer = installation.as_bearer(token)
    assert made.status_code == 201
    assert re.fullmatch(r"mt_[A-Za-z0-9_-]{43}", token)
    assert (await installation.client.get("/addresses", headers=bearer)).status_code == 200
    assert (await installation.client.post("/addresses", headers=bearer)).status_code == 403
    assert token not in (await installation.client.get("/tokens", headers=owner)).text


async def test_a_token_is_kept_as_a_hash_alone(installation: Installation) -> None:
    organisation = await installation.an_organisation()
    token = await installation.a_token(organisation)

    rows = await installation.parts.database.read(lambda session: session.query(ApiToken).all())

    assert token.encode() not in rows[0].token_hash
    assert len(rows[0].token_hash) == 32


async def test_a_revoked_token_is_refused_at_once(installation: Installation) -> None:
    owner = await _owner(installation)
    made = await installation.client.post(
        "/tokens", json={"name": "ci", "scopes": ["addresses:read"]}, headers=owner
    )
    bearer = installation.as_bearer(made.json()["token"])

    gone = await installation.client.delete(f"/tokens/{made.json()['uuid']}", headers=owner)
    again = await installation.client.delete(f"/tokens/{made.json()['uuid']}", headers=owner)

    assert gone.status_code == 204
    assert again.status_code == 404
    assert (await installation.client.get("/addresses", headers=bearer)).status_code == 401


async def test_a_token_expires_at_its_time(installation: Installation) -> None:
    organisation = await installation.an_organisation()
    expires_at = installation.clock() + timedelta(hours=1)
    bearer = installation.as_bearer(await installation.a_token(organisation, expires_at=expires_at))

    before = await installation.client.get("/addresses", headers=bearer)
    installation.clock.advance(timedelta(hours=1))
    after = await installation.client.get("/addresses", headers=bearer)

    assert (before.status_code, after.status_code) == (200, 401)


@pytest.mark.parametrize("scope", ["ingest", "policy"])
async def test_an_owner_cannot_bring_a_service_scope_into_the_world(
    installation: Installation, scope: str
) -> None:
    owner = await _owner(installation)

    response = await installation.client.post(
        "/tokens", json={"name": "x", "scopes": ["messages:read", scope]}, headers=owner
    )

    assert response.status_code == 403
    assert response.json()["code"] == "scope_not_yours"


async def test_a_token_gives_no_scope_that_it_does_not_have(installation: Installation) -> None:
    organisation = await installation.an_organisation()
    token = await installation.a_token(organisation, [Scope.TOKENS_WRITE, Scope.MESSAGES_READ])
    bearer = installation.as_bearer(token)

    statuses = {
        scope: (
            await installation.client.post(
                "/tokens", json={"name": "x", "scopes": [scope]}, headers=bearer
            )
        ).status_code
        for scope in Scope
    }

    given = {scope for scope, status in statuses.items() if status == 201}
    assert given == {Scope.TOKENS_WRITE, Scope.MESSAGES_READ}


@pytest.mark.parametrize(
    "body",
    [
        {"name": "x", "scopes": []},
        {"name": "x", "scopes": ["everything"]},
        {"name": "x", "scopes": "messages:read"},
        {"name": "", "scopes": ["messages:read"]},
        {"name": "a\u2028b", "scopes": ["messages:read"]},
        {"name": "x", "scopes": ["messages:read"], "expires_at": "yesterday"},
        {"name": "x", "scopes": ["messages:read"], "expires_at": "2020-01-01T00:00:00Z"},
        {"name": "x", "scopes": ["messages:read"], "expires_at": "2099-01-01T00:00:00"},
    ],
)
async def test_refuses_a_token_that_makes_no_sense(
    installation: Installation, body: dict[str, object]
) -> None:
    owner = await _owner(installation)

    response = await installation.client.post("/tokens", json=body, headers=owner)

    assert response.status_code == 422
    assert response.json()["errors"]


async def test_lists_come_in_pages_that_miss_and_repeat_nothing(
    installation: Installation,
) -> None:
    owner = await _owner(installation)
    for n in range(5):
        await installation.client.post(
            "/tokens", json={"name": f"token {n}", "scopes": ["usage:read"]}, headers=owner
        )

    names, cursor = [], None
    for _ in range(4):
        query = {"limit": "2"} | ({"cursor": cursor} if cursor else {})
        page = (await installation.client.get("/tokens", params=query, headers=owner)).json()
        names += [item["name"] for item in page["items"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break

    assert names == [f"token {n}" for n in (4, 3, 2, 1, 0)]


async def test_a_members_session_cannot_make_tokens(installation: Installation) -> None:
    from sqlalchemy import update

    from mailtape.rows.accounts import Membership

    owner = await _owner(installation)
    await installation.parts.database.write(
        lambda session: session.execute(update(Membership).values(role="member"))
    )

    response = await installation.client.get("/tokens", headers=owner)

    assert response.status_code == 403
    assert response.json()["code"] == "scope_missing"


async def test_use_is_noted_to_the_hour(installation: Installation) -> None:
    owner = await _owner(installation)
    made = await installation.client.post(
        "/tokens", json={"name": "ci", "scopes": ["addresses:read"]}, headers=owner
    )
    bearer = installation.as_bearer(made.json()["token"])

    async def noted() -> str:
        await installation.client.get("/addresses", headers=bearer)
        listed = await installation.client.get("/tokens", headers=owner)
        return str(listed.json()["items"][0]["last_used_at"])

    first, second = await noted(), await noted()
    installation.clock.advance(timedelta(minutes=61))
    owner = installation.as_bearer((await _log_in_again(installation))["access_token"])
    third = await noted()

    assert first == second
    assert third > second


async def _log_in_again(installation: Installation) -> dict[str, str]:
    from people import log_in

    answer: dict[str, str] = (await log_in(installation.client)).json()
    return answer
