from installation import DOMAIN, Installation
from mailtape.domain.ids import AddressId
from mailtape.services import addresses
from mailtape.services.recipients import Recipients


async def test_an_address_leaves_capture_at_the_moment_somebody_takes_it(
    installation: Installation,
) -> None:
    database = installation.parts.database
    local = await installation.an_organisation("local")
    acme = await installation.an_organisation("acme")
    recipients = Recipients(database, domain=DOMAIN, capture=local)
    captured = await recipients.resolve(f"checkout@{DOMAIN}")

    await addresses.create(
        database,
        recipients,
        acme,
        local_part="checkout",
        domain=DOMAIN,
        now=installation.clock(),
    )

    taken = await recipients.resolve(f"checkout@{DOMAIN}")
    assert captured.delivery.organisation_id == local
    assert taken.delivery.organisation_id == acme


async def test_an_address_keeps_its_id_when_its_owner_takes_it_back(
    installation: Installation,
) -> None:
    database, recipients = installation.parts.database, installation.parts.recipients
    acme = await installation.an_organisation("acme")

    async def take() -> bytes:
        row = await addresses.create(
            database, recipients, acme, local_part="qa", domain=DOMAIN, now=installation.clock()
        )
        return row.id

    first = await take()
    await addresses.delete(database, recipients, acme, AddressId(first), now=installation.clock())
    assert await addresses.find(database, acme, after=None, most=10) == []

    assert await take() == first
