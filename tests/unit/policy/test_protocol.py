"""What the protocol reads from bytes, and what it hangs up on."""

import pytest

from mailtape.domain.policy import PolicyRequest
from mailtape_policy.protocol import REQUEST_OCTETS, ProtocolError, RequestReader, reply

WHOLE = (
    b"request=smtpd_access_policy\nprotocol_state=RCPT\nrecipient=qa@mail.example.com\n"
    b"sender=shop@example.org\nclient_address=192.0.2.1\nsize=5120\ninstance=5afd.6b00f686.1d54d.0\n"
    b"queue_id=4XyzQ\nrecipient_count=2\n\n"
)


def read(data: bytes) -> PolicyRequest:
    (request,) = RequestReader().feed(data)
    return request


def fault_in(data: bytes) -> ProtocolError:
    with pytest.raises(ProtocolError) as caught:
        RequestReader().feed(data)
    return caught.value


def test_reads_every_attribute_that_we_use() -> None:
    assert read(WHOLE) == PolicyRequest(
        protocol_state="RCPT",
        recipient="qa@mail.example.com",
        sender="shop@example.org",
        client_address="192.0.2.1",
        size=5120,
        instance="5afd.6b00f686.1d54d.0",
        queue_id="4XyzQ",
        recipient_count=2,
    )


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"\n", PolicyRequest()),
        (b"request=smtpd_access_policy\n\n", PolicyRequest()),
        (b"request=\n\n", PolicyRequest()),
        (b"protocol_state=DATA\n\n", PolicyRequest("DATA")),
        (b"recipient=\nsender=\n\n", PolicyRequest()),
        (b"recipient_count=\nsize=\n\n", PolicyRequest()),
    ],
)
def test_what_is_missing_or_empty_has_its_default(data: bytes, expected: PolicyRequest) -> None:
    assert read(data) == expected


def test_the_first_equals_sign_splits() -> None:
    assert read(b"sender=a=b=@x\n\n").sender == "a=b=@x"


def test_a_value_keeps_its_spaces_and_carriage_returns() -> None:
    assert read(b"sender= a b \r\n\n").sender == " a b \r"


def test_the_last_of_repeated_attributes_counts() -> None:
    assert read(b"recipient=a@b\nrecipient=c@d\n\n").recipient == "c@d"


def test_attributes_of_other_releases_are_passed_over() -> None:
    assert read(b"tls_sni=x\nmail_version=3.12\n=\nrecipient=a@b\n\n").recipient == "a@b"


def test_nothing_of_one_request_is_left_in_the_next() -> None:
    requests = RequestReader().feed(b"recipient=a@b\n\nsender=c@d\n\n")

    assert requests == [PolicyRequest(recipient="a@b"), PolicyRequest(sender="c@d")]


def test_invalid_utf_8_is_read_as_a_replacement() -> None:
    assert read(b"sender=\xffa\xc3\nrecipient=\xc3\xbc@b\n\n") == PolicyRequest(
        sender="\ufffda\ufffd", recipient="ü@b"
    )


@pytest.mark.parametrize(
    "digits", [b"-1", b"x", b"1.5", b" 1", b"1_0", b"\xd9\xa3", b"9" * 19, b"9" * 5000]
)
def test_a_number_that_is_none_is_unknown(digits: bytes) -> None:
    assert read(b"size=%b\n\n" % digits).size == 0


def test_a_number_of_eighteen_digits_is_one() -> None:
    assert read(b"size=%b\n\n" % (b"9" * 18)).size == 10**18 - 1


@pytest.mark.parametrize(
    "data",
    [
        b"sender=a\0b\n\n",
        b"sender=a\0",
        b"a line\n",
        b"GET / HTTP/1.1\r\n",
        b"\r\n",
        b"request=junk\n\n",
    ],
)
def test_what_postfix_never_sends_is_a_fault_as_soon_as_it_shows(data: bytes) -> None:
    assert fault_in(data).before == []


def test_requests_before_a_fault_are_given_with_it() -> None:
    fault = fault_in(b"recipient=a@b\n\nrecipient=c@d\n\nnonsense\n\n")

    assert [request.recipient for request in fault.before] == ["a@b", "c@d"]


def test_a_fault_repeats_nothing_of_what_came() -> None:
    assert "nonsense" not in str(fault_in(b"nonsense\n"))


def test_a_request_may_be_as_long_as_the_limit_and_no_longer() -> None:
    frame = b"sender=\n\n"
    longest = b"sender=%b\n\n" % (b"x" * (REQUEST_OCTETS - len(frame)))
    longer = longest.replace(b"=x", b"=xx")

    assert read(longest).sender == "x" * (REQUEST_OCTETS - len(frame))
    assert str(fault_in(longer)) == "request too long"


def test_many_lines_count_towards_the_limit_as_one_does() -> None:
    assert str(fault_in(b"a=b\n" * (REQUEST_OCTETS // 4 + 1))) == "request too long"


def test_what_has_no_end_is_not_kept_beyond_the_limit() -> None:
    reader = RequestReader(request_octets=100)
    reader.feed(b"x" * 99)

    with pytest.raises(ProtocolError):
        reader.feed(b"x")


def test_the_limit_is_one_requests_not_the_connections() -> None:
    reader = RequestReader(request_octets=100)

    assert len(reader.feed(b"sender=a\n\n" * 1000)) == 1000


def test_a_reply_ends_with_an_empty_line() -> None:
    assert reply("DUNNO") == b"action=DUNNO\n\n"


@pytest.mark.parametrize("action", ["", "a\nb", "a\0", "ü", "a\r"])
def test_an_action_that_could_end_early_is_not_sent(action: str) -> None:
    with pytest.raises(ValueError, match="printable ASCII"):
        reply(action)
