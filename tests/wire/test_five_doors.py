"""One table for five doors: the same mail hears the same wherever it comes.

The policy daemon, `POST /policy/check`, SMTP, LMTP and `POST /ingest` stand before one installation
with real rows. At each of them the same mails are offered, to an organisation of that door's own
with the limits of the case, and each offer is answered as the table says.
"""

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Protocol

import httpx
import pytest
from sqlalchemy import text, update

from installation import DOMAIN, Installation
from mailtape.domain import envelope
from mailtape.domain.account import Scope
from mailtape.domain.tier import Feature, Limits, Tier
from mailtape.rows import tiers
from mailtape.rows.database import Session
from mailtape.rows.organisations import Organisation
from mailtape_ingest.handler import MailHandler
from mailtape_ingest.server import Deadlines, Server
from mailtape_ingest.session import Rules
from mailtape_policy.server import Server as PolicyServer
from wire.conftest import LOOPBACK, Client
from wire.test_policy import Asker, asks

ACCEPTED = "accepted"
UNKNOWN = "550 5.1.1 no such address here"
SUSPENDED = "550 5.7.1 organisation is suspended"
TOO_MANY_A_MINUTE = "450 4.2.1 too many messages a minute for this address"
USED_UP = "452 4.2.2 monthly messages are used up"
FULL = "452 4.2.2 storage is full"
FULL_FOR_GOOD = "550 5.2.2 storage is full"
TOO_LARGE_FOR_IT = "550 5.2.3 message too large for this address"
TOO_LARGE = "552 5.3.4 message too large"
CANNOT_TELL = "451 4.3.0 cannot tell at the moment, try again later"

_instances = itertools.count(1)


def a_mail(octets: int) -> bytes:
    """Write a mail of exactly so many octets."""
    head, end = b"Subject: a\r\n\r\n", b"\r\n"
    return head + b"x" * (octets - len(head) - len(end)) + end


class Door(Protocol):
    """Offers one mail, and tells what was said to it in the words of SMTP."""

    async def offer(self, recipient: str, octets: int, *, announced: bool) -> str:
        """Offer a mail of so many octets, of which the door is told before or only sees."""


@dataclass
class PolicyDaemon:
    """As Postfix asks: at RCPT and, when the mail is there, at END-OF-MESSAGE."""

    asker: Asker

    async def offer(self, recipient: str, octets: int, *, announced: bool) -> str:
        mail = next(_instances)
        answer = await self._asks("RCPT", recipient, mail, octets if announced else 0)
        if answer == ACCEPTED:
            answer = await self._asks("END-OF-MESSAGE", recipient, mail, octets)
        return answer

    async def _asks(self, stage: str, recipient: str, mail: int, octets: int) -> str:
        request = asks(recipient, mail, protocol_state=stage, size=octets)
        answer = (await self.asker.asks(request)).decode().removesuffix("\n\n")
        return answer.removeprefix("action=").replace("DUNNO", ACCEPTED)


@dataclass
class PolicyCheck:
    """As a server that is not Postfix asks by HTTP."""

    http: httpx.AsyncClient

    async def offer(self, recipient: str, octets: int, *, announced: bool) -> str:
        mail = f"http-{next(_instances)}"
        answer = await self._asks("RCPT", recipient, mail, octets if announced else 0)
        if answer == ACCEPTED:
            answer = await self._asks("END-OF-MESSAGE", recipient, mail, octets)
        return answer

    async def _asks(self, stage: str, recipient: str, mail: str, octets: int) -> str:
        question = {
            "protocol_state": stage,
            "recipient": recipient,
            "instance": mail,
            "size": octets,
        }
        answer = await self.http.post("/policy/check", json=question)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["action"]).replace("DUNNO", ACCEPTED)


@dataclass
class Wire:
    """SMTP and LMTP, whose dialogs are the same for one recipient."""

    client: Client

    async def offer(self, recipient: str, octets: int, *, announced: bool) -> str:
        size = f" SIZE={octets}" if announced else ""
        begun, told = await self.client.says(f"MAIL FROM:<>{size}", f"RCPT TO:<{recipient}>")
        assert begun.startswith("250"), begun
        if not told.startswith("250"):
            await self.client.says("RSET")
            return told
        assert (await self.client.says("DATA"))[0].startswith("354")
        await self.client.send(a_mail(octets) + b".\r\n")
        told = await self.client.reply()
        return ACCEPTED if told.startswith("250 ") else told


