"""Real Postfix as the door: it asks the policy daemon, hands over by LMTP, and readers see it.

One Postfix and one server stand for all tests, which come in any order: each has addresses of its
own. Postfix adds one `Received` header in front of a mail and nothing else; there is no
`Return-Path` and no `Delivered-To`, because what they say is in the envelope.
"""

import json
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing

import pytest

import postfix as postfixes
from inbox import Inbox
from lossy import Link, link
from owners import Owner, owning, registered
from postfix import Postfix, announce, begin, greeted, name_recipient, receiving
from senders import SENDER, stuffed
from served import Served, run, serving

pytestmark = [pytest.mark.services, pytest.mark.e2e]

DOMAIN = "mail.example.com"
HEAD = b"From: Shop <shop@example.org>\r\nTo: qa@example.org\r\n"
MAIL = HEAD + b"Subject: Your order\r\n\r\nThank you for it.\r\n"
SMALL_TIER = {"emails_per_month": 2, "message_bytes": 20_000}
MAILS_AT_MOST = SMALL_TIER["emails_per_month"]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server that takes mail for known addresses only, where new organisations may do little."""
    top = tmp_path_factory.mktemp("mailtape")
    prepared = run("migrate", "--data", top / "var", cwd=top)
    assert prepared.returncode == 0, prepared.stderr
    with closing(sqlite3.connect(top / "var" / "mailtape.sqlite3")) as rows, rows:
        rows.execute("UPDATE tiers SET limits = ? WHERE name = 'free'", (json.dumps(SMALL_TIER),))
    with serving(top / "var", top / "log", CAPTURE_ORGANIZATION="") as started:
        yield started


@pytest.fixture(scope="module")
def postfix(served: Served) -> Iterator[Postfix]:
    with receiving(policy=served.policy, lmtp=served.lmtp) as started:
        yield started


@pytest.fixture
def local(served: Served) -> Iterator[Owner]:
    """The organisation without limits."""
    with owning(served.http, served.token) as owner:
        yield owner


@pytest.fixture
def small(served: Served) -> Iterator[Owner]:
    """A new organisation, which may have two small mails."""
    with registered(served.http) as owner:
        yield owner


def send(postfix: Postfix, *recipients: str, raw: bytes = MAIL, sender: bytes = SENDER) -> bytes:
    """Send a mail to those who take it; gives the reply to its last dot."""
    return postfixes.send(postfix, *recipients, raw=raw, sender=sender)


def settle(postfix: Postfix, inbox: Inbox) -> None:
    """Wait until nothing is on its way any more."""
    postfix.wait_until_empty()
    inbox.wait_until_stored(20)


def without_trace(raw: bytes, address: str) -> bytes:
    """Take Postfix's header off a mail, and nothing else."""
    trace = re.compile(
        rb"Received: from client\.example\.org \(unknown \[127\.[\d.]+\]\)\r\n"
        rb"\tby mail\.example\.com \(Postfix\) with ESMTP id [0-9A-Za-z]{12,20}\r\n"
        rb"\tfor <%b>; [\w ,:+()]+\r\n" % re.escape(address.encode())
    )
    found = trace.match(raw)
    assert found, raw[:400]
    return raw[found.end() :]


def test_a_mail_is_one_message_and_counts_once(
    postfix: Postfix, local: Owner, small: Owner
) -> None:
    address = small.address()

    assert send(postfix, address).startswith(b"250")

    settle(postfix, local)
    assert small.only_message(address)["subject"] == "Your order"
    assert small.used() == 1


def test_the_bytes_come_through_behind_one_received_header(postfix: Postfix, local: Owner) -> None:
    address = local.address()
    raw = (
        HEAD
        + b"Bcc: hidden@example.org\r\nReturn-Path: <claimed@example.org>\r\nContent-Length: 7\r\n"
        + b"Content-Type: multipart/mixed; boundary=x\r\nX-Long: %b\r\n" % (b"a " * 60_000)
        + b"Subject: caf\xe9\r\n\r\n--x\r\n\r\n.dot\r\n..dots\r\n.\t\r\nbare \r and \x0b, \x85\r\n"
        + b"l" * 70_000
        + b"\r\n\r\n \r\n--x--\r\n\r\n"
    )

    assert send(postfix, address, raw=raw).startswith(b"250")

    settle(postfix, local)
    (item,) = local.get("/messages", address=address).json()["items"]
    assert without_trace(local.raw(item["id"]), address) == raw


def test_the_envelope_tells_of_the_client_and_not_of_postfix(
    postfix: Postfix, local: Owner
) -> None:
    address = local.address()

    reply = postfixes.send(postfix, address, raw=MAIL, source="127.0.0.2")

    assert reply.startswith(b"250")

    settle(postfix, local)
    envelope = local.only_message(address)["envelope"]
    assert envelope["client_address"] == "127.0.0.2"
    assert envelope["helo"] == "client.example.org"
    assert envelope["mail_from"] == SENDER.decode()
    assert envelope["rcpt_to"] == [address]


