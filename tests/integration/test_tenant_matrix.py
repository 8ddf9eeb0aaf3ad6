"""Every route of the API against everybody who may not use it.

The table is checked against the OpenAPI document: a route without a line fails, and so does a
line without a route. Columns: what a route needs; where the things of another organisation lie;
what the other organisation's caller is answered (404 for a thing, an answer without it for a list).
"""

import asyncio
import shutil
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import timedelta
from email.message import EmailMessage
from pathlib import Path

import httpx
import pytest
from starlette.types import Message

from installation import Installation, open_installation
from mailtape.domain import ids
from mailtape.domain.account import SERVICE_SCOPES, Scope
from mailtape.domain.ids import OrganisationId
from people import register
from postroom import a_mail, deliver

SECRET = "only-for-the-owner"
"""Stands in everything that belongs to the owner: in subjects, addresses and names."""


@dataclass(frozen=True)
class Door:
    """One route, and how strangers fare there."""

    needs: Scope | None
    """None: a person who has signed in; see `public` for routes that ask nobody."""
    stranger: int = 200
    """What a caller of another organisation, with every scope, is answered."""
    public: int | None = None
    """What nobody in particular is answered, where no one is asked who they are."""
    body: object = None
    query: dict[str, str] = field(default_factory=dict)


DOORS = {
    "POST /auth/register": Door(None, public=422, body={}),
    "POST /auth/login": Door(None, public=422, body={}),
    "POST /auth/refresh": Door(None, public=401),
    "POST /auth/logout": Door(None, 204),
    "POST /auth/logout-all": Door(None, 204),
    "GET /auth/sessions": Door(None),
    "DELETE /auth/sessions/{session}": Door(None, 404),
    "GET /tokens": Door(Scope.TOKENS_READ),
    "POST /tokens": Door(Scope.TOKENS_WRITE, 201, body={"name": "n", "scopes": ["usage:read"]}),
    "DELETE /tokens/{token}": Door(Scope.TOKENS_WRITE, 404),
    "GET /addresses": Door(Scope.ADDRESSES_READ),
    "POST /addresses": Door(Scope.ADDRESSES_WRITE, 409, body={"local_part": SECRET}),
    "DELETE /addresses/{address}": Door(Scope.ADDRESSES_WRITE, 404),
    "GET /messages": Door(Scope.MESSAGES_READ),
    "DELETE /messages": Door(Scope.MESSAGES_WRITE, query={"all": "true"}),
    "GET /messages/count": Door(Scope.MESSAGES_READ),
    "GET /messages/wait": Door(Scope.MESSAGES_READ, 204, query={"timeout": "0"}),
    "GET /messages/{message}": Door(Scope.MESSAGES_READ, 404),
    "PATCH /messages/{message}": Door(Scope.MESSAGES_WRITE, 404, body={"read": True}),
    "DELETE /messages/{message}": Door(Scope.MESSAGES_WRITE, 404),
    "GET /messages/{message}/raw": Door(Scope.MESSAGES_READ, 404),
    "GET /messages/{message}/html": Door(Scope.MESSAGES_READ, 404),
    "GET /messages/{message}/text": Door(Scope.MESSAGES_READ, 404),
    "GET /messages/{message}/attachments/{aid}": Door(Scope.MESSAGES_READ, 404),
    "GET /view/{signature}/html": Door(None, public=404),
    "GET /view/{signature}/attachments/{aid}": Door(None, public=404),
    "GET /events": Door(Scope.MESSAGES_READ),
    "POST /ingest": Door(Scope.INGEST, 422, query={"recipient": "x@elsewhere.example"}),
    "POST /policy/check": Door(
        Scope.POLICY, body={"protocol_state": "RCPT", "recipient": "x@elsewhere.example"}
    ),
    "GET /usage": Door(Scope.USAGE_READ, 404, query={"org_uuid": "{organisation}"}),
    "GET /health": Door(None, public=200),
    "GET /metrics": Door(None, public=200),
}

_NAMES = {"message_id": "message"}
"""Path parameters by what they name; `uuid` is named after its collection."""


def _known_as(method: str, path: str) -> str:
    collection = path.strip("/").split("/{")[0].rsplit("/", 1)[-1]
    noun = {"sessions": "session", "tokens": "token", "addresses": "address"}.get(collection, "")
    path = path.replace("{uuid}", f"{{{noun}}}")
    for name, known in _NAMES.items():
        path = path.replace(f"{{{name}}}", f"{{{known}}}")
    return f"{method.upper()} {path}"