@dataclass
class Ingest:
    """HTTP, where a mail comes whole: its size is always known before."""

    http: httpx.AsyncClient

    async def offer(self, recipient: str, octets: int, *, announced: bool) -> str:
        assert announced
        answer = await self.http.post(
            "/ingest",
            params={"recipient": recipient},
            content=a_mail(octets),
            headers={"Content-Type": "message/rfc822"},
        )
        if answer.status_code == 503:  # HTTP's own word for "nobody can tell, try again"
            assert int(answer.headers["Retry-After"]) > 0
            return CANNOT_TELL
        if answer.status_code == 429:  # a limit: the reply is in the same place as a 422's
            assert int(answer.headers["Retry-After"]) > 0
        if answer.status_code in {422, 429}:
            (fault,) = answer.json()["errors"]
            return str(fault["detail"])
        assert answer.status_code == 202, answer.text
        (told,) = answer.json()["recipients"]
        assert told["address"] == recipient
        return str(told["status"])


@dataclass
class House:
    """An installation with all its doors open."""

    installation: Installation
    doors: dict[str, Door]

    async def an_address(
        self, slug: str, limits: Limits | None = None, *, suspended: bool = False
    ) -> str:
        """Make an organisation with these limits; gives an address of its."""
        tier = Tier(f"tier-{slug}", limits or Limits(), frozenset({Feature.CATCH_ALL}))
        database = self.installation.parts.database
        await database.write(tiers.ensure, tier)
        owner = await self.installation.an_organisation(slug, tier.name)
        if suspended:
            suspend = update(Organisation).where(Organisation.id == owner)
            await database.write(Session.execute, suspend.values(status="suspended"))
        return f"qa@{slug}.{DOMAIN}"


@pytest.fixture
async def house(installation: Installation) -> AsyncIterator[House]:
    parts = installation.parts
    caller = await installation.an_organisation("caller")
    token = await installation.a_token(caller, [Scope.INGEST, Scope.POLICY])
    http = installation.client
    http.headers.update(installation.as_bearer(token))
    async with AsyncExitStack() as stack:
        patience = parts.settings.policy_answer_seconds
        daemon = PolicyServer(parts.quota, domain=DOMAIN, answer_seconds=patience)
        asker = await stack.enter_async_context(_connected(daemon, Asker))
        wires = {}
        for protocol, hello in (
            (envelope.Protocol.SMTP, "EHLO me"),
            (envelope.Protocol.LMTP, "LHLO me"),
        ):
            server = Server(
                MailHandler(parts.queue, parts.quota, None),
                Rules(hostname=DOMAIN, protocol=protocol, trusted=LOOPBACK),
                deadlines=Deadlines(farewell=1),
            )
            client = await stack.enter_async_context(_connected(server, Client))
            assert (await client.reply()).startswith("220")
            assert (await client.says(hello))[0].startswith("250")
            wires[protocol] = Wire(client)
        yield House(
            installation,
            {
                "policy": PolicyDaemon(asker),
                "check": PolicyCheck(http),
                "smtp": wires[envelope.Protocol.SMTP],
                "lmtp": wires[envelope.Protocol.LMTP],
                "ingest": Ingest(http),
            },
        )


@asynccontextmanager
async def _connected(
    server: Any, client: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Any]
) -> AsyncIterator[Any]:
    """Listen, with one client on the line."""
    _, port = await server.listen("127.0.0.1", 0)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield client(reader, writer)
    finally:
        writer.transport.abort()
        await server.drain(1.0)


@dataclass
class Offer:
    """One mail, and what is said to it."""

    octets: int
    told: str
    after: timedelta = timedelta()
    """How much later than the one before it."""


@dataclass
class Case:
    """What is offered one after the other to an organisation with these limits."""

    name: str
    offers: list[Offer]
    limits: Limits = field(default_factory=Limits)
    address: str = ""
    """Nobody's; empty for one of the organisation's."""
    suspended: bool = False
    announced: bool = True
    """Whether the door is told the size before it sees it; HTTP always is."""


def seconds(count: int) -> timedelta:
    return timedelta(seconds=count)


