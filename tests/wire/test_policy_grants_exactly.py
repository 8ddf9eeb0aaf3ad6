"""As many as the limit says and not one more, asked over the wire by many at once.

Fifty connections as of fifty smtpd processes, each question asked twice: on whichever connection
it falls to, perhaps at the same moment, perhaps on a new connection because the old one broke
before the reply was read.
"""

import asyncio
import random
from collections import Counter, defaultdict

from installation import DOMAIN, Installation
from mailtape.domain.tier import Feature, Limits, Tier
from mailtape.rows import tiers
from mailtape_policy.server import Server
from wire.test_policy import DUNNO, Asker, asks

LIMIT = 1_000
MAILS = 1_500
REQUESTS = 2 * MAILS
CONNECTIONS = 50
USED_UP = b"action=452 4.2.2 monthly messages are used up\n\n"
BROKEN = 0.03
"""How many of the replies are not read: the connection breaks and the question comes again."""
RUN_SECONDS = 60
RUNS, RUNS_OF_SOAK = 25, 50
"""Under each of the two event loops."""

Answers = defaultdict[bytes, list[bytes]]


async def test_grants_exactly_the_limit(
    installation: Installation, chance: random.Random, *, soak: bool
) -> None:
    parts = installation.parts
    tier = Tier("thousand", Limits(emails_per_month=LIMIT), frozenset({Feature.CATCH_ALL}))
    await parts.database.write(tiers.ensure, tier)
    server = Server(parts.quota, domain=DOMAIN, answer_seconds=RUN_SECONDS)
    _, port = await server.listen("127.0.0.1", 0)
    try:
        for run in range(RUNS_OF_SOAK if soak else RUNS):
            slug = f"run-{run}"
            await installation.an_organisation(slug, tier.name)
            questions = [asks(f"qa@{slug}.{DOMAIN}", f"{slug}.{mail}") for mail in range(MAILS)]
            async with asyncio.timeout(RUN_SECONDS):
                await _race(port, questions, chance)
    finally:
        await server.drain(1.0)


async def _race(port: int, questions: list[bytes], chance: random.Random) -> None:
    """Ask everything twice on fifty connections, then once more on one; judge the answers."""
    requests = questions * 2
    chance.shuffle(requests)
    assert len(requests) == REQUESTS
    answers: Answers = defaultdict(list)
    await asyncio.gather(
        *(_ask(port, requests[n::CONNECTIONS], answers, chance) for n in range(CONNECTIONS))
    )
    await _ask(port, questions, answers, chance)  # Postfix retries each, much later

    told = {question: set(replies) for question, replies in answers.items()}
    assert len(told) == MAILS
    assert all(len(replies) == 1 for replies in told.values()), "the same question, two answers"
    assert Counter(reply for replies in told.values() for reply in replies) == {
        DUNNO: LIMIT,
        USED_UP: MAILS - LIMIT,
    }


async def _ask(port: int, requests: list[bytes], answers: Answers, chance: random.Random) -> None:
    """Ask one after the other, as one smtpd does; a broken connection's question comes again."""
    asker = await _connected(port)
    try:
        for request in requests:
            if chance.random() < BROKEN:
                await asker.send(request)
                asker.writer.transport.abort()
                asker = await _connected(port)
            answers[request].append(await asker.asks(request))
    finally:
        asker.writer.transport.abort()


async def _connected(port: int) -> Asker:
    return Asker(*await asyncio.open_connection("127.0.0.1", port))
