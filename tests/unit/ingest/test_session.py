"""The session as its driver sees it: which events, when, and what an answer changes."""

from mailtape_ingest import replies
from mailtape_ingest.data import Budget
from mailtape_ingest.session import Close, Login, Mail, Recipient, Rules, Session, StartTls

RULES = Rules(hostname="mail.example.com", message_octets=1000, tls=True)


def a_session(rules: Rules = RULES) -> Session[str]:
    session: Session[str] = Session(rules, Budget(2**30))
    session.greet()
    session.receive(b"EHLO client.example.org\r\n")
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
    session: Session[str] = Session(RULES, Budget(2**30))
    session.greet()
    assert session.outgoing() == b"220 mail.example.com ESMTP Mailtape\r\n"
    assert session.outgoing() == b""
    assert session.next_event() is None


def test_asks_about_a_recipient_in_the_form_that_is_compared() -> None:
    session = a_session()
    session.receive(b'MAIL FROM:<a@b> SIZE=7\r\nRCPT TO:<"QA"+x@D>\r\nRCPT TO:<QA+x@D>\r\n')
    assert session.next_event() == Recipient("qa+x@d", 7)


def test_gives_back_with_the_mail_what_was_given_for_its_recipients() -> None:
    session = in_data(a_session())
    session.receive(b"..x\r\n.\r\nNOOP\r\n")
    assert session.next_event() == Mail(
        mail_from="a@b",
        destinations=("where c lives",),
        raw=b".x\r\n",
        helo="client.example.org",
        tls="",
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
