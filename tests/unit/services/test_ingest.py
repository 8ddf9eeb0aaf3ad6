"""A mail handed over by HTTP, where what the API's tests cannot reach goes wrong."""

from datetime import datetime

from structlog.testing import capture_logs

from installation import Installation
from mailtape.services.ingest import Submission, ingest
from mailtape.services.quota import Quota
from mailtape.services.refusals import Refusals
from mailtape.stores.sql_counters import SqlCounters


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
