import asyncio
import re
from datetime import datetime, timedelta
from email.message import EmailMessage
from urllib.parse import quote

import httpx
import pytest

from fakes import a_delivery, an_envelope, an_ingest_id
from installation import Installation, Installed
from live import serving
from mailtape.domain import ids
from mailtape.domain.ids import OrganisationId
from mailtape.domain.query import WordLimits
from people import WAYS_OUT, register
from postroom import QA, a_mail, deliver, deliver_envelope, deposit_many

EVIL_HTML = (
    '<p onclick="alert(1)">Hello <b>you</b></p><script>alert(1)</script>'
    '<svg/onload=alert(1)><img src="cid:logo"><form action="http://evil"></form>'
)


@pytest.fixture
async def acme(installation: Installation) -> OrganisationId:
    return await installation.an_organisation("acme")


@pytest.fixture
async def bearer(installation: Installation, acme: OrganisationId) -> dict[str, str]:
    return installation.as_bearer(await installation.a_token(acme))


def a_hostile_mail() -> bytes:
    mail = EmailMessage()
    mail["From"] = "Shop <shop@example.org>"
    mail["To"] = f"QA <{QA}>"
    mail["Cc"] = "c@example.org"
    mail["Subject"] = "</script><svg/onload=alert(1)>"
    mail.set_content("<script>alert(1)</script> plain")
    mail.add_alternative(EVIL_HTML, subtype="html")
    mail.add_attachment(b"\x89PNG\r\n\x1a\n", "image", "png", filename="l.png", cid="<logo>")
    mail.add_attachment(b"<svg onload=alert(1)>", "image", "svg+xml", filename="x.svg")
    mail.add_attachment(b"<script>alert(1)</script>", "text", "html", filename="page.html")
    return mail.as_bytes().replace(b"\n", b"\r\n")


async def test_a_mail_by_a_door_of_a_newer_release_is_stored_and_shown(
    installation: Installation, acme: OrganisationId, bearer: dict[str, str]
) -> None:
    envelope = an_envelope(a_mail(), protocol="jmap", deliveries=(a_delivery(QA, acme),))
    await deliver_envelope(installation, envelope, a_mail())

    (item,) = (await installation.client.get("/messages", headers=bearer)).json()["items"]
    shown = (await installation.client.get(f"/messages/{item['id']}", headers=bearer)).json()
    assert shown["envelope"]["protocol"] == "jmap"


async def test_an_item_says_what_the_contract_says(
    installation: Installation, acme: OrganisationId, bearer: dict[str, str]
) -> None:
    raw = a_hostile_mail()
    (message_id,) = await deliver(installation, acme, raw, recipients=["qa+run7@mail.example.com"])

    page = (await installation.client.get("/messages", headers=bearer)).json()

    (item,) = page["items"]
    received_at = datetime.fromisoformat(item.pop("received_at"))
    assert installation.clock() - received_at < timedelta(minutes=1)
    assert ids.from_text(item.pop("transaction"))
    assert page["next_cursor"] is None
    assert item == {
        "id": message_id,
        "sequence": 1,
        "address": "qa+run7@mail.example.com",
        "from": {"name": "Shop", "address": "shop@example.org"},
        "to": [{"name": "QA", "address": QA}],
        "subject": "</script><svg/onload=alert(1)>",
        "snippet": "<script>alert(1)</script> plain",
        "size": len(raw),
        "attachments": 3,
        "unparsed": False,
        "read": False,
        "tags": [],
    }


async def test_an_opened_message_shows_everything_and_stays_unread(
    installation: Installation, acme: OrganisationId, bearer: dict[str, str]
) -> None:
    raw = a_hostile_mail()
    (message_id,) = await deliver(installation, acme, raw)

    detail = (await installation.client.get(f"/messages/{message_id}", headers=bearer)).json()
    again = (await installation.client.get("/messages?unread=true", headers=bearer)).json()

    assert ["From", "Shop <shop@example.org>"] in detail["headers"]
    assert detail["text"].startswith("<script>alert(1)</script> plain")
    assert "<b>you</b>" in detail["html"]
    assert not re.search(r"script|onclick|svg|form", detail["html"])
    assert detail["cc"] == [{"name": "", "address": "c@example.org"}]
    assert [a["filename"] for a in detail["attachments"]] == ["l.png", "x.svg", "page.html"]
    assert detail["attachments"][0] == {
        "id": "1",
        "filename": "l.png",
        "content_type": "image/png",
        "size": 8,
        "sha256": "4c4b6a3be1314ab86138bef4314dde022e600960d8689a2c8f8631802d20dab6",
        "content_id": "logo",
    }
    assert detail["envelope"] == {
        "protocol": "smtp",
        "mail_from": "shop@example.org",
        "rcpt_to": [QA],
        "client_address": "127.0.0.1",
        "helo": "client.example.org",
        "tls": "",
    }
    assert detail["view_url"].startswith("http://127.0.0.1:8025/view/")
    assert "links" not in detail
    assert len(again["items"]) == 1


