"""The session as its driver sees it: which events, when, and what an answer changes."""

from ipaddress import ip_network

from mailtape.domain.envelope import Protocol
from mailtape_ingest import replies
from mailtape_ingest.data import Budget
from mailtape_ingest.events import Abandoned, Close, Login, Mail, Recipient, StartTls
from mailtape_ingest.lmtp import LmtpSession
from mailtape_ingest.session import Rules, Session
from mailtape_ingest.smtp import SmtpSession

RULES = Rules(hostname="mail.example.com", message_octets=1000, tls=True)


RELAYS = Rules(
    hostname="mail.example.com",
    message_octets=1000,
    protocol=Protocol.LMTP,
    trusted=(ip_network("127.0.0.0/8"), ip_network("2001:db8::/32")),
)
BEHIND_POSTFIX = b"XFORWARD ADDR=192.0.2.1 HELO=mx.example.org IDENT=4XyzQ\r\n"


def a_session(rules: Rules = RULES) -> Session[str]:
    session: Session[str] = SmtpSession(rules, Budget(2**30), client_address="127.0.0.1", name="s")
    session.greet()
    session.receive(b"EHLO client.example.org\r\n")
    assert session.next_event() is None
    session.outgoing()
    return session


def a_relays_session() -> Session[str]:
    session: Session[str] = LmtpSession(RELAYS, Budget(2**30), client_address="127.0.0.1", name="s")
    session.greet()
    session.receive(b"LHLO relay.example.org\r\n")
    assert session.next_event() is None
    session.outgoing()
    return session


def in_data(session: Session[str]) -> Session[str]:
    session.receive(b"MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\n")
    assert isinstance(session.next_event(), Recipient)
    session.accept_recipient("where c lives")
    assert session.next_event() is None
    session.outgoing()
    return session


def test_greets_once_and_then_waits() -> None:
    session: Session[str] = SmtpSession(RULES, Budget(2**30))
    session.greet()
    assert session.outgoing() == b"220 mail.example.com ESMTP Mailtape\r\n"
    assert session.outgoing() == b""
    assert session.next_event() is None


def test_asks_about_a_recipient_in_the_form_that_is_compared() -> None:
    session = a_session()
    session.receive(b'MAIL FROM:<a@b> SIZE=7\r\nRCPT TO:<"QA"+x@D>\r\nRCPT TO:<QA+x@D>\r\n')
    assert session.next_event() == Recipient("qa+x@d", 7, "s.1")


def test_gives_back_with_the_mail_what_was_given_for_its_recipients() -> None:
    session = in_data(a_session())
    session.receive(b"..x\r\n.\r\nNOOP\r\n")
    assert session.next_event() == Mail(
        transaction="s.1",
        mail_from="a@b",
        destinations=("where c lives",),
        raw=b".x\r\n",
        protocol=Protocol.SMTP,
        one_reply=True,
        client_address="127.0.0.1",
        helo="client.example.org",
        tls="",
        queue_id="",
    )


def test_keeps_commands_that_came_early_until_the_answer_is_there() -> None:
    session = in_data(a_session())
    session.receive(b".\r\nNOOP\r\n")
    assert isinstance(session.next_event(), Mail)
    assert session.outgoing() == b""
    session.answer(replies.MESSAGE_KEPT)
    assert session.next_event() is None
    assert session.outgoing() == replies.MESSAGE_KEPT.wire + replies.DONE.wire


def test_a_refused_mail_leaves_no_transaction_open() -> None:
    session = in_data(a_session())
    session.receive(b".\r\n")
    session.next_event()
    session.answer(replies.UNAVAILABLE)
    session.receive(b"RCPT TO:<c@d>\r\n")
    assert session.next_event() is None
    assert session.outgoing() == replies.UNAVAILABLE.wire + replies.MAIL_FIRST.wire


def test_refusals_for_now_are_never_counted_against_the_client() -> None:
    session = a_session(Rules(hostname="x", errors=0))
    session.receive(b"MAIL FROM:<a@b>\r\n")
    for _ in range(50):
        session.receive(b"RCPT TO:<c@d>\r\n")
        assert isinstance(session.next_event(), Recipient)
        session.answer(replies.UNAVAILABLE)
    assert session.next_event() is None


def test_failed_logins_are_counted() -> None:
    session = a_session(Rules(hostname="x", errors=1, auth_in_clear=True))
    for _ in range(2):
        session.receive(b"AUTH PLAIN AGEAYg==\r\n")
        assert session.next_event() == Login("a", "b")
        session.answer(replies.BAD_CREDENTIALS)
    assert session.next_event() == Close()
    assert session.outgoing().endswith(replies.TOO_MANY_ERRORS.wire)


