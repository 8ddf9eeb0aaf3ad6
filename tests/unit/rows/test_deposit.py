"""A batch in which some mail is there already: the rest of it is stored as if it were alone."""

from datetime import UTC, datetime

from fakes import a_delivery, an_envelope
from installation import Installation
from mailtape.domain import ids
from mailtape.domain.ids import IngestId, OrganisationId
from mailtape.domain.message import Mailbox, Summary
from mailtape.rows import verification
from mailtape.rows.deposit import Deposit, deposit

NOW = datetime(2026, 11, 21, tzinfo=UTC)
FIRST_US = 1_763_700_000_000_000


def _a_deposit(organisation_id: OrganisationId, number: int) -> Deposit:
    accepted_us = FIRST_US + number * 1000
    envelope = an_envelope(
        ingest_id=IngestId(ids.new_id(accepted_us // 1000)),
        accepted_us=accepted_us,
        deliveries=(a_delivery("qa@mail.example.com", organisation_id),),
    )
    subject = f"Order {number}"
    summary = Summary(Mailbox("", "shop@example.org"), (), subject, "", 0, subject)
    identity = ids.message_id(accepted_us // 1000, envelope.ingest_id, "qa@mail.example.com")
    return Deposit(identity, identity, envelope.deliveries[0], envelope, summary, unparsed=False)


async def test_a_repeat_costs_its_neighbours_nothing_in_any_organisation(
    installation: Installation,
) -> None:
    database = installation.parts.database
    acme = await installation.an_organisation("acme")
    beta = await installation.an_organisation("beta")
    for_acme = [_a_deposit(acme, number) for number in range(4)]
    for_beta = [_a_deposit(beta, number) for number in range(3)]
    await database.write_bulk(deposit, [for_acme[1], for_beta[2]], NOW)

    stored = await database.write_bulk(deposit, [*for_beta, *for_acme, for_acme[3]], NOW)

    new = [*for_acme[:1], *for_acme[2:], *for_beta[:2]]
    assert {item.id for item in stored} == {item.id for item in new}
    assert len(stored) == len(new)
    for organisation_id, count in ((acme, 4), (beta, 3)):
        [account] = [
            each
            for each in await database.read(verification.accounts)
            if each.id == organisation_id
        ]
        assert account.sequence == count
        events = await database.read(verification.events, organisation_id, 0, 100)
        assert [event.sequence for event in events] == list(range(1, count + 1))
        sizes = await database.read(verification.sizes, organisation_id, 0, 100)
        assert sum(size for _, size in sizes) == account.storage_bytes
        [month] = (await database.read(verification.months, organisation_id)).values()
        assert month.emails == count
    assert await database.read(verification.without_search, 0, 2**62) == []
