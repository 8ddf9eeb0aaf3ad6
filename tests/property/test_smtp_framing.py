"""However the bytes are cut on their way, the session hears the same."""

from collections.abc import Iterable

from hypothesis import given, settings
from hypothesis import strategies as st

from mailtape_ingest import replies
from mailtape_ingest.data import Budget, DataReader, Progress
from mailtape_ingest.session import Close, Event, Login, Mail, Recipient, Rules, Session, StartTls

RULES = Rules(
    hostname="mail.example.com", message_octets=60, recipients=2, errors=6, auth_in_clear=True
)

COMMANDS = [
    b"EHLO a\r\n",
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
MAIL = b"HELO a\r\nMAIL FROM:<a@b>\r\nRCPT TO:<r@b>\r\nDATA\r\n"
FRAGMENTS = [b"\r\n", b"\r", b"\n", b".", b"..", b"\0", b"a", b"\r\n.\r\n", b"\r\n.", b"x" * 30]

transcripts = st.lists(
    st.sampled_from([MAIL, *COMMANDS, *FRAGMENTS, b".\r\n", b"a\r\n.\r\n"]), max_size=25
).map(b"".join)
data_phases = st.lists(st.sampled_from(FRAGMENTS), max_size=40).map(b"".join)


def pieces(data: bytes, cuts: Iterable[int]) -> list[bytes]:
    """Cut data at these places, where it has them."""
    places = sorted({cut for cut in cuts if 0 < cut < len(data)})
    return [data[start:end] for start, end in zip([0, *places], [*places, len(data)], strict=True)]


def hear(chunks: Iterable[bytes]) -> tuple[list[Event[str]], bytes]:
    """What a session asks and says when it is fed these."""
    session: Session[str] = Session(RULES, Budget(2**30))
    session.greet()
    events: list[Event[str]] = []
    said = b""
    for chunk in chunks:
        session.receive(chunk)
        while (event := session.next_event()) is not None:
            if isinstance(event, Close) and Close() in events:
                break
            events.append(event)
            match event:
                case Recipient(address="no@b"):
                    session.answer(replies.ADDRESS_UNKNOWN)
                case Recipient(address=name):
                    session.accept_recipient(name)
                case Login():
                    session.answer(replies.BAD_CREDENTIALS)
                case Mail():
                    session.answer(replies.MESSAGE_KEPT)
                case StartTls():
                    raise AssertionError
                case Close():
                    break
        said += session.outgoing()
    return events, said


@given(transcripts, st.lists(st.integers(0, 2000)))
@settings(max_examples=300, deadline=None)
def test_a_transcript_says_the_same_however_it_is_cut(transcript: bytes, cuts: list[int]) -> None:
    whole = hear([transcript])
    assert hear(pieces(transcript, range(len(transcript)))) == whole
    assert hear(pieces(transcript, cuts)) == whole


@given(transcripts)
@settings(max_examples=300, deadline=None)
def test_every_reply_is_a_line_with_a_code_of_its_table(transcript: bytes) -> None:
    _, said = hear([transcript])
    assert said.endswith(b"\r\n") or said == b""
    for line in said.splitlines():
        assert line[:3].isdigit()
        assert line.isascii()


@given(transcripts)
@settings(max_examples=300, deadline=None)
def test_no_mail_is_over_a_limit_or_without_a_recipient(transcript: bytes) -> None:
    events, _ = hear([transcript])
    for event in events:
        if isinstance(event, Mail):
            assert len(event.raw) <= RULES.message_octets
            assert 1 <= len(event.destinations) <= RULES.recipients
            assert len(set(event.destinations)) == len(event.destinations)


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