def test_each_recipient_has_its_own_reply_and_the_rest_of_the_mail_goes_on(
    postfix: Postfix, local: Owner, small: Owner
) -> None:
    full, first, second = small.address(), local.address(), local.address()
    beside = local.address()
    for _ in range(MAILS_AT_MOST):
        # Of two recipients Postfix does not ask at the end, where room could be held in vain.
        assert send(postfix, full, beside).startswith(b"250")

    with greeted(postfix) as line:
        replies = begin(line, first, f"nobody@{DOMAIN}", full, "qa@example.net", second, first)
        line.socket.sendall(stuffed(MAIL))
        assert line.reply().startswith(b"250")

    assert replies == [
        *(b"250 2.1.5", b"550 5.1.1", b"452 4.2.2", b"550 5.1.1", b"250 2.1.5", b"250 2.1.5")
    ]
    settle(postfix, local)
    messages = [local.only_message(first), local.only_message(second)]
    assert len({message["transaction"] for message in messages}) == 1
    assert len(small.messages(full)) == small.used() == MAILS_AT_MOST


def test_what_nobody_has_is_refused_before_there_is_a_mail(postfix: Postfix) -> None:
    with greeted(postfix) as line:
        replies = announce(line, f"nobody@{DOMAIN}", "qa@example.net", "qa@[127.0.0.1]", "a@b@c")

        assert replies[:2] == [b"550 5.1.1", b"550 5.1.1"]
        assert all(reply.startswith(b"5") for reply in replies)
        assert line.say(b"DATA").startswith(b"554")
    assert postfix.queued() == []


@pytest.mark.parametrize(
    "written",
    [
        *("<postmaster>", "<Postmaster>", "postmaster", " <postmaster>", '<"postmaster">'),
        *("<@relay.example:postmaster>", f"<postmaster@{DOMAIN}>"),
    ],
)
def test_a_postmaster_without_a_domain_is_asked_about_as_ours(
    postfix: Postfix, written: str
) -> None:
    """Postfix alone takes it without asking; here nobody has that address."""
    with greeted(postfix) as line:
        assert line.say(b"MAIL FROM:<%b>" % SENDER).startswith(b"250")

        reply = name_recipient(line, written.encode())

    assert reply.startswith(b"550 5.1.1"), reply


def test_a_postmaster_written_so_that_postfix_does_not_ask_is_refused_with_the_mail(
    postfix: Postfix,
) -> None:
    assert send(postfix, "post\\master").startswith(b"550 5.")

    postfix.wait_until_empty(5)  # it replies before it has removed the file


def test_a_mail_that_turns_out_too_large_is_refused_when_it_is_for_one(
    postfix: Postfix, local: Owner, small: Owner
) -> None:
    address = small.address()

    reply = send(postfix, address, raw=MAIL + b"x" * SMALL_TIER["message_bytes"])

    assert reply.startswith(b"552 5.3.4")
    postfix.wait_until_empty(5)
    assert small.used() == 0


def test_the_trace_that_postfix_adds_costs_nobody_their_mail(
    postfix: Postfix, small: Owner
) -> None:
    """Its size is asked about before the trace is there, and judged at LMTP with it."""
    address = small.address()
    full = MAIL + b"x" * (SMALL_TIER["message_bytes"] - len(MAIL) - 100)

    reply = send(postfix, address, raw=full)

    assert reply.startswith(b"250")
    settle(postfix, small)
    small.only_message(address)


def test_what_is_refused_only_after_it_was_taken_makes_no_mail_to_its_sender(
    postfix: Postfix, local: Owner, small: Owner
) -> None:
    sender, takes_it, too_small = local.address(), local.address(), small.address()

    reply = send(
        postfix,
        *(takes_it, too_small),
        raw=MAIL + b"x" * (SMALL_TIER["message_bytes"] + 2_000),
        sender=sender.encode(),
    )

    assert reply.startswith(b"250")
    queue_id = reply.split()[-1].decode()
    postfix.wait_for_log(f"{queue_id}: sender non-delivery notification")
    settle(postfix, local)
    local.only_message(takes_it)
    assert re.search(rf"{queue_id}: to=<{too_small}>.* dsn=5\.3\.4, status=bounced", postfix.log)
    assert small.messages(too_small) == local.messages(sender) == []


@pytest.fixture
def lossy(served: Served) -> Iterator[Link]:
    with link(served.lmtp) as opened:
        yield opened


@pytest.fixture
def behind_a_link(served: Served, lossy: Link) -> Iterator[Postfix]:
    """A second Postfix, which reaches the server by a link that can fail."""
    with receiving(policy=served.policy, lmtp=lossy.address) as started:
        yield started


def test_a_mail_whose_250_was_lost_is_handed_over_again_and_is_one_message(
    behind_a_link: Postfix, lossy: Link, local: Owner, small: Owner
) -> None:
    addresses = [small.address(), small.address()]
    lossy.swallow(2)

    assert send(behind_a_link, *addresses).startswith(b"250")

    settle(behind_a_link, local)
    assert lossy.swallowed == 2
    assert [len(small.messages(address)) for address in addresses] == [1, 1]
    assert small.used() == 2