TABLE = [
    Case("without limits", [Offer(n, ACCEPTED) for n in (50, 100, 100_000)]),
    Case("an unknown address", [Offer(50, UNKNOWN)] * 2, address=f"nobody@nowhere.{DOMAIN}"),
    Case("a suspended organisation", [Offer(50, SUSPENDED)] * 2, suspended=True),
    Case(
        "rate",
        [
            *[Offer(50, ACCEPTED)] * 3,
            Offer(50, TOO_MANY_A_MINUTE),
            Offer(50, TOO_MANY_A_MINUTE, after=seconds(15)),
            Offer(50, ACCEPTED, after=seconds(5)),
            Offer(50, TOO_MANY_A_MINUTE),
        ],
        Limits(messages_per_minute=3),
    ),
    Case("a rate of none", [Offer(50, TOO_MANY_A_MINUTE)], Limits(messages_per_minute=0)),
    Case(
        "monthly mails",
        [*[Offer(50, ACCEPTED)] * 3, *[Offer(50, USED_UP)] * 2],
        Limits(emails_per_month=3),
    ),
    Case("no monthly mails", [Offer(50, USED_UP)], Limits(emails_per_month=0)),
    Case(
        "a new month",
        [Offer(50, ACCEPTED), Offer(50, USED_UP), Offer(50, ACCEPTED, after=timedelta(days=31))],
        Limits(emails_per_month=1),
    ),
    Case(
        "storage",
        [Offer(100, ACCEPTED), Offer(101, FULL), Offer(100, ACCEPTED), Offer(20, FULL)],
        Limits(storage_bytes=200),
    ),
    Case(
        "storage that is hard",
        [
            Offer(100, ACCEPTED),
            Offer(101, FULL_FOR_GOOD),
            Offer(100, ACCEPTED),
            Offer(20, FULL_FOR_GOOD),
        ],
        Limits(storage_bytes=200, storage_is_hard=True),
    ),
    Case(
        "storage, of which nobody spoke before",
        [Offer(100, ACCEPTED), Offer(101, FULL), Offer(100, ACCEPTED), Offer(20, FULL)],
        Limits(storage_bytes=200),
        announced=False,
    ),
    Case(
        "storage that is hard, of which nobody spoke before",
        [
            Offer(100, ACCEPTED),
            Offer(101, FULL_FOR_GOOD),
            Offer(100, ACCEPTED),
            Offer(20, FULL_FOR_GOOD),
        ],
        Limits(storage_bytes=200, storage_is_hard=True),
        announced=False,
    ),
    Case(
        "size",
        [Offer(100, ACCEPTED), Offer(101, TOO_LARGE_FOR_IT), Offer(100, ACCEPTED)],
        Limits(message_bytes=100),
    ),
    Case(
        "size, of which nobody spoke before",
        [Offer(100, ACCEPTED), Offer(101, TOO_LARGE), Offer(100, ACCEPTED)],
        Limits(message_bytes=100),
        announced=False,
    ),
    Case(
        "what is refused for its size costs nothing",
        [
            Offer(101, TOO_LARGE_FOR_IT),
            Offer(100, ACCEPTED),
            Offer(101, TOO_LARGE_FOR_IT),
            Offer(100, USED_UP),
        ],
        Limits(message_bytes=100, emails_per_month=1, messages_per_minute=2),
    ),
    Case(
        "what turns out too large gives its mail back",
        [Offer(101, TOO_LARGE), Offer(100, ACCEPTED), Offer(100, USED_UP)],
        Limits(message_bytes=100, emails_per_month=1),
        announced=False,
    ),
    Case(
        "what will never work comes before what works later",
        [
            Offer(50, ACCEPTED),
            Offer(101, TOO_LARGE_FOR_IT),
            Offer(50, TOO_MANY_A_MINUTE),
            Offer(50, USED_UP, after=seconds(61)),
        ],
        Limits(message_bytes=100, messages_per_minute=1, emails_per_month=1, storage_bytes=50),
    ),
]


@pytest.mark.parametrize("case", TABLE, ids=lambda case: case.name)
async def test_every_door_answers_as_the_table_says(house: House, case: Case) -> None:
    doors = {name: door for name, door in house.doors.items() if case.announced or name != "ingest"}
    addresses = {
        name: case.address or await house.an_address(name, case.limits, suspended=case.suspended)
        for name in doors
    }
    for number, offer in enumerate(case.offers):
        house.installation.clock.advance(offer.after)
        told = {
            name: await door.offer(addresses[name], offer.octets, announced=case.announced)
            for name, door in doors.items()
        }
        assert told == dict.fromkeys(doors, offer.told), f"offer {number}"


async def test_every_door_hears_of_a_tier_that_was_raised(house: House) -> None:
    addresses = {
        name: await house.an_address(name, Limits(emails_per_month=1)) for name in house.doors
    }

    async def offers() -> dict[str, str]:
        return {
            name: await door.offer(addresses[name], 50, announced=True)
            for name, door in house.doors.items()
        }

    assert [await offers(), await offers()] == [
        dict.fromkeys(house.doors, told) for told in (ACCEPTED, USED_UP)
    ]
    raised = update(tiers.TierRow).values(limits={"emails_per_month": 2})
    await house.installation.parts.database.write(Session.execute, raised)
    house.installation.parts.recipients.forget()

    assert [await offers(), await offers()] == [
        dict.fromkeys(house.doors, told) for told in (ACCEPTED, USED_UP)
    ]


async def test_no_door_takes_a_damaged_database_for_a_no(house: House) -> None:
    """Nor remembers it: each of them takes the same mail once the rows can be read again."""
    addresses = {name: await house.an_address(name) for name in house.doors}
    for damage, told in (
        ("ALTER TABLE addresses RENAME TO mislaid", CANNOT_TELL),
        ("ALTER TABLE mislaid RENAME TO addresses", ACCEPTED),
    ):
        await house.installation.parts.database.write(Session.execute, text(damage))
        answers = {
            name: await door.offer(addresses[name], 50, announced=True)
            for name, door in house.doors.items()
        }
        assert answers == dict.fromkeys(house.doors, told)