@dataclass
class Two:
    """An owner who has one of everything, and a stranger who has nothing but every right."""

    installation: Installation
    owner: OrganisationId
    stranger: OrganisationId
    things: dict[str, str]

    async def knock(self, name: str, token: str | None) -> httpx.Response:
        """Try a door of the owner's."""
        door = DOORS[name]
        method, path = name.split(" ")
        request = self.installation.client.build_request(
            method,
            path.format(**self.things),
            params={key: value.format(**self.things) for key, value in door.query.items()},
            headers=self.installation.as_bearer(token),
            json=door.body,
        )
        if name == "POST /ingest":
            request = self.installation.client.build_request(
                method,
                path,
                params=door.query,
                headers=self.installation.as_bearer(token) | {"Content-Type": "message/rfc822"},
                content=a_mail(),
            )
        if name == "GET /events":
            request.headers["Last-Event-ID"] = "0"
            self.installation.parts.wakeups.close()  # so that the stream ends at once
        return await self.installation.client.send(request)

    async def follow(self, token: str, *, until: str) -> str:
        """Follow the events from the first one on until something has been told."""
        told = ""
        enough = asyncio.Event()

        async def receive() -> Message:
            await enough.wait()
            return {"type": "http.disconnect"}

        async def send(message: Message) -> None:
            nonlocal told
            told += message.get("body", b"").decode()
            if until in told:
                enough.set()

        headers = {"host": "localhost", "authorization": f"Bearer {token}", "last-event-id": "0"}
        scope = {
            "type": "http",
            "http_version": "1.1",
            "method": "GET",
            "scheme": "http",
            "path": "/events",
            "query_string": b"",
            "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
            "client": ("127.0.0.1", 50_000),
        }
        async with asyncio.timeout(10):
            await self.installation.app(scope, receive, send)
        return told


@pytest.fixture
async def two(tmp_path: Path, migrated_rows: Path) -> AsyncIterator[Two]:
    shutil.copy(migrated_rows, tmp_path / "rows.sqlite3")
    async with open_installation(tmp_path) as installation:
        signed_in = (await register(installation.client, organization=SECRET)).json()
        bearer = installation.as_bearer(signed_in["access_token"])
        client = installation.client
        address = await client.post("/addresses", json={"local_part": SECRET}, headers=bearer)
        token = await client.post(
            "/tokens", json={"name": SECRET, "scopes": ["usage:read"]}, headers=bearer
        )
        sessions = await client.get("/auth/sessions", headers=bearer)
        organisation = ids.from_text(signed_in["organization"]["uuid"])
        assert organisation is not None
        owner = OrganisationId(organisation)
        raw = _a_mail_with_everything()
        messages = await deliver(installation, owner, raw, recipients=[address.json()["address"]])
        things = {
            "address": address.json()["uuid"],
            "token": token.json()["uuid"],
            "session": sessions.json()["items"][0]["uuid"],
            "message": messages[0],
            "aid": "1",
            "organisation": signed_in["organization"]["uuid"],
            "signature": "A" * 72,
        }
        stranger = await installation.an_organisation("stranger")
        yield Two(installation, owner, stranger, things)


async def test_every_route_has_its_line(two: Two) -> None:
    routes = {
        _known_as(method, path)
        for path, operations in two.installation.app.openapi()["paths"].items()
        for method in operations
    }

    assert routes == set(DOORS)


async def test_what_asks_nobody_is_marked_so_in_the_document(two: Two) -> None:
    public = {
        _known_as(method, path)
        for path, operations in two.installation.app.openapi()["paths"].items()
        for method, operation in operations.items()
        if not operation.get("security")
    }

    assert public == {name for name, door in DOORS.items() if door.public is not None}


async def test_nobody_in_particular_gets_in(two: Two) -> None:
    for name, door in DOORS.items():
        response = await two.knock(name, None)

        assert response.status_code == (door.public or 401), name
        if door.public is None:
            assert response.headers["www-authenticate"].startswith("Bearer"), name
            assert response.json()["code"] == "unauthenticated", name
        assert SECRET not in response.text, name


async def test_a_revoked_token_gets_nowhere(two: Two) -> None:
    token = await two.installation.a_token(two.owner)
    bearer = two.installation.as_bearer(token)
    listed = (await two.installation.client.get("/tokens", headers=bearer)).json()["items"]
    await two.installation.client.delete(f"/tokens/{listed[0]['uuid']}", headers=bearer)

    for name in _guarded():
        response = await two.knock(name, token)

        assert response.status_code == 401, name
        assert SECRET not in response.text, name


async def test_an_expired_token_gets_nowhere(two: Two) -> None:
    clock = two.installation.clock
    token = await two.installation.a_token(two.owner, expires_at=clock() + timedelta(hours=1))
    clock.advance(timedelta(hours=1))

    for name in _guarded():
        response = await two.knock(name, token)

        assert response.status_code == 401, name


