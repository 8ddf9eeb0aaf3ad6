import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta

import httpx
import pytest
from sqlalchemy import text

from installation import Installation, Installed
from mailtape.domain import errors, ids
from mailtape.domain.ids import OrganisationId
from mailtape.domain.tier import Feature, Limits, Tier
from mailtape.rows import tiers
from mailtape.rows.database import Session
from mailtape.services.ingest import Submission, ingest
from mailtape_ingest import replies
from postroom import a_mail

MAIL = {"Content-Type": "message/rfc822"}


@pytest.fixture
async def acme(installation: Installation) -> OrganisationId:
    return await installation.an_organisation("acme")


@pytest.fixture
async def bearer(installation: Installation, acme: OrganisationId) -> dict[str, str]:
    return installation.as_bearer(await installation.a_token(acme))


async def hand_over(
    installation: Installation, bearer: dict[str, str], query: str, raw: bytes, **headers: str
) -> httpx.Response:
    return await installation.client.post(
        f"/ingest?{query}", content=raw, headers=bearer | MAIL | headers
    )


async def test_what_is_answered_202_is_in_the_queue(
    installation: Installation, acme: OrganisationId, bearer: dict[str, str]
) -> None:
    raw = b"Subject: \x00\xff bytes\n\nas they are\r" * 100

    response = await hand_over(
        installation,
        bearer,
        "recipient=QA%2Brun7@acme.mail.example.com&recipient=nobody@elsewhere.example"
        "&recipient=broken&sender=shop@example.org",
        raw,
        **{"Idempotency-Key": "key-1"},
    )

    (leased,) = await installation.parts.queue.lease(10, 2**20)
    assert response.status_code == 202
    assert response.json() == {
        "id": ids.to_text(leased.envelope.ingest_id),
        "recipients": [
            {"address": "QA+run7@acme.mail.example.com", "status": "accepted"},
            {"address": "nobody@elsewhere.example", "status": "550 5.1.1 no such address here"},
            {"address": "broken", "status": replies_text("address_syntax")},
        ],
    }
    assert leased.raw == raw
    assert leased.envelope.mail_from == "shop@example.org"
    assert leased.envelope.idempotency_key.endswith(":key-1")
    assert leased.envelope.client_address == "127.0.0.1"
    (delivery,) = leased.envelope.deliveries
    assert delivery.recipient == "qa+run7@acme.mail.example.com"
    assert delivery.organisation_id == acme


async def test_a_request_that_is_sent_again_hears_the_same_and_keeps_nothing_more(
    installation: Installation, acme: OrganisationId, bearer: dict[str, str]
) -> None:
    to = "recipient=qa@acme.mail.example.com&recipient=broken"
    key = {"Idempotency-Key": "key-1"}

    answers = [await hand_over(installation, bearer, to, b"mail", **key) for _ in range(3)]

    assert [answer.status_code for answer in answers] == [202, 202, 202]
    assert answers[0].json() == answers[1].json() == answers[2].json()
    assert (await installation.parts.queue.depth()).waiting == 1


async def test_a_key_is_good_for_one_mail(
    installation: Installation, acme: OrganisationId, bearer: dict[str, str]
) -> None:
    to = "recipient=qa@acme.mail.example.com"
    key = {"Idempotency-Key": "key-1"}
    await hand_over(installation, bearer, to, b"mail", **key)

    for query, raw in ((to, b"another"), (f"{to}&sender=a@example.org", b"mail")):
        refused = await hand_over(installation, bearer, query, raw, **key)
        assert (refused.status_code, refused.json()["code"]) == (409, "idempotency_key_reused")


LOSE_RECEIPTS = """
    CREATE TRIGGER lose_receipts BEFORE INSERT ON ingest_receipts
    BEGIN SELECT RAISE(FAIL, 'there is no room'); END
"""


async def test_a_request_whose_answer_was_lost_counts_once(
    installation: Installation, bearer: dict[str, str]
) -> None:
    database = installation.parts.database
    tier = Tier("two", Limits(emails_per_month=2), frozenset({Feature.CATCH_ALL}))
    await database.write(tiers.ensure, tier)
    await installation.an_organisation("small", tier.name)
    to = "recipient=qa@small.mail.example.com"

    async def status(key: str, raw: bytes = b"mail") -> int:
        answer = await hand_over(installation, bearer, to, raw, **{"Idempotency-Key": key})
        return answer.status_code

    await database.write(Session.execute, text(LOSE_RECEIPTS))
    assert [await status("key-1"), await status("key-1")] == [500, 500]
    await database.write(Session.execute, text("DROP TRIGGER lose_receipts"))

    assert await status("key-2") == 202, "the repeat of the first took no room of its own"
    assert await status("key-1") == 202, "it has its room, though there is no more"
    assert await status("key-3") == 429