async def test_raw_comes_back_byte_for_byte(
    installation: Installation, acme: OrganisationId, bearer: dict[str, str]
) -> None:
    raw = b"Subject: x\r\n\r\n\x00\xff bare\nline\rends\r\n" + bytes(range(256)) * 3000
    (message_id,) = await deliver(installation, acme, raw)

    response = await installation.client.get(f"/messages/{message_id}/raw", headers=bearer)

    assert response.content == raw
    assert response.headers["content-type"] == "message/rfc822"
    assert response.headers["content-length"] == str(len(raw))
    assert response.headers["content-disposition"] == f'attachment; filename="{message_id}.eml"'


@pytest.mark.parametrize("part", ["raw", "html", "text", *(f"attachments/{n}" for n in (1, 2, 3))])
async def test_nothing_that_a_stranger_wrote_runs_in_a_browser(
    installation: Installation, acme: OrganisationId, bearer: dict[str, str], part: str
) -> None:
    (message_id,) = await deliver(installation, acme, a_hostile_mail())

    response = await installation.client.get(f"/messages/{message_id}/{part}", headers=bearer)

    headers = response.headers
    assert response.status_code == 200
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["cache-control"] == "no-store"
    assert headers["content-security-policy"].startswith("sandbox")
    assert "default-src 'none'" in headers["content-security-policy"]
    assert "allow-scripts" not in headers["content-security-policy"]
    assert "allow-same-origin" not in headers["content-security-policy"]
    if part == "html":
        assert headers["content-type"] == "text/html; charset=utf-8"
        assert "script" not in response.text
    else:
        assert headers["content-type"].partition(";")[0] in {
            "message/rfc822",
            "text/plain",
            "image/png",
            "application/octet-stream",
        }
    if part not in {"html", "text"}:
        assert headers["content-disposition"].startswith("attachment;")


async def test_a_message_without_html_shows_its_text_without_reading_it_as_html(
    installation: Installation, acme: OrganisationId, bearer: dict[str, str]
) -> None:
    text = "<script>alert(1)</script> & </pre>"
    (message_id,) = await deliver(installation, acme, a_mail(text=text))

    page = await installation.client.get(f"/messages/{message_id}/html", headers=bearer)
    detail = await installation.client.get(f"/messages/{message_id}", headers=bearer)

    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp; &lt;/pre&gt;" in page.text
    assert detail.json()["html"] is None


@pytest.mark.parametrize(
    "raw", [b"", b"\r\n", b"\x00" * 100, b"Subject: \xff\xfe\r\n\r\n\xed\xa0\x80", b"no header"]
)
async def test_what_is_hardly_mail_lists_and_opens(
    installation: Installation, acme: OrganisationId, bearer: dict[str, str], raw: bytes
) -> None:
    (message_id,) = await deliver(installation, acme, raw)
    client = installation.client

    listed = await client.get("/messages", headers=bearer)
    detail = await client.get(f"/messages/{message_id}", headers=bearer)
    kept = await client.get(f"/messages/{message_id}/raw", headers=bearer)
    view = await client.get(detail.json()["view_url"])
    parts = [
        await client.get(f"/messages/{message_id}/{part}", headers=bearer)
        for part in ("html", "text")
    ]

    assert [response.status_code for response in (listed, detail, kept)] == [200] * 3
    assert kept.content == raw
    assert {response.status_code for response in [*parts, view]} <= {200, 404}


