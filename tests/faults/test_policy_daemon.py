"""The policy daemon is killed and paused behind a real Postfix, and nobody is told wrong.

In the embedded platform it is one process with LMTP, so both go and come together.
"""

import json
import os
import random
import secrets
import signal
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from inbox import Inbox
from postfix import Postfix, receiving
from senders import SENDER, Line, Senders, compare, numbered
from served import Served, run, serving

pytestmark = [pytest.mark.services, pytest.mark.e2e]

CONNECTIONS = 4
CANNOT_TELL = b"451 4.3.0"
USED_UP = b"452 4.2.2"
TOO_MANY_ERRORS = b"421 4.7.0"
"""What Postfix itself says to a client that tries again and again."""


def allow(folder: Path, mails: int | None) -> None:
    """Say how many mails a month a new organisation may have; a running server reads it later."""
    limits = json.dumps({"emails_per_month": mails})
    with closing(sqlite3.connect(folder / "mailtape.sqlite3")) as rows, rows:
        rows.execute("UPDATE tiers SET limits = ? WHERE name = 'free'", (limits,))


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    top = tmp_path_factory.mktemp("mailtape")
    prepared = run("migrate", "--data", top / "var", cwd=top)
    assert prepared.returncode == 0, prepared.stderr
    with serving(top / "var", top / "log") as started:
        yield started


@pytest.fixture(scope="module")
def postfix(served: Served) -> Iterator[Postfix]:
    with receiving(policy=served.policy, lmtp=served.lmtp) as started:
        yield started


class Owner(Inbox):
    """An organisation of the test's own, on the tier that is limited."""

    def __init__(self, served: Served) -> None:
        body = {
            "email": f"{secrets.token_hex(8)}@example.org",
            "password": "a long and private sentence",
            "organization": secrets.token_hex(8),
            "cookie": False,
        }
        made = httpx.post(served.http + "/auth/register", json=body, timeout=30, trust_env=False)
        assert made.status_code == 201, made.text
        super().__init__(served.http, made.json()["access_token"])
        self.address = self.take_an_address()

    def take_an_address(self) -> bytes:
        """Take an address that nobody else has."""
        taken = self.client.post("/addresses", json={"local_part": secrets.token_hex(8)})
        assert taken.status_code == 201, taken.text
        return str(taken.json()["address"]).encode()

    def used(self) -> int:
        """Tell how many mails were counted this month."""
        return int(self.get("/usage").json()["emails"]["used"])


Limited = Callable[[int], Owner]


@pytest.fixture
def limited(served: Served) -> Iterator[Limited]:
    """Makes an organisation that may have so many mails a month."""
    made: list[Owner] = []

    def make(mails: int) -> Owner:
        allow(served.folder, mails)
        made.append(Owner(served))
        return made[-1]

    yield make
    for owner in made:
        owner.client.close()


def restart(served: Served) -> None:
    served.kill()
    served.start()


def answer_to(postfix: Postfix, recipient: bytes) -> bytes:
    """Ask at RCPT and go away; gives the reply to its enhanced code."""
    with Line(postfix.smtp) as line:
        line.hello()
        line.say(b"MAIL FROM:<%b>" % SENDER)
        return line.say(b"RCPT TO:<%b>" % recipient)[:9]


def refused_with(senders: Senders, reply: bytes) -> int:
    """Tell how often they were refused with this."""
    refusals = dict(senders.account.refusals)
    return sum(count for each, count in refusals.items() if each.startswith(reply))


def wait_until_stored(inbox: Inbox, count: int, seconds: float = 30) -> None:
    assert becomes_stored(inbox, count, seconds), f"only {inbox.count()} of {count} are visible"
    inbox.wait_until_stored(seconds)


