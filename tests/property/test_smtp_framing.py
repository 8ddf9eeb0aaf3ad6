"""However the bytes are cut on their way, the session hears the same."""

from collections.abc import Iterable
from ipaddress import ip_network

from hypothesis import given, settings
from hypothesis import strategies as st

from mailtape_ingest import replies
from mailtape_ingest.data import Budget, DataReader, Progress
from mailtape_ingest.events import Abandoned, Close, Event, Login, Mail, Recipient, StartTls
from mailtape_ingest.lmtp import LmtpSession
from mailtape_ingest.session import Rules, Session
from mailtape_ingest.smtp import SmtpSession

RULES = Rules(
    hostname="mail.example.com",
    trusted=(ip_network("127.0.0.0/8"),),
    message_octets=60,
    recipients=3,
    errors=6,
    auth_in_clear=True,
)

COMMANDS = [
    b"EHLO a\r\n",
    b"LHLO a\r\n",
    b"XFORWARD ADDR=192.0.2.1 IDENT=Q1\r\n",
    b"XFORWARD ADDR=x\r\n",
    b"HELO a\r\n",
    b"MAIL FROM:<a@b>\r\n",
    b"MAIL FROM:<> SIZE=9\r\n",
    b"MAIL FROM:<\xc3\xbc@b> SMTPUTF8\r\n",
    b"RCPT TO:<r@b>\r\n",
    b"RCPT TO:<s@b>\r\n",
    b"RCPT TO:<t@b>\r\n",
    b"RCPT TO:<no@b>\r\n",
    b"RCPT TO:r@b\r\n",
    b"DATA\r\n",
    b"AUTH PLAIN AGEAYg==\r\n",
    b"AUTH PLAIN\r\n",
    b"AUTH LOGIN\r\n",
    b"AGEAYg==\r\n",
    b"*\r\n",
    b"RSET\r\n",
    b"NOOP\r\n",
    b"VRFY a\r\n",
    b"QUIT\r\n",
    b"GET / HTTP/1.1\r\n",
    b"\xff\r\n",
    b"\r\n",
    b"\n",
    b"\r",
    b"\0",
    b"x" * 1100,
]
MAIL = b"MAIL FROM:<a@b>\r\nRCPT TO:<r@b>\r\nDATA\r\n"
HELLO = {SmtpSession: b"HELO a\r\n", LmtpSession: b"LHLO a\r\n"}
FRAGMENTS = [b"\r\n", b"\r", b"\n", b".", b"..", b"\0", b"a", b"\r\n.\r\n", b"\r\n.", b"x" * 30]

kinds = st.sampled_from(list(HELLO))
transcripts = st.lists(
    st.sampled_from([*HELLO.values(), MAIL, *COMMANDS, *FRAGMENTS, b".\r\n", b"a\r\n.\r\n"]),
    max_size=25,
).map(b"".join)
data_phases = st.lists(st.sampled_from(FRAGMENTS), max_size=40).map(b"".join)


def pieces(data: bytes, cuts: Iterable[int]) -> list[bytes]:
    """Cut data at these places, where it has them."""
    places = sorted({cut for cut in cuts if 0 < cut < len(data)})
    return [data[start:end] for start, end in zip([0, *places], [*places, len(data)], strict=True)]


def hear(kind: type[Session[str]], chunks: Iterable[bytes]) -> tuple[list[Event[str]], list[bytes]]:
    """What a greeted session asks, and what it says before each question, when it is fed these."""
    session = kind(RULES, Budget(2**30), client_address="127.0.0.1")
    session.greet()
    session.receive(HELLO[kind])
    events: list[Event[str]] = []
    said = [b""]
    for chunk in chunks:
        session.receive(chunk)
        while (event := session.next_event()) is not None:
            said[-1] += session.outgoing()
            if isinstance(event, Close) and Close() in events:
                break
            events.append(event)
            said.append(b"")
            match event:
                case Recipient(address="no@b"):
                    session.answer(replies.REFUSED)
                case Recipient(address=name):
                    session.accept_recipient(name)
                case Login():
                    session.answer(replies.BAD_CREDENTIALS)
                case Mail():
                    session.answer(replies.MESSAGE_KEPT)
                case Abandoned():
                    pass
                case StartTls():
                    raise AssertionError
                case Close():
                    break
        said[-1] += session.outgoing()
    return events, said


