"""A mail handed over by HTTP, where what the API's tests cannot reach goes wrong."""

from collections.abc import AsyncIterator
from datetime import datetime

import pytest
from structlog.testing import capture_logs

import mysql
from installation import Installation
from mailtape.domain.errors import Unavailable
from mailtape.domain.ids import OrganisationId
from mailtape.rows.mysql_database import mysql_url
from mailtape.services.ingest import Ingested, Submission, ingest
from mailtape.services.quota import Quota
from mailtape.services.refusals import Refusals
from mailtape.stores.shared_sql_counters import SharedSqlCounters
from mailtape.stores.sql_counters import SqlCounters
from processes import free_ports


async def test_a_mail_that_is_kept_is_accepted_though_it_cannot_be_counted(
    installation: Installation,
) -> None:
    """A caller who heard of a failure would hand it over again."""
    parts = installation.parts
    acme = await installation.an_organisation("acme", "free")
    readings = [installation.clock()]  # for the judgement; none is left for the count

    def clock() -> datetime:
        return readings.pop()

    quota = Quota(parts.recipients, SqlCounters(parts.database), Refusals(), clock)
    mail = Submission(b"Subject: a\r\n\r\n", "", ("qa@acme.mail.example.com",), "192.0.2.1")

    with capture_logs() as logs:
        done = await ingest(
            parts.queue,
            quota,
            parts.database,
            mail,
            organisation_id=acme,
            idempotency_key="",
            now=installation.clock(),
        )

    assert [each.status for each in done.recipients] == ["accepted"]
    assert (await parts.queue.depth()).waiting == 1
    assert [line["event"] for line in logs] == ["quota.mail_not_counted"]


async def test_a_mail_goes_to_so_many_organisations_and_no_more(
    installation: Installation,
) -> None:
    """Each keeps a copy; of those that it goes to already all recipients are taken."""
    parts = installation.parts
    names = ("acme", "bright", "crest")
    acme, _, crest = [await installation.an_organisation(name, "free") for name in names]
    counters = SqlCounters(parts.database)
    quota = Quota(parts.recipients, counters, Refusals(), installation.clock, most_organisations=2)
    given = ("qa@acme", "qa@bright", "qa@crest", "sales@acme", "qa@nobody")
    recipients = [f"{each}.mail.example.com" for each in given]
    mail = Submission(b"Subject: a\r\n\r\n", "", tuple(recipients), "192.0.2.1")

    done = await ingest(
        parts.queue,
        quota,
        parts.database,
        mail,
        organisation_id=acme,
        idempotency_key="",
        now=installation.clock(),
    )

    assert [each.status[:9] for each in done.recipients] == [
        "accepted",
        "accepted",
        "452 4.5.3",
        "accepted",
        "550 5.1.1",
    ]
    (leased,) = await parts.queue.lease(10, 2**20)
    assert len(leased.envelope.deliveries) == 3
    used = await counters.usage(crest, installation.clock())
    assert (used.emails, used.reserved_emails) == (0, 0)


@pytest.fixture
async def unanswered(installation: Installation) -> AsyncIterator[Quota]:
    """Judges by counters in rows that nobody answers for."""
    url = mysql_url(
        host="127.0.0.1", port=free_ports(1)[0], user="nobody", password=None, name="none"
    )
    async with mysql.opened(url) as nobody:
        counters = SharedSqlCounters(nobody)
        yield Quota(installation.parts.recipients, counters, Refusals(), installation.clock)


async def test_after_the_first_recipient_that_cannot_be_told_no_other_is_asked_about(
    installation: Installation, unanswered: Quota
) -> None:
    """Where the counters do not answer, that takes seconds each time."""
    acme = await installation.an_organisation("acme", "free")
    addresses = tuple(f"qa{number}@acme.mail.example.com" for number in range(5))

    with capture_logs() as logs, pytest.raises(Unavailable):
        await _hand_over(installation, unanswered, acme, addresses)

    assert [line["event"] for line in logs].count("quota.cannot_decide") == 1


async def test_who_is_not_counted_is_taken_after_one_who_cannot_be_told(
    installation: Installation, unanswered: Quota
) -> None:
    acme = await installation.an_organisation("acme", "free")
    await installation.an_organisation("open", "unlimited")
    known, other = "qa@open.mail.example.com", "qa@acme.mail.example.com"
    await installation.parts.recipients.resolve(known)

    with capture_logs() as logs:
        done = await _hand_over(installation, unanswered, acme, (other, known, f"1{other}"))

    assert [each.status[:9] for each in done.recipients] == ["451 4.3.0", "accepted", "451 4.3.0"]
    assert [line["event"] for line in logs].count("quota.cannot_decide") == 1
    (leased,) = await installation.parts.queue.lease(10, 2**20)
    assert [each.recipient for each in leased.envelope.deliveries] == [known]


async def _hand_over(
    installation: Installation, quota: Quota, acme: OrganisationId, addresses: tuple[str, ...]
) -> Ingested:
    return await ingest(
        installation.parts.queue,
        quota,
        installation.parts.database,
        Submission(b"Subject: a\r\n\r\n", "", addresses, "192.0.2.1"),
        organisation_id=acme,
        idempotency_key="",
        now=installation.clock(),
    )