async def test_a_message_whose_body_is_gone_is_a_problem_not_a_fault(
    installation: Installation, acme: OrganisationId, bearer: dict[str, str]
) -> None:
    (message_id,) = (ids.to_text(one) for one in await deposit_many(installation, acme, 1))

    for part in ("", "/raw", "/html", "/text", "/attachments/1"):
        response = await installation.client.get(f"/messages/{message_id}{part}", headers=bearer)

        assert response.status_code == 404
        assert response.json()["code"] == "body_gone"


@pytest.mark.parametrize("aid", ["0", "4", "01", "x", "../1", "1%2f..%2f2", "é", "1" * 300, "%00"])
async def test_an_attachment_that_is_none_is_not_found(
    installation: Installation, acme: OrganisationId, bearer: dict[str, str], aid: str
) -> None:
    (message_id,) = await deliver(installation, acme, a_hostile_mail())

    response = await installation.client.get(
        f"/messages/{message_id}/attachments/{aid}", headers=bearer
    )

    assert response.status_code == 404
    assert response.headers["content-type"] == "application/problem+json"


async def test_a_plus_that_nobody_escaped_still_names_the_tag(
    installation: Installation, acme: OrganisationId, bearer: dict[str, str]
) -> None:
    for recipient in ("qa+run7@mail.example.com", "qa+run8@mail.example.com"):
        await deliver(installation, acme, recipients=[recipient])

    for written in ("qa+run7@mail.example.com", "QA%2Brun7@mail.example.com"):
        response = await installation.client.get(f"/messages?address={written}", headers=bearer)

        assert [i["address"] for i in response.json()["items"]] == ["qa+run7@mail.example.com"]


async def test_bounds_take_a_sequence_or_a_time(
    installation: Installation, acme: OrganisationId, bearer: dict[str, str]
) -> None:
    await deposit_many(installation, acme, 3, first_us=1_700_000_000_000_000)
    second = "2023-11-14T22:13:20.001"
    expected = {
        f"since={second}Z": [3],
        f"before={second}Z": [1],
        f"since={second}+00:00": [3],
        f"since={quote('2023-11-14T23:13:20.001+01:00')}": [3],
        "since=2": [3],
        "before=2": [1],
        "since=0": [3, 2, 1],
        "since=0001-01-01T00:00:00Z&before=9999-12-31T23:59:59-12:00": [3, 2, 1],
    }

    for query, sequences in expected.items():
        page = (await installation.client.get(f"/messages?{query}", headers=bearer)).json()
        count = (await installation.client.get(f"/messages/count?{query}", headers=bearer)).json()

        assert [item["sequence"] for item in page["items"]] == sequences, query
        assert count == {"count": len(sequences)}, query


async def test_the_operator_says_how_long_a_search_and_a_wait_may_be(installed: Installed) -> None:
    narrow = {"words": WordLimits(characters=9, terms=2), "wait_limit": timedelta(seconds=40)}
    async with installed(**narrow) as installation:
        token = await installation.a_token(await installation.an_organisation())
        bearer = installation.as_bearer(token)
        for query, status in (
            ("count?q=one+two", 200),
            ("count?q=one+twooo", 200),
            ("count?q=one+twoooo", 422),
            ("count?q=a+b+c", 422),
            ("wait?timeout=41", 422),
        ):
            response = await installation.client.get(f"/messages/{query}", headers=bearer)

            assert response.status_code == status, query


@pytest.mark.parametrize(
    "query",
    [
        "since=yesterday",
        "since=2026-11-21T10:00:00",
        "since=-1",
        "before=1e9",
        "before=" + "9" * 19,
        "since=" + "9" * 5000,
        "unread=perhaps",
        "q=" + "x" * 401,
        "q=" + "+".join(f"w{n}" for n in range(33)),
        "address=" + "x" * 321,
        "cursor=x",
        "cursor=" + "A" * 22,
        "limit=0",
        "limit=201",
    ],
)
async def test_refuses_filters_that_are_none(
    installation: Installation, bearer: dict[str, str], query: str
) -> None:
    for path in ("/messages", "/messages/count", "/messages/wait"):
        if path != "/messages" and ("cursor" in query or "limit" in query):
            continue
        response = await installation.client.get(f"{path}?{query}", headers=bearer)

        assert response.status_code == 422
        assert response.headers["content-type"] == "application/problem+json"
        assert response.json()["errors"]