@given(kinds, transcripts, st.lists(st.integers(0, 2000)))
@settings(max_examples=400, deadline=None)
def test_a_transcript_says_the_same_however_it_is_cut(
    kind: type[Session[str]], transcript: bytes, cuts: list[int]
) -> None:
    whole = hear(kind, [transcript])
    assert hear(kind, pieces(transcript, range(len(transcript)))) == whole
    assert hear(kind, pieces(transcript, cuts)) == whole


@given(kinds, transcripts)
@settings(max_examples=300, deadline=None)
def test_every_reply_is_a_line_with_a_code_of_its_table(
    kind: type[Session[str]], transcript: bytes
) -> None:
    _, parts = hear(kind, [transcript])
    said = b"".join(parts)
    assert said.endswith(b"\r\n")
    for line in said.splitlines():
        assert line[:3].isdigit()
        assert line.isascii()


@given(kinds, transcripts)
@settings(max_examples=300, deadline=None)
def test_no_mail_is_over_a_limit_or_without_a_recipient(
    kind: type[Session[str]], transcript: bytes
) -> None:
    events, _ = hear(kind, [transcript])
    for event in events:
        if isinstance(event, Mail):
            assert len(event.raw) <= RULES.message_octets
            assert 1 <= len(event.destinations) <= RULES.recipients
            assert len(set(event.destinations)) == len(event.destinations)


@given(kinds, transcripts)
@settings(max_examples=300, deadline=None)
def test_whoever_was_accepted_gets_the_mail_or_is_let_go_and_never_both(
    kind: type[Session[str]], transcript: bytes
) -> None:
    session_events, _ = hear(kind, [transcript, b"\0"])  # a last line that ends the session
    held: dict[str, set[str]] = {}
    for event in session_events:
        match event:
            case Recipient(address=name) if name != "no@b":
                held.setdefault(event.transaction, set()).add(name)
            case Mail() | Abandoned():
                assert held.pop(event.transaction) == set(event.destinations)


@given(
    st.lists(st.sampled_from(["r@b", "s@b", "no@b"]), max_size=6),
    st.binary(max_size=80).filter(lambda text: b"." not in text),
)
def test_lmtp_answers_after_the_dot_once_for_each_recipient_it_accepted(
    names: list[str], text: bytes
) -> None:
    commands = b"".join(b"RCPT TO:<%b>\r\n" % name.encode() for name in names)
    wire = b"MAIL FROM:<a@b>\r\n" + commands + b"DATA\r\n" + text + b"\r\n.\r\n"
    events, said = hear(LmtpSession, [wire])
    accepted = b"".join(said).count(b"250 2.1.5 ")
    if accepted:
        after_354 = b"".join(said).partition(b"\r\n354 ")[2].splitlines()[1:]
        assert len(after_354) == accepted
        assert set(after_354) <= {replies.MESSAGE_KEPT.wire[:-2], replies.TOO_LARGE.wire[:-2]}
    assert len([event for event in events if isinstance(event, Mail)]) <= 1


def naive(wire: bytes) -> tuple[bytes, bytes] | None:
    """Read DATA line by line as RFC 5321, section 4.5.2 tells it: message and remainder."""
    lines: list[bytes] = []
    rest = wire
    while True:
        line, end, rest = rest.partition(b"\r\n")
        if not end:
            return None
        if line == b".":
            return b"".join(line + b"\r\n" for line in lines), rest
        lines.append(line.removeprefix(b"."))


@given(data_phases, st.lists(st.integers(0, 300)))
@settings(max_examples=500, deadline=None)
def test_the_data_reader_agrees_with_a_naive_one(wire: bytes, cuts: list[int]) -> None:
    expected = naive(wire)
    for chunks in ([wire], pieces(wire, range(len(wire))), pieces(wire, cuts)):
        reader = DataReader(10_000, Budget(2**30))
        for number, chunk in enumerate(chunks):
            if reader.feed(chunk) is Progress.ENDED:
                rest = reader.remainder + b"".join(chunks[number + 1 :])
                assert (reader.message, rest) == expected
                break
        else:
            assert expected is None
