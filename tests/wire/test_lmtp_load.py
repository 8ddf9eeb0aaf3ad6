"""Postfix's own LMTP client under load: it waits for each reply, and hangs when one is missing."""

import asyncio

import pytest

from mailtape.domain.envelope import Protocol
from wire.conftest import OpenHouse

MAILS = 200
RECIPIENTS = 50


@pytest.mark.services
async def test_gives_postfix_every_reply_it_waits_for(open_lmtp: OpenHouse) -> None:
    house = await open_lmtp()
    command = ["smtp-source", "-L", "-s", "10", "-r", str(RECIPIENTS), "-m", str(MAILS)]
    command += ["-f", "shop@example.org", "-t", "qa@mail.example.com", f"127.0.0.1:{house.port}"]
    source = await asyncio.create_subprocess_exec(*command)
    try:
        async with asyncio.timeout(60):
            assert await source.wait() == 0
    finally:
        if source.returncode is None:
            source.kill()
            await source.wait()
    kept = await house.kept()
    assert len(kept) == MAILS
    assert sum(len(mail.envelope.deliveries) for mail in kept) == MAILS * RECIPIENTS == 10_000
    assert {mail.envelope.protocol for mail in kept} == {Protocol.LMTP}
