"""What is said at each stage of a mail, with the real rule, rows and counters behind it."""

import asyncio
from datetime import UTC, datetime

import pytest
from sqlalchemy import event, update
from structlog.testing import capture_logs

from installation import DOMAIN, Installation
from mailtape.domain.address import normalise
from mailtape.domain.errors import Unavailable
from mailtape.domain.ids import OrganisationId
from mailtape.domain.policy import PolicyRequest, action
from mailtape.domain.quota import Reason, Usage
from mailtape.domain.tier import Feature, Limits, Tier
from mailtape.rows import events, tiers
from mailtape.rows.database import Session
from mailtape.rows.organisations import Organisation
from mailtape.services.policy import check
from mailtape.services.quota import Quota
from mailtape.services.recipients import Destination, Recipients
from mailtape.services.refusals import Refusals
from mailtape.stores.sql_counters import SqlCounters

QA = "qa@acme.mail.example.com"
AN = "an@acme.mail.example.com"
ACCEPTED = "DUNNO"
USED_UP = "452 4.2.2 monthly messages are used up"
TOO_LARGE = "552 5.3.4 message too large"
NO_SUCH_ADDRESS = "550 5.1.1 no such address here"
CANNOT_TELL = "451 4.3.0 cannot tell at the moment, try again later"
RCPT = PolicyRequest("RCPT", QA, instance="mail-1")
PATIENCE_SECONDS = 30.0
"""The rule is asked about here, not how fast a busy machine is."""


async def patiently_checked(quota: Quota, request: PolicyRequest) -> str:
    return action(await check(quota, request, domain=DOMAIN, within=PATIENCE_SECONDS))


class Desk:
    """An organisation with limits of the test's, and whoever asks about its mail."""

    def __init__(self, installation: Installation, owner: OrganisationId) -> None:
        parts = installation.parts
        self.owner = owner
        self.counters = SqlCounters(parts.database)
        self.quota = Quota(parts.recipients, self.counters, Refusals(), installation.clock)
        self._clock = installation.clock

    async def asked(self, request: PolicyRequest) -> str:
        return await patiently_checked(self.quota, request)

    async def usage(self) -> Usage:
        return await self.counters.usage(self.owner, self._clock())


@pytest.fixture
async def desk(installation: Installation, request: pytest.FixtureRequest) -> Desk:
    """An organisation that may have two mails, of 100 octets at most."""
    limits = getattr(request, "param", Limits(emails_per_month=2, message_bytes=100))
    tier = Tier("of-the-test", limits, frozenset({Feature.CATCH_ALL}))
    await installation.parts.database.write(tiers.ensure, tier)
    return Desk(installation, await installation.an_organisation("acme", tier.name))


async def test_a_recipient_is_decided_on_at_rcpt(desk: Desk) -> None:
    answers = [await desk.asked(RCPT._replace(instance=f"mail-{n}")) for n in range(3)]

    assert answers == [ACCEPTED, ACCEPTED, USED_UP]
    assert (await desk.usage()).reserved_emails == 2


async def test_the_same_question_again_holds_nothing_more(desk: Desk) -> None:
    answers = [await desk.asked(RCPT) for _ in range(5)]

    assert answers == [ACCEPTED] * 5
    assert (await desk.usage()).reserved_emails == 1


async def test_each_recipient_of_a_mail_is_held_for(desk: Desk) -> None:
    answers = [await desk.asked(RCPT._replace(recipient=each)) for each in (QA, AN, "x" + AN)]

    assert answers == [ACCEPTED, ACCEPTED, USED_UP]


async def test_a_question_without_a_name_is_decided_and_holds_nothing(desk: Desk) -> None:
    nameless = RCPT._replace(instance="")

    assert [await desk.asked(nameless) for _ in range(5)] == [ACCEPTED] * 5
    assert (await desk.usage()).reserved_emails == 0

    await desk.asked(RCPT)
    await desk.asked(RCPT._replace(instance="mail-2"))

    assert await desk.asked(nameless) == USED_UP


@pytest.mark.parametrize("desk", [Limits(messages_per_minute=2)], indirect=True)
async def test_questions_without_a_name_count_towards_the_rate(desk: Desk) -> None:
    nameless = RCPT._replace(instance="")

    answers = [await desk.asked(nameless) for _ in range(3)]

    assert answers == [ACCEPTED, ACCEPTED, "450 4.2.1 too many messages a minute for this address"]


async def test_the_announced_size_counts_at_rcpt(desk: Desk) -> None:
    assert await desk.asked(RCPT._replace(size=100)) == ACCEPTED
    assert (
        await desk.asked(RCPT._replace(size=101, instance="mail-2"))
        == "550 5.2.3 message too large for this address"
    )