@pytest.mark.parametrize(
    "hostile",
    [
        "' OR 1=1 --",
        '" OR organisation : *',
        "$ne",
        "%00",
        "(a+)+$",
        "words NEAR/2 x*",
        "^",
        "{",
        "\\",
        "-",
        "é\U0001f600\u0301",
    ],
)
async def test_hostile_words_and_addresses_are_only_words_and_addresses(
    installation: Installation, acme: OrganisationId, bearer: dict[str, str], hostile: str
) -> None:
    await deliver(installation, acme)

    for name in ("q", "address"):
        response = await installation.client.get(
            "/messages", params={name: hostile}, headers=bearer
        )

        assert response.status_code == 200
        assert response.json()["items"] == []


async def test_an_empty_filter_is_none(
    installation: Installation, acme: OrganisationId, bearer: dict[str, str]
) -> None:
    await deliver(installation, acme)

    listed = await installation.client.get("/messages?q=&address=&since=", headers=bearer)
    refused = await installation.client.delete("/messages?q=&address=&since=", headers=bearer)

    assert len(listed.json()["items"]) == 1
    assert (refused.status_code, refused.json()["code"]) == (422, "all_required")


async def test_pages_follow_their_cursor_and_no_other(
    installation: Installation, acme: OrganisationId, bearer: dict[str, str]
) -> None:
    await deposit_many(installation, acme, 5)
    client = installation.client
    for filters in ("", "&q=order"):
        first = (await client.get(f"/messages?limit=3{filters}", headers=bearer)).json()
        cursor = first["next_cursor"]
        second = (
            await client.get(f"/messages?limit=3&cursor={cursor}{filters}", headers=bearer)
        ).json()
        other_order = "" if filters else "&q=order"
        crossed = await client.get(f"/messages?cursor={cursor}{other_order}", headers=bearer)

        assert [i["sequence"] for i in first["items"] + second["items"]] == [5, 4, 3, 2, 1]
        assert second["next_cursor"] is None
        assert (crossed.status_code, crossed.json()["code"]) == (422, "invalid_cursor")


async def test_wait_answers_with_what_arrives(
    installation: Installation, acme: OrganisationId, bearer: dict[str, str]
) -> None:
    waiting = asyncio.create_task(
        installation.client.get(f"/messages/wait?address={QA}&timeout=10", headers=bearer)
    )
    while not installation.parts.wakeups.watching(acme):
        await asyncio.sleep(0)
    (message_id,) = await deliver(installation, acme)

    response = await asyncio.wait_for(waiting, 5)
    listed = await installation.client.get("/messages", headers=bearer)

    assert response.json() == listed.json()["items"][0]
    assert response.json()["id"] == message_id


async def test_wait_has_no_answer_when_nothing_comes(
    installation: Installation, bearer: dict[str, str]
) -> None:
    response = await installation.client.get("/messages/wait?timeout=0", headers=bearer)

    assert (response.status_code, response.content) == (204, b"")


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("timeout=61", "invalid"),
        ("timeout=-1", "invalid"),
        ("timeout=nan", "invalid"),
        ("timeout=inf", "invalid"),
        ("extract=code", "not_supported"),
        ("extract=", "not_supported"),
    ],
)
async def test_wait_refuses_what_it_cannot_do(
    installation: Installation, bearer: dict[str, str], query: str, code: str
) -> None:
    response = await installation.client.get(f"/messages/wait?{query}", headers=bearer)

    assert (response.status_code, response.json()["code"]) == (422, code)


async def test_a_wait_whose_client_has_gone_ends(
    installation: Installation, acme: OrganisationId, bearer: dict[str, str]
) -> None:
    watches = installation.parts.wakeups

    async with serving(installation.app) as client:
        with pytest.raises(httpx.ReadTimeout):
            await client.get("/messages/wait?timeout=60", headers=bearer, timeout=0.3)
        async with asyncio.timeout(5):
            while watches.watching(acme):
                await asyncio.sleep(0)