async def test_one_key_carries_no_second_mail_past_the_limit(
    installation: Installation, bearer: dict[str, str]
) -> None:
    database = installation.parts.database
    tier = Tier("one", Limits(emails_per_month=1), frozenset({Feature.CATCH_ALL}))
    await database.write(tiers.ensure, tier)
    await installation.an_organisation("small", tier.name)
    to, key = "recipient=qa@small.mail.example.com", {"Idempotency-Key": "key-1"}

    answers = await asyncio.gather(
        *(hand_over(installation, bearer, to, b"mail %d" % number, **key) for number in range(10))
    )

    assert (await installation.parts.queue.depth()).waiting == 1
    assert [answer.status_code for answer in answers].count(202) == 1


async def test_two_organisations_may_think_of_the_same_key(
    installation: Installation, acme: OrganisationId, bearer: dict[str, str]
) -> None:
    stranger = await installation.an_organisation("stranger")
    theirs = installation.as_bearer(await installation.a_token(stranger))
    to = "recipient=qa@acme.mail.example.com"

    answers = [
        await hand_over(installation, who, to, b"mail", **{"Idempotency-Key": "key-1"})
        for who in (bearer, theirs)
    ]

    assert answers[0].json()["id"] != answers[1].json()["id"]
    assert (await installation.parts.queue.depth()).waiting == 2


def replies_text(code: str) -> str:
    return replies.for_error(errors.Invalid("", code=code)).wire.decode().strip()


async def test_a_recipient_named_twice_is_answered_twice_and_delivered_once(
    installation: Installation, bearer: dict[str, str]
) -> None:
    response = await hand_over(
        installation,
        bearer,
        "recipient=qa@acme.mail.example.com&recipient=QA@acme.mail.example.com",
        a_mail(),
    )

    (leased,) = await installation.parts.queue.lease(10, 2**20)
    assert [r["status"] for r in response.json()["recipients"]] == ["accepted", "accepted"]
    assert len(leased.envelope.deliveries) == 1


async def test_nothing_is_kept_when_no_recipient_is_accepted(
    installation: Installation, bearer: dict[str, str]
) -> None:
    response = await hand_over(installation, bearer, "recipient=x@elsewhere.example", a_mail())

    assert response.status_code == 422
    assert response.json()["errors"] == [
        {
            "detail": "550 5.1.1 no such address here",
            "field": "recipient",
            "code": "recipient_refused",
        }
    ]
    assert (await installation.parts.queue.depth()).waiting == 0


async def used_up(
    installation: Installation, bearer: dict[str, str], slug: str, **limits: int
) -> str:
    """Make an organisation with these limits, and use them up; gives an address of its."""
    tier = Tier(f"tier-{slug}", Limits(**limits), frozenset({Feature.CATCH_ALL}))
    await installation.parts.database.write(tiers.ensure, tier)
    await installation.an_organisation(slug, tier.name)
    address = f"qa@{slug}.mail.example.com"
    assert (await hand_over(installation, bearer, f"recipient={address}", b"x")).status_code == 202
    return address


@pytest.mark.parametrize(
    ("limits", "code", "reply", "free_after"),
    [
        (
            {"messages_per_minute": 1},
            "rate_limited",
            "450 4.2.1 too many messages a minute for this address",
            60,
        ),
        (
            {"emails_per_month": 1},
            "monthly_mails",
            "452 4.2.2 monthly messages are used up",
            31 * 24 * 3600,
        ),
        ({"storage_bytes": 1}, "storage", "452 4.2.2 storage is full", 60),
    ],
)
async def test_a_limit_that_refuses_for_now_says_which_and_until_when(
    installation: Installation,
    bearer: dict[str, str],
    limits: dict[str, int],
    code: str,
    reply: str,
    free_after: int,
) -> None:
    address = await used_up(installation, bearer, "small", **limits)

    response = await hand_over(installation, bearer, f"recipient={address}", b"y")

    (size,) = limits.values()
    assert response.status_code == 429
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json()["code"] == code
    assert [fault["detail"] for fault in response.json()["errors"]] == [reply]
    assert 0 < int(response.headers["retry-after"]) <= free_after
    assert response.headers["ratelimit-reset"] == response.headers["retry-after"]
    assert response.headers["ratelimit-limit"] == str(size)
    assert response.headers["ratelimit-remaining"] == "0"
    assert (await installation.parts.queue.depth()).waiting == 1


async def test_after_the_time_that_is_told_the_same_mail_is_taken(
    installation: Installation, bearer: dict[str, str]
) -> None:
    address = await used_up(installation, bearer, "small", messages_per_minute=1)
    key = {"Idempotency-Key": "key-1"}
    refused = await hand_over(installation, bearer, f"recipient={address}", b"y", **key)

    installation.clock.advance(timedelta(seconds=int(refused.headers["retry-after"])))
    again = await hand_over(installation, bearer, f"recipient={address}", b"y", **key)

    assert (refused.status_code, again.status_code) == (429, 202)