async def test_data_tells_the_queue_id_under_which_lmtp_asks(desk: Desk) -> None:
    await desk.asked(RCPT)
    data = PolicyRequest("DATA", QA, instance="mail-1", queue_id="4XyzQ", recipient_count=1)

    answer = await desk.asked(data)
    by_lmtp = await desk.quota.recipient(QA, transaction="4XyzQ", octets=10)
    await desk.quota.commit("4XyzQ", [by_lmtp], 10)

    assert answer == ACCEPTED
    assert (await desk.usage())._replace(arrival_us=0) == Usage(emails=1, storage_bytes=10)


async def test_the_true_size_counts_at_the_end(desk: Desk) -> None:
    end = PolicyRequest("END-OF-MESSAGE", QA, instance="mail-1", recipient_count=1)

    await desk.asked(RCPT)

    assert await desk.asked(end._replace(size=100)) == ACCEPTED
    assert (await desk.usage()).reserved_emails == 1
    assert await desk.asked(end._replace(size=101)) == TOO_LARGE


async def test_what_is_refused_at_the_end_is_held_no_longer(desk: Desk) -> None:
    end = PolicyRequest("END-OF-MESSAGE", QA, size=101, instance="mail-1")
    await desk.asked(RCPT)

    await desk.asked(end)

    assert (await desk.usage()).reserved_emails == 0


async def test_an_end_that_nothing_was_held_for_is_decided_in_whole(desk: Desk) -> None:
    end = PolicyRequest("END-OF-MESSAGE", QA, size=10, instance="mail-1")

    assert await desk.asked(end._replace(size=101)) == TOO_LARGE
    answers = [await desk.asked(end._replace(instance=f"mail-{n}")) for n in range(3)]

    assert answers == [ACCEPTED, ACCEPTED, USED_UP]


async def test_a_mail_that_is_too_large_at_the_end_is_not_put_off_for_want_of_room(
    desk: Desk,
) -> None:
    end = PolicyRequest("END-OF-MESSAGE", QA, size=10)
    for n in range(2):
        await desk.asked(end._replace(instance=f"mail-{n}"))

    assert await desk.asked(end._replace(instance="mail-2")) == USED_UP
    assert await desk.asked(end._replace(instance="mail-2", size=101)) == TOO_LARGE


@pytest.mark.parametrize("stage", ["DATA", "BDAT", "END-OF-MESSAGE", "RCPT"])
async def test_a_stage_that_names_no_recipient_is_answered(desk: Desk, stage: str) -> None:
    several = PolicyRequest(stage, "", size=10**9, instance="mail-1", recipient_count=2)

    assert await desk.asked(several) == ACCEPTED


@pytest.mark.parametrize(
    "stage",
    ["CONNECT", "EHLO", "HELO", "MAIL", "DATA", "VRFY", "ETRN", "", "rcpt", "OF THE FUTURE"],
)
async def test_the_other_stages_have_no_objection_and_hold_nothing(desk: Desk, stage: str) -> None:
    request = PolicyRequest(stage, "nobody@elsewhere.example", size=10**9, instance="mail-1")

    assert await desk.asked(request) == ACCEPTED
    assert (await desk.usage()).reserved_emails == 0


@pytest.mark.parametrize(
    ("recipient", "answer"),
    [
        ("QA@ACME.mail.example.com", ACCEPTED),
        ("qa+run7@acme.mail.example.com", ACCEPTED),
        ('"qa"@acme.mail.example.com', ACCEPTED),
        ("a b@acme.mail.example.com", ACCEPTED),  # Postfix takes the quotes off
        ("a..b@acme.mail.example.com", ACCEPTED),
        ('a"b\\@acme.mail.example.com', ACCEPTED),
        ("jürgen@acme.mail.example.com", ACCEPTED),
        ("postmaster", NO_SUCH_ADDRESS),  # at our own domain, which nobody has taken
        ("nobody@elsewhere.example", NO_SUCH_ADDRESS),
        ("nobody", NO_SUCH_ADDRESS),
        ("@acme.mail.example.com", NO_SUCH_ADDRESS),
        ("qa@-", NO_SUCH_ADDRESS),
        ("\x01@acme.mail.example.com", NO_SUCH_ADDRESS),
        ("\ufffd@acme.mail.example.com", NO_SUCH_ADDRESS),  # once invalid UTF-8
        ("x" * 300 + "@acme.mail.example.com", NO_SUCH_ADDRESS),
    ],
)
async def test_a_recipient_comes_as_mail_servers_write_it(
    desk: Desk, recipient: str, answer: str
) -> None:
    assert await desk.asked(RCPT._replace(recipient=recipient)) == answer


@pytest.mark.parametrize(
    "written",
    [
        "a b@acme.mail.example.com",  # without its quotes
        '"qa"@acme.mail.example.com',
        "JU\u0308RGEN@acme.mail.example.com",  # a letter in two parts
    ],
)
async def test_a_recipient_is_the_one_that_lmtp_makes_of_it(desk: Desk, written: str) -> None:
    quoted = f'"{written.partition("@")[0]}"@acme.mail.example.com'
    by_lmtp = normalise(quoted if " " in written else written)
    await desk.asked(RCPT._replace(recipient=written, queue_id="4XyzQ"))

    await desk.quota.recipient(by_lmtp, transaction="4XyzQ", octets=10)

    assert (await desk.usage()).reserved_emails == 1