def test_forgets_under_tls_what_came_in_clear() -> None:
    session = a_session()
    session.receive(b"STARTTLS\r\nMAIL FROM:<mallory@b>\r\n")
    assert session.next_event() == StartTls()
    session.receive(b"RCPT TO:<c@d>\r\n")  # still in clear
    session.tls_begins()
    session.receive(b"EHLO a\r\n")
    session.tls_agreed("TLSv1.3 X")
    assert session.next_event() is None
    said = session.outgoing()
    assert said.startswith(replies.READY_FOR_TLS.wire + b"250-mail.example.com\r\n")
    assert b"STARTTLS" not in said
    assert b"AUTH PLAIN LOGIN" in said


def test_hears_nothing_more_once_it_hung_up() -> None:
    session = a_session()
    session.hang_up(replies.SHUTTING_DOWN)
    session.receive(b"NOOP\r\n")
    assert session.next_event() == Close()
    assert session.outgoing() == replies.SHUTTING_DOWN.wire
    assert session.waiting_octets == 0


# A mail that will not come.


def abandoned(session: Session[str]) -> Abandoned[str]:
    event = session.next_event()
    assert isinstance(event, Abandoned)
    return event


def with_a_recipient(session: Session[str]) -> Session[str]:
    session.receive(b"MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\n")
    assert isinstance(session.next_event(), Recipient)
    session.accept_recipient("where c lives")
    session.outgoing()
    return session


def test_tells_of_accepted_recipients_when_the_client_drops_their_mail() -> None:
    for command in (b"RSET\r\n", b"EHLO again\r\n", b"QUIT\r\n", b"\n"):
        session = with_a_recipient(a_session())
        session.receive(command)
        assert abandoned(session) == Abandoned("s.1", ("where c lives",), "")
        assert session.next_event() in (None, Close())


def test_tells_of_them_when_the_client_is_gone_and_says_nothing() -> None:
    session = in_data(a_session())
    session.receive(b"half a mail\r\n")
    assert session.next_event() is None
    session.lose()
    assert abandoned(session).destinations == ("where c lives",)
    assert session.next_event() == Close()
    assert session.outgoing() == b""


def test_tells_of_them_when_their_mail_is_over_the_limit() -> None:
    session = in_data(a_session())
    session.receive(b"x" * 1001 + b"\r\n.\r\n")
    assert abandoned(session).destinations == ("where c lives",)
    assert session.next_event() is None
    assert session.outgoing() == replies.TOO_LARGE.wire


def test_tells_nothing_of_a_transaction_without_recipients() -> None:
    session = a_session()
    session.receive(b"MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\n")
    assert isinstance(session.next_event(), Recipient)
    session.answer(replies.REFUSED)
    session.receive(b"RSET\r\n")
    assert session.next_event() is None


def test_tells_nothing_of_a_mail_that_was_answered() -> None:
    session = in_data(a_session())
    session.receive(b".\r\n")
    assert isinstance(session.next_event(), Mail)
    session.answer(replies.UNAVAILABLE)
    session.lose()
    assert session.next_event() == Close()


def test_gives_each_transaction_a_name_of_its_own() -> None:
    session = with_a_recipient(a_session())
    session.receive(b"RSET\r\n")
    abandoned(session)
    session.receive(b"MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\n")
    assert session.next_event() == Recipient("c@d", 0, "s.2")


# SMTP has one reply.


def test_one_refused_recipient_refuses_the_mail() -> None:
    session = a_session()
    session.receive(b"MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nRCPT TO:<e@d>\r\nDATA\r\n.\r\n")
    for name in ("c", "e"):
        assert isinstance(session.next_event(), Recipient)
        session.accept_recipient(name)
    assert isinstance(session.next_event(), Mail)
    session.outgoing()
    session.answer_each([replies.MESSAGE_KEPT, replies.STORE_FULL])
    assert session.outgoing() == replies.STORE_FULL.wire


# LMTP has one for each.


def test_lmtp_answers_in_the_order_of_rcpt_and_twice_to_whom_was_named_twice() -> None:
    session = a_relays_session()
    session.receive(b"MAIL FROM:<>\r\n" + b"RCPT TO:<c@d>\r\nRCPT TO:<e@d>\r\nRCPT TO:<C@D>\r\n")
    for name in ("c", "e"):
        assert isinstance(session.next_event(), Recipient)
        session.accept_recipient(name)
    session.receive(b"DATA\r\nx\r\n.\r\nNOOP\r\n")
    mail = session.next_event()
    assert isinstance(mail, Mail)
    assert (mail.destinations, mail.one_reply) == (("c", "e"), False)
    session.outgoing()
    session.answer_each([replies.MESSAGE_KEPT, replies.STORE_FULL])
    assert session.next_event() is None
    assert session.outgoing() == b"".join(
        reply.wire
        for reply in (
            replies.MESSAGE_KEPT,
            replies.STORE_FULL,
            replies.MESSAGE_KEPT,
            replies.DONE,
        )
    )