async def test_of_several_limits_the_first_to_be_free_is_told(
    installation: Installation, bearer: dict[str, str]
) -> None:
    a_month = await used_up(installation, bearer, "month", emails_per_month=3)
    for _ in range(2):
        await hand_over(installation, bearer, f"recipient={a_month}", b"x")
    a_minute = await used_up(installation, bearer, "minute", messages_per_minute=2)
    await hand_over(installation, bearer, f"recipient={a_minute}", b"x")

    response = await hand_over(
        installation, bearer, f"recipient={a_month}&recipient={a_minute}", b"y"
    )

    assert (response.status_code, response.json()["code"]) == (429, "rate_limited")
    assert 0 < int(response.headers["retry-after"]) <= 30
    assert response.headers["ratelimit-limit"] == "2"
    assert [fault["detail"][:3] for fault in response.json()["errors"]] == ["452", "450"]


@pytest.mark.parametrize("for_good", ["nobody@elsewhere.example", "broken"])
async def test_a_mail_of_which_a_recipient_is_refused_for_good_is_not_to_be_sent_again(
    installation: Installation, bearer: dict[str, str], for_good: str
) -> None:
    address = await used_up(installation, bearer, "small", messages_per_minute=1)

    response = await hand_over(
        installation, bearer, f"recipient={address}&recipient={for_good}", b"y"
    )

    assert (response.status_code, response.json()["code"]) == (422, "no_recipient")
    assert "retry-after" not in response.headers
    assert response.json()["errors"][0]["detail"].startswith("450 ")


async def test_storage_that_is_full_for_good_is_not_to_be_asked_again(
    installation: Installation, bearer: dict[str, str]
) -> None:
    address = await used_up(installation, bearer, "small", storage_bytes=1, storage_is_hard=True)

    response = await hand_over(installation, bearer, f"recipient={address}", b"y")

    assert (response.status_code, response.json()["code"]) == (422, "no_recipient")
    assert "retry-after" not in response.headers


async def test_a_mail_larger_than_the_tier_allows_is_refused_as_on_the_wire(
    installation: Installation, acme: OrganisationId
) -> None:
    await installation.an_organisation("small", "free")

    done = await ingest(
        installation.parts.queue,
        installation.parts.quota,
        installation.parts.database,
        Submission(b"x" * (10 * 2**20 + 1), "", ("qa@small.mail.example.com",), ""),
        organisation_id=acme,
        idempotency_key="",
        now=installation.clock(),
    )

    assert done.id is None
    assert [r.status for r in done.recipients] == ["550 5.2.3 message too large for this address"]


@pytest.mark.parametrize(
    ("query", "headers", "raw", "status"),
    [
        ("", {}, b"x", 422),
        ("recipient=qa@acme.mail.example.com", {}, b"", 422),
        ("recipient=qa@acme.mail.example.com&sender=broken", {}, b"x", 422),
        ("recipient=qa@acme.mail.example.com", {"Content-Type": "text/plain"}, b"x", 415),
        (
            "recipient=qa@acme.mail.example.com",
            {"Content-Type": "application/x-www-form-urlencoded"},
            b"x",
            415,
        ),
        ("recipient=qa@acme.mail.example.com", {"Idempotency-Key": "x" * 256}, b"x", 422),
        ("recipient=qa@acme.mail.example.com", {"Idempotency-Key": "a b"}, b"x", 422),
        ("&".join(["recipient=qa@acme.mail.example.com"] * 1001), {}, b"x", 422),
        ("recipient=" + "x" * 321, {}, b"x", 422),
    ],
)
async def test_refuses_a_request_that_breaks_its_rules(
    installation: Installation,
    bearer: dict[str, str],
    query: str,
    headers: dict[str, str],
    raw: bytes,
    status: int,
) -> None:
    response = await hand_over(installation, bearer, query, raw, **headers)

    assert response.status_code == status
    assert response.headers["content-type"] == "application/problem+json"
    assert (await installation.parts.queue.depth()).waiting == 0


async def test_a_mail_beyond_the_limit_is_refused_while_it_arrives(
    installation: Installation, bearer: dict[str, str]
) -> None:
    limit = installation.parts.settings.message_max_bytes
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        while sent < 4 * limit:
            sent += 2**20
            yield bytes(2**20)

    response = await installation.client.post(
        "/ingest?recipient=qa@acme.mail.example.com", content=endless(), headers=bearer | MAIL
    )

    assert response.status_code == 413
    assert sent <= limit + 2 * 2**20
    assert (await installation.parts.queue.depth()).waiting == 0


async def test_the_operator_says_how_many_recipients_a_mail_may_have(installed: Installed) -> None:
    async with installed(most_recipients=2) as installation:
        acme = await installation.an_organisation("acme")
        bearer = installation.as_bearer(await installation.a_token(acme))
        query = "recipient=a@acme.mail.example.com&recipient=b@acme.mail.example.com"

        enough = await hand_over(installation, bearer, query, b"x")
        more = await hand_over(installation, bearer, f"{query}&recipient=c", b"x")

    assert (enough.status_code, more.status_code) == (202, 422)