def becomes_stored(inbox: Inbox, count: int, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while inbox.count() < count:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def wait_until_refused(senders: Senders, reply: bytes, seconds: float = 30) -> None:
    """Wait until they are refused with this once more."""
    before = refused_with(senders, reply)
    deadline = time.monotonic() + seconds
    while refused_with(senders, reply) == before:
        assert time.monotonic() < deadline, dict(senders.account.refusals)
        time.sleep(0.01)


def test_killed_under_load_it_lets_no_mail_too_many_in_and_none_is_lost_or_counted_twice(
    postfix: Postfix,
    served: Served,
    limited: Limited,
    chance: random.Random,
    tell: Callable[..., None],
    *,
    soak: bool,
) -> None:
    kills = 50 if soak else 5
    limit = 30 * kills
    owner = limited(limit)
    logged = len(postfix.log)
    senders = Senders(
        postfix.smtp, numbered(100_000), connections=CONNECTIONS, recipient=owner.address
    )
    senders.start()
    forgotten: set[str] = set()
    """Mails that Postfix held when what was promised to them was forgotten."""
    for moment in sorted(chance.sample(range(1, limit), kills)):
        senders.wait_for(moment)
        served.kill()
        forgotten.update(postfix.queued())
        served.start()  # which takes longer than Postfix waits for an answer
    wait_until_refused(senders, USED_UP)
    for _ in range(kills):
        if becomes_stored(owner, limit, seconds=10):
            break
        # Room is held for a mail whose sender did not hear so and came again under another name.
        forgotten.update(postfix.queued())
        restart(served)
        wait_until_refused(senders, USED_UP)
    senders.enough()
    account = senders.join(60)

    wait_until_stored(owner, limit)

    assert account.ambiguous == set()
    assert refused_with(senders, CANNOT_TELL) > 0
    assert {each[:9] for each in account.refusals} <= {CANNOT_TELL, USED_UP, TOO_MANY_ERRORS}
    assert "status=bounced" not in postfix.log[logged:]
    restart(served)
    assert (owner.count(), owner.used()) == (limit, limit), "the count is the rows'"
    assert answer_to(postfix, owner.address) == USED_UP

    # What Postfix took beyond that, when a kill had forgotten what was promised, waits with it.
    waiting = len(postfix.queued())
    assert len(account.acknowledged) == limit + waiting
    assert waiting <= len(forgotten) + kills * CONNECTIONS
    allow(served.folder, None)
    owner.take_an_address()  # so that what is remembered of the limits is read again
    postfix.wait_until_empty(60)
    owner.wait_until_stored(60)
    record = compare(account, owner.subjects())
    tell(record, f"{kills} kills, {waiting} mails waited for room")
    assert (record.lost, record.dup, record.unexpected) == (0, 0, 0), record
    assert owner.used() == record.acked
    assert "status=bounced" not in postfix.log[logged:]


def test_paused_it_costs_senders_postfixs_patience_and_then_goes_on(
    postfix: Postfix, served: Served, limited: Limited
) -> None:
    owner = limited(2)
    patience, tries, delay = (
        int(postfix.command("postconf", "-h", f"smtpd_policy_service_{name}").stdout.strip(" s\n"))
        for name in ("timeout", "try_limit", "retry_delay")
    )
    name, raw = next(numbered(1, prefix="paused"))
    with Line(postfix.smtp) as line:
        line.hello()
        line.say(b"MAIL FROM:<%b>" % SENDER)
        os.kill(served.pid, signal.SIGSTOP)
        try:
            begin = time.monotonic()
            reply = line.say(b"RCPT TO:<%b>" % owner.address)
            took = time.monotonic() - begin
        finally:
            os.kill(served.pid, signal.SIGCONT)

        assert reply.startswith(CANNOT_TELL)
        assert took < patience * tries + delay + 2
        assert line.say(b"RSET").startswith(b"250")
        assert line.send(raw, owner.address).startswith(b"250")

    wait_until_stored(owner, 1)
    postfix.wait_until_empty()
    assert owner.subjects() == [name]
    assert owner.used() == 1