def test_lmtp_says_to_each_what_went_wrong_for_all() -> None:
    session = a_relays_session()
    session.receive(b"MAIL FROM:<>\r\nRCPT TO:<c@d>\r\nRCPT TO:<e@d>\r\nDATA\r\n")
    for name in ("c", "e"):
        assert isinstance(session.next_event(), Recipient)
        session.accept_recipient(name)
    session.receive(b"x\r\n.\r\n")
    assert isinstance(session.next_event(), Mail)
    session.outgoing()
    session.answer(replies.UNAVAILABLE)
    assert session.outgoing() == replies.UNAVAILABLE.wire * 2


def test_lmtp_refuses_what_is_over_the_limit_once_for_each() -> None:
    for size in (1001, 5000):  # the second is given up
        session = a_relays_session()
        session.receive(b"MAIL FROM:<>\r\n" + b"RCPT TO:<c@d>\r\n" * 2 + b"DATA\r\n")
        assert isinstance(session.next_event(), Recipient)
        session.accept_recipient("c")
        assert session.next_event() is None
        session.outgoing()
        session.receive(b"x" * size + b"\r\n.\r\n")
        assert abandoned(session).destinations == ("c",)
        assert session.outgoing() == replies.TOO_LARGE.wire * 2


def test_lmtp_sends_no_relay_away_for_the_refusals_it_collects() -> None:
    session = a_relays_session()
    session.receive(b"MAIL FROM:<>\r\n" + b"RCPT TO:<c@d>\r\n" * 50 + b"RSET\r\n" * 200)
    for _ in range(50):
        assert isinstance(session.next_event(), Recipient)
        session.answer(replies.REFUSED)
    assert session.next_event() is None
    assert session.outgoing().endswith(replies.DONE.wire)


def test_lmtp_speaks_to_relays_only() -> None:
    for client_address, welcome in {
        "127.0.0.2": True,
        "::ffff:127.0.0.1": True,
        "2001:db8::25": True,
        "192.0.2.1": False,
        "::1": False,
        "": False,
    }.items():
        session: Session[str] = LmtpSession(RELAYS, Budget(2**30), client_address=client_address)
        session.greet()
        assert (session.next_event() is None) is welcome, client_address
        expected = (
            b"220 mail.example.com LMTP Mailtape\r\n" if welcome else replies.NOT_TRUSTED.wire
        )
        assert session.outgoing() == expected


# XFORWARD.


def test_a_mail_carries_the_client_that_the_relay_had_it_from() -> None:
    session = a_relays_session()
    session.receive(BEHIND_POSTFIX)
    in_data(session).receive(b".\r\n")
    mail = session.next_event()
    assert isinstance(mail, Mail)
    assert (mail.client_address, mail.helo) == ("192.0.2.1", "mx.example.org")
    assert (mail.queue_id, mail.transaction) == ("4XyzQ", "4XyzQ")


def test_what_a_relay_told_holds_for_one_mail() -> None:
    for end in (b"RSET\r\n", b"LHLO again\r\n", b"MAIL FROM:<a@b>\r\nRSET\r\n"):
        session = a_relays_session()
        session.receive(BEHIND_POSTFIX + end)
        in_data(session).receive(b".\r\n")
        mail = session.next_event()
        assert isinstance(mail, Mail)
        assert (mail.client_address, mail.queue_id) == ("127.0.0.1", "")


def test_what_a_relay_does_not_know_is_not_filled_with_facts_about_the_relay() -> None:
    session = a_relays_session()
    session.receive(b"XFORWARD ADDR=[UNAVAILABLE] IDENT=Q1\r\n")
    in_data(session).receive(b".\r\n")
    mail = session.next_event()
    assert isinstance(mail, Mail)
    assert (mail.client_address, mail.helo, mail.queue_id) == ("", "", "Q1")


def test_an_abandoned_mail_of_a_relay_has_its_queue_id() -> None:
    session = a_relays_session()
    session.receive(BEHIND_POSTFIX)
    with_a_recipient(session).lose()
    assert abandoned(session) == Abandoned("4XyzQ", ("where c lives",), "4XyzQ")