def test_mail_waits_for_a_server_that_is_away(
    behind_a_link: Postfix, lossy: Link, served: Served, local: Owner, small: Owner
) -> None:
    address = small.address()
    lossy.cut.set()
    reply = send(behind_a_link, address)
    assert reply.startswith(b"250")
    queue_id = reply.split()[-1].decode()
    served.kill()
    lossy.cut.clear()
    behind_a_link.wait_for_log(f"{queue_id}: to=<{address}>")
    assert behind_a_link.queued() != []

    served.start()

    settle(behind_a_link, local)
    small.only_message(address)
    assert small.used() == 1


def test_nothing_is_accepted_while_nobody_decides(
    postfix: Postfix, served: Served, local: Owner
) -> None:
    address = local.address()
    served.kill()
    try:
        with greeted(postfix) as line:
            assert line.say(b"MAIL FROM:<%b>" % SENDER).startswith(b"250")
            for each in (address, f"nobody@{DOMAIN}"):
                assert line.say(b"RCPT TO:<%b>" % each.encode())[:9] == b"451 4.3.0"
            assert line.say(b"DATA").startswith(b"554")
        assert postfix.queued() == []
    finally:
        served.start()

    assert send(postfix, address).startswith(b"250")

    settle(postfix, local)
    local.only_message(address)


SMUGGLING = [
    *(b"\n.\n", b"\n.\r\n", b"\n.\r", b"\r.\r", b"\r.\n", b"\r.\r\n", b"\r\n.\n", b"\r\n.\r"),
    *(b"\r\n\0.\r\n", b"\r\n.\0\r\n"),
]


@pytest.mark.parametrize("end", SMUGGLING)
def test_no_second_mail_hides_behind_what_is_no_end(
    end: bytes, postfix: Postfix, local: Owner
) -> None:
    address = local.address()
    smuggled = b"MAIL FROM:<smuggled@example.org>\r\nRCPT TO:<%b>\r\nDATA\r\nsmuggled\r\n.\r\n"

    with greeted(postfix) as line:
        begin(line, address)
        line.socket.sendall(HEAD + b"\r\nfirst" + end + smuggled % address.encode() + b"QUIT\r\n")
        reply = line.reply()
        assert line.reply().startswith(b"221")

    settle(postfix, local)
    senders = [message["envelope"]["mail_from"] for message in local.messages(address)]
    assert senders == [SENDER.decode()] * reply.startswith(b"250")
    assert senders or reply.startswith(b"5")


@pytest.mark.parametrize("odd", [b"\r", b"\n", b"\0", b"\v", b"\x85", b"\r\r", b"\n\r"])
@pytest.mark.parametrize(
    "head",
    [
        b"Subject: a%bX-Injected: b\r\n",
        b"X-Na%bX-Injected: me: b\r\n",
        b"Subject: a%bReceived: from x by y\r\n",
        b'Content-Type: multipart/mixed; boundary="x%bX-Injected: b"\r\n',
        b'Content-Type: text/plain; name="a%bX-Injected: b.txt"\r\n',
    ],
    ids=["value", "name", "trace", "boundary", "filename"],
)
def test_no_header_hides_behind_what_is_no_line_end(
    head: bytes, odd: bytes, postfix: Postfix, local: Owner
) -> None:
    address = local.address()

    reply = send(postfix, address, raw=HEAD + head % odd + b"\r\nwords\r\n")

    settle(postfix, local)
    names = [[name for name, _ in message["headers"]] for message in local.messages(address)]
    assert len(names) == reply.startswith(b"250")
    assert names or reply.startswith(b"5")
    for of_one in names:
        assert of_one.count("Received") == 1
        assert "X-Injected" not in of_one


def test_postfix_offers_nothing_that_mailtape_does_not_stand_for(postfix: Postfix) -> None:
    with greeted(postfix) as line:
        offered = line.say(b"EHLO client.example.org").upper().split()[1:]

    assert b"250-PIPELINING" in offered
    named = {word[4:] for word in offered}
    assert named.isdisjoint({b"CHUNKING", b"DSN", b"ETRN", b"VRFY", b"XCLIENT", b"XFORWARD"})


def test_postfix_knows_every_parameter_that_is_set(postfix: Postfix) -> None:
    assert postfix.command("postconf", "-n").stderr == ""
    assert postfix.command("postconf", "-M").stderr == ""


def test_a_running_postfix_is_told_of_and_left_alone(postfix: Postfix, served: Served) -> None:
    pid = (postfix.folder / "queue/pid/master.pid").read_text()

    postfix.services("up", "postfix")

    assert (postfix.folder / "queue/pid/master.pid").read_text() == pid
    assert f"postfix: runs in {postfix.folder}" in postfix.services("status").splitlines()
    assert postfix.services("env").splitlines() == [
        f"POSTFIX_SMTP={postfix.smtp}",
        f"POLICY_LISTEN={served.policy}",
        f"LMTP_LISTEN={served.lmtp}",
        f"DOMAIN={DOMAIN}",
    ]