async def test_an_access_token_of_a_session_that_has_ended_gets_nowhere(two: Two) -> None:
    signed_in = (await register(two.installation.client, "bob@example.org")).json()
    token = signed_in["access_token"]
    await two.installation.client.post("/auth/logout", headers=two.installation.as_bearer(token))

    for name in _guarded():
        response = await two.knock(name, token)

        assert response.status_code == 401, name


@pytest.mark.parametrize("scope", Scope)
async def test_every_scope_but_the_right_one_is_not_enough(two: Two, scope: Scope) -> None:
    token = await two.installation.a_token(two.owner, set(Scope) - {scope})

    for name in _guarded():
        if DOORS[name].needs is scope:
            response = await two.knock(name, token)

            assert response.status_code == 403, name
            assert response.json()["code"] == "scope_missing", name


async def test_a_token_is_no_person(two: Two) -> None:
    token = await two.installation.a_token(two.owner)

    for name in _guarded():
        if DOORS[name].needs is None:
            response = await two.knock(name, token)

            assert response.status_code == 403, name
            assert response.json()["code"] == "session_required", name


async def test_another_organisation_finds_nothing_and_harms_nothing(two: Two) -> None:
    token = await two.installation.a_token(two.stranger)

    for name in _guarded():
        if DOORS[name].needs is not None:
            response = await two.knock(name, token)

            assert response.status_code == DOORS[name].stranger, name
            assert SECRET not in response.text, name
            assert two.things["message"] not in response.text, name
    await _assert_nothing_is_lost(two)


async def test_another_person_finds_nothing_and_harms_nothing(two: Two) -> None:
    for number, name in enumerate(_guarded()):
        email = f"person{number}@example.org"  # one for each: some doors sign them out
        signed_in = (await register(two.installation.client, email)).json()
        if DOORS[name].needs in SERVICE_SCOPES:
            continue  # no person has it

        response = await two.knock(name, signed_in["access_token"])

        assert response.status_code == DOORS[name].stranger, name
        assert SECRET not in response.text, name
        assert two.things["session"] not in response.text, name
    await _assert_nothing_is_lost(two)


async def test_ids_that_are_none_are_not_found(two: Two) -> None:
    token = await two.installation.a_token(two.owner)
    signed_in = (await register(two.installation.client, "bob@example.org")).json()
    for wrong in ("x", "0", "None", "%00", "..%2f..", "é", "1" * 300, "' OR 1=1 --", "{$ne:null}"):
        two.things |= dict.fromkeys(("address", "token", "session", "message"), wrong)
        for name in _guarded():
            if "{" in name:
                caller = token if DOORS[name].needs else signed_in["access_token"]

                response = await two.knock(name, caller)

                assert response.status_code == 404, (name, wrong)
                assert response.headers["content-type"] == "application/problem+json", name


async def test_the_owner_finds_what_strangers_did_not(two: Two) -> None:
    token = await two.installation.a_token(two.owner)

    for name in ("GET /addresses", "GET /tokens", "GET /messages", "GET /messages/wait"):
        assert SECRET in (await two.knock(name, token)).text, name
    for part in ("", "/raw", "/html", "/text", "/attachments/{aid}"):
        name = f"GET /messages/{{message}}{part}"
        assert SECRET in (await two.knock(name, token)).text, name


async def test_each_organisation_follows_its_own_events_alone(two: Two) -> None:
    theirs = (await deliver(two.installation, two.stranger, a_mail(subject="theirs")))[0]
    ours = two.things["message"]

    seen_by_owner = await two.follow(await two.installation.a_token(two.owner), until=ours)
    seen_by_stranger = await two.follow(await two.installation.a_token(two.stranger), until=theirs)

    assert SECRET in seen_by_owner
    assert theirs not in seen_by_owner
    assert SECRET not in seen_by_stranger
    assert ours not in seen_by_stranger


def _a_mail_with_everything() -> bytes:
    mail = EmailMessage()
    mail["Subject"] = SECRET
    mail["From"] = "shop@example.org"
    mail.set_content(SECRET)
    mail.add_alternative(f"<p>{SECRET}</p>", subtype="html")
    mail.add_attachment(SECRET.encode(), "text", "plain", filename="a.txt")
    return mail.as_bytes().replace(b"\n", b"\r\n")


def _guarded() -> list[str]:
    return [name for name, door in DOORS.items() if door.public is None]


async def _assert_nothing_is_lost(two: Two) -> None:
    token = await two.installation.a_token(two.owner)
    bearer = two.installation.as_bearer(token)
    client = two.installation.client
    for path, thing in (("/addresses", "address"), ("/tokens", "token")):
        items = (await client.get(path, headers=bearer)).json()["items"]
        assert two.things[thing] in {item["uuid"] for item in items}
    message = await client.get(f"/messages/{two.things['message']}", headers=bearer)
    assert message.status_code == 200
    assert message.json()["read"] is False
