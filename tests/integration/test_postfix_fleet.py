"""Real Postfix in front of a fleet: two policy daemons on one address, two LMTP doors on another.

Postfix tells one mail over connections of its own choice, so a recipient is judged in one process,
the queue id told to another, and the mail handed over to a third.
"""

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

import fleet as fleets
import postfix as postfixes
from fleet import Fleet
from forked import Forked
from lossy import link
from owners import Owner, registered
from postfix import Postfix, announce, greeted, receiving
from senders import SENDER

pytestmark = [pytest.mark.services, pytest.mark.e2e]

MAIL = (
    b"From: Shop <shop@example.org>\r\nTo: qa@example.org\r\nSubject: Your order\r\n\r\nThanks.\r\n"
)
SEEN_WITHIN = 60.0


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory, mailtape: Forked) -> Iterator[Fleet]:
    folder = tmp_path_factory.mktemp("fleet")
    with (
        fleets.places() as places,
        fleets.fleet(folder, places, mailtape, api=1, worker=1, policy=1, ingest=1) as started,
    ):
        for role in ("policy", "ingest"):
            (first,) = started.of(role)
            second = started.add(role, first.listen)
            second.launch()
            second.wait_until_ready(120)
        yield started


@pytest.fixture(scope="module")
def postfix(fleet: Fleet) -> Iterator[Postfix]:
    with receiving(policy=fleet.of("policy")[0].policy, lmtp=fleet.of("ingest")[0].lmtp) as started:
        yield started


@pytest.fixture
def owner(fleet: Fleet) -> Iterator[Owner]:
    """A new organisation, whose mail is counted."""
    with registered(fleet.of("api")[0].http) as owner:
        yield owner


def send(postfix: Postfix, address: str) -> bytes:
    """Send a mail; gives the reply to its last dot."""
    return postfixes.send(postfix, address, raw=MAIL)


def replies_to(postfix: Postfix, address: str) -> bytes:
    """Name a recipient until somebody can tell; gives the reply, to its enhanced code."""
    with greeted(postfix) as line:
        (reply,) = announce(line, address)
        return reply


def first_reply_to(postfix: Postfix, address: str) -> bytes:
    """Name a recipient once; gives the reply, to its enhanced code."""
    with greeted(postfix) as line:
        assert line.say(b"MAIL FROM:<%b>" % SENDER).startswith(b"250")
        return line.say(b"RCPT TO:<%b>" % address.encode())[:9]


def test_each_mail_is_one_message_and_counts_once(postfix: Postfix, owner: Owner) -> None:
    address, count = owner.address(), 40

    with ThreadPoolExecutor(8) as pool:
        replies = list(pool.map(lambda _: send(postfix, address), range(count)))

    assert {reply[:3] for reply in replies} == {b"250"}
    postfix.wait_until_empty(60)
    assert owner.wait_for(count, SEEN_WITHIN, address=address) == count
    assert owner.used() == count


def test_what_nobody_has_is_refused(postfix: Postfix) -> None:
    assert replies_to(postfix, f"nobody@{fleets.DOMAIN}") == b"550 5.1.1"


def test_a_mail_whose_250_was_lost_is_one_message(fleet: Fleet, owner: Owner) -> None:
    address, last = owner.address(), owner.address()
    policy, lmtp = fleet.of("policy")[0].policy, fleet.of("ingest")[0].lmtp
    with link(lmtp) as lossy, receiving(policy=policy, lmtp=lossy.address) as behind_a_link:
        lossy.swallow(3)
        assert send(behind_a_link, address).startswith(b"250")
        behind_a_link.wait_until_empty(60)
        assert lossy.swallowed == 3
        for _ in range(4):
            assert send(behind_a_link, last).startswith(b"250")
        behind_a_link.wait_until_empty(60)

    owner.wait_for(4, SEEN_WITHIN, address=last)
    assert (owner.count(address=address), owner.count(address=last)) == (1, 4)
    assert owner.used() == 5


def test_a_mail_waits_while_no_door_takes_it(fleet: Fleet, postfix: Postfix, owner: Owner) -> None:
    address = owner.address()
    for ingest in fleet.of("ingest"):
        ingest.kill()
    try:
        reply = send(postfix, address)
        assert reply.startswith(b"250")
        queue_id = re.escape(reply.split()[-1].decode())
        postfix.wait_for_log(f"{queue_id}: to=<{address}>")
        assert "status=deferred" in postfix.log
        assert postfix.queued() != []
    finally:
        for ingest in fleet.of("ingest"):
            ingest.launch()
        for ingest in fleet.of("ingest"):
            ingest.wait_until_ready(120)

    postfix.wait_until_empty(60)
    assert owner.wait_for(1, SEEN_WITHIN, address=address) == 1
    assert owner.used() == 1


def test_one_dead_policy_daemon_is_not_missed_and_two_defer(
    fleet: Fleet, postfix: Postfix, owner: Owner
) -> None:
    address, (first, second) = owner.address(), fleet.of("policy")
    first.kill()
    try:
        assert [replies_to(postfix, address) for _ in range(5)] == [b"250 2.1.5"] * 5
        second.kill()
        for each in (address, f"nobody@{fleets.DOMAIN}"):
            assert first_reply_to(postfix, each) == b"451 4.3.0"
    finally:
        for policy in (first, second):
            policy.close()
            policy.launch()
        for policy in (first, second):
            policy.wait_until_ready(120)

    assert send(postfix, address).startswith(b"250")
    postfix.wait_until_empty(60)
    assert owner.wait_for(1, SEEN_WITHIN, address=address) == 1