async def test_a_change_answers_with_the_message_as_it_is_then(
    installation: Installation, acme: OrganisationId, bearer: dict[str, str]
) -> None:
    (message_id,) = await deliver(installation, acme)
    path = f"/messages/{message_id}"

    read = await installation.client.patch(path, json={"read": True}, headers=bearer)
    tagged = await installation.client.patch(path, json={"tags": ["a", "b"]}, headers=bearer)
    nothing = await installation.client.patch(path, json={}, headers=bearer)
    cleared = await installation.client.patch(
        path, json={"read": False, "tags": []}, headers=bearer
    )

    states = [(r.json()["read"], r.json()["tags"]) for r in (read, tagged, nothing, cleared)]
    assert states == [(True, []), (True, ["a", "b"]), (True, ["a", "b"]), (False, [])]


@pytest.mark.parametrize(
    "change",
    [
        {"read": "yes"},
        {"read": 1},
        {"read": {"$ne": None}},
        {"tags": "x"},
        {"tags": [""]},
        {"tags": ["x" * 65]},
        {"tags": ["x"] * 21},
        {"tags": ["a\nb"]},
        {"tags": [1]},
        {"subject": "x"},
        [],
    ],
)
async def test_refuses_a_change_that_is_none(
    installation: Installation, acme: OrganisationId, bearer: dict[str, str], change: object
) -> None:
    (message_id,) = await deliver(installation, acme)

    response = await installation.client.patch(
        f"/messages/{message_id}", json=change, headers=bearer
    )

    assert response.status_code == 422
    assert response.json()["errors"]


async def test_deletes_one_all_that_match_or_all(
    installation: Installation, acme: OrganisationId, bearer: dict[str, str]
) -> None:
    client = installation.client
    (first,) = await deliver(installation, acme)
    for recipient in (QA, "qa+run7@mail.example.com", "b@mail.example.com", "c@mail.example.com"):
        await deliver(installation, acme, recipients=[recipient])

    one = await client.delete(f"/messages/{first}", headers=bearer)
    gone = await client.get(f"/messages/{first}", headers=bearer)
    matching = await client.delete(f"/messages?address={QA}", headers=bearer)
    refused = await client.delete("/messages?all=false", headers=bearer)
    left = await client.get("/messages/count", headers=bearer)
    everything = await client.delete("/messages?all=true", headers=bearer)
    usage = await client.get("/usage", headers=bearer)

    assert (one.status_code, gone.status_code) == (204, 404)
    assert matching.json() == {"deleted": 2}
    assert (refused.status_code, left.json()) == (422, {"count": 2})
    assert everything.json() == {"deleted": 2}
    assert usage.json()["storage_bytes"]["used"] == 0
    assert usage.json()["emails"]["used"] == 5


async def test_an_id_of_nothing_is_not_found(
    installation: Installation, bearer: dict[str, str]
) -> None:
    response = await installation.client.get(
        f"/messages/{ids.to_text(an_ingest_id())}", headers=bearer
    )

    assert (response.status_code, response.json()["code"]) == (404, "not_found")


async def test_a_wait_shows_nothing_once_its_token_is_revoked(
    installation: Installation, acme: OrganisationId, bearer: dict[str, str]
) -> None:
    client, watches = installation.client, installation.parts.wakeups
    (listed,) = (await client.get("/tokens", headers=bearer)).json()["items"]
    waiting = asyncio.create_task(client.get("/messages/wait?timeout=20", headers=bearer))
    async with asyncio.timeout(5):
        while not watches.watching(acme):
            await asyncio.sleep(0)

    await client.delete(f"/tokens/{listed['uuid']}", headers=bearer)
    await deliver(installation, acme)

    async with asyncio.timeout(5):
        response = await waiting
    assert response.status_code == 401


@pytest.mark.parametrize("way", [*WAYS_OUT])
async def test_a_wait_ends_with_its_session(installation: Installation, way: str) -> None:
    client = installation.client
    grant = (await register(client)).json()
    bearer = installation.as_bearer(grant["access_token"])
    acme = ids.from_text(grant["organization"]["uuid"])
    waiting = asyncio.create_task(client.get("/messages/wait?timeout=20", headers=bearer))
    async with asyncio.timeout(5):
        while not installation.parts.wakeups.watching(OrganisationId(acme)):
            await asyncio.sleep(0)

    await WAYS_OUT[way](client, grant)

    async with asyncio.timeout(5):
        response = await waiting
    assert response.status_code == 401