async def test_a_postmaster_without_a_domain_is_ours(installation: Installation) -> None:
    local = await installation.an_organisation("local")
    database = installation.parts.database
    capturing = Recipients(database, domain=DOMAIN, capture=local)
    quota = Quota(capturing, SqlCounters(database), Refusals(), installation.clock)

    assert await patiently_checked(quota, RCPT._replace(recipient="Postmaster")) == ACCEPTED


class Directory:
    """A directory of recipients that fails as it is told; waiting for None is for ever."""

    def __init__(self, failure: Exception | None) -> None:
        self.failure = failure

    async def resolve(self, _address: str) -> Destination:
        if self.failure is None:
            await asyncio.Event().wait()
        raise self.failure or AssertionError


@pytest.mark.parametrize("stage", ["RCPT", "END-OF-MESSAGE"])
async def test_what_takes_too_long_is_put_off(installation: Installation, stage: str) -> None:
    quota = Quota(
        Directory(None),
        SqlCounters(installation.parts.database),
        Refusals(),
        lambda: datetime.now(UTC),
    )
    begin = asyncio.get_running_loop().time()

    decision = await check(quota, RCPT._replace(protocol_state=stage), domain=DOMAIN, within=0.05)

    assert action(decision) == CANNOT_TELL
    assert asyncio.get_running_loop().time() - begin < 1


async def test_what_goes_wrong_is_put_off(installation: Installation) -> None:
    def broken_clock() -> datetime:
        raise ZeroDivisionError("a secret of ours")

    await installation.an_organisation("acme", "free")
    parts = installation.parts
    quota = Quota(parts.recipients, SqlCounters(parts.database), Refusals(), broken_clock)

    assert await patiently_checked(quota, RCPT) == CANNOT_TELL


async def test_why_it_could_not_be_decided_stands_in_the_log(installation: Installation) -> None:
    failing = Directory(Unavailable("The database cannot be used at the moment."))
    counters = SqlCounters(installation.parts.database)
    quota = Quota(failing, counters, Refusals(), installation.clock)

    with capture_logs() as logs:
        assert await patiently_checked(quota, RCPT) == CANNOT_TELL

    (line,) = logs
    assert line["event"] == "quota.cannot_decide"
    assert line["why"] == "The database cannot be used at the moment."


@pytest.mark.parametrize("desk", [Limits(emails_per_month=1)], indirect=True)
async def test_nothing_is_written_while_a_server_waits_for_its_answer(
    installation: Installation, desk: Desk
) -> None:
    written: list[object] = []

    def begins(connection: object) -> None:
        written.append(connection)

    database = installation.parts.database
    event.listen(database._writer, "begin", begins)
    answers = [
        await desk.asked(each)
        for each in (
            RCPT,
            RCPT._replace(instance="mail-2"),
            RCPT._replace(recipient="nobody@elsewhere.example"),
            RCPT._replace(protocol_state="DATA", queue_id="4XyzQ"),
            RCPT._replace(protocol_state="END-OF-MESSAGE", size=10),
        )
    ]
    assert answers == [ACCEPTED, USED_UP, NO_SUCH_ADDRESS, ACCEPTED, ACCEPTED]
    assert written == []

    await database.write(tiers.ensure, Tier("another", Limits(), frozenset()))
    event.remove(database._writer, "begin", begins)
    assert written, "a transaction that writes is seen"


@pytest.mark.parametrize("desk", [Limits(storage_bytes=5_000)], indirect=True)
async def test_small_mails_of_a_relay_at_the_same_time_hold_their_true_size(desk: Desk) -> None:
    """The trace is forgiven once in deciding, and held all the same."""
    names = [f"4Zk{number}" for number in range(20)]
    judged = {name: await desk.quota.recipient(QA, transaction=name, octets=0) for name in names}

    decisions = [
        (await desk.quota.received(name, [judged[name]], 1_000, relayed=True))[0] for name in names
    ]

    assert [decision.accepted for decision in decisions] == [True] * 6 + [False] * 14
    assert (await desk.usage()).reserved_bytes >= 6_000


async def test_who_is_suspended_hears_of_the_mail_that_was_refused(
    installation: Installation, desk: Desk
) -> None:
    parts, refusals = installation.parts, Refusals()
    quota = Quota(parts.recipients, desk.counters, refusals, installation.clock)
    suspend = update(Organisation).where(Organisation.id == desk.owner).values(status="suspended")
    await parts.database.write(Session.execute, suspend)

    judged = await quota.recipient(QA, transaction="mail-1", octets=0)
    await refusals.flush(parts.database, parts.wakeups, installation.clock(), ending=True)

    assert judged.decision.reason is Reason.ORGANISATION_SUSPENDED
    page = await parts.database.read(events.page, desk.owner, after=0, limit=10)
    assert [(told.refused.address, told.refused.reason) for told in page if told.refused] == [
        (QA, "organisation_suspended")
    ]
