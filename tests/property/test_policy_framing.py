"""However the bytes are cut on their way, the policy daemon reads the same requests."""

from collections.abc import Iterable
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from mailtape.domain.policy import PolicyRequest
from mailtape_policy.protocol import ProtocolError, RequestReader

LIMIT = 80
TRANSCRIPT = (
    b"request=smtpd_access_policy\nprotocol_state=RCPT\nrecipient=a=b@x\n\n"
    b"\n"
    b"sender=\xc3\xbc@x\nsize=12\nsize=13\n\n"
    b"tls_sni=\nprotocol_state=END-OF-MESSAGE\nrecipient=\n\n"
)
ENDINGS = [
    b"",
    b"sender=a\0b\n\n",
    b"no equals sign\n\n",
    b"x=" + b"y" * LIMIT,
    b"request=junk\n\n",
]
FRAGMENTS = [
    b"request=smtpd_access_policy\n",
    b"protocol_state=RCPT\n",
    b"recipient=a@b\n",
    b"size=7\n",
    b"sender=\xff\xc3",
    b"x" * 30,
    b"=",
    b"\n",
    b"\n\n",
    b"\r\n",
    b"\0",
    b"junk\n",
]

transcripts = st.lists(st.sampled_from(FRAGMENTS), max_size=20).map(b"".join)


def hear(chunks: Iterable[bytes]) -> tuple[list[PolicyRequest], bool]:
    """What was read from chunks, and whether it ended in a fault."""
    reader = RequestReader(LIMIT)
    heard: list[PolicyRequest] = []
    for chunk in chunks:
        try:
            heard += reader.feed(chunk)
        except ProtocolError as error:
            return heard + error.before, True
    return heard, False


def test_every_two_cuts_of_a_transcript_read_as_the_whole() -> None:
    for ending in ENDINGS:
        data = TRANSCRIPT + ending
        whole = hear([data])
        assert whole[0][:4] == [
            PolicyRequest("RCPT", "a=b@x"),
            PolicyRequest(),
            PolicyRequest(sender="ü@x", size=13),
            PolicyRequest("END-OF-MESSAGE"),
        ]
        assert whole[1] is bool(ending)

        for first in range(len(data) + 1):
            for second in range(first, len(data) + 1):
                assert hear([data[:first], data[first:second], data[second:]]) == whole


def test_one_byte_at_a_time_reads_as_the_whole() -> None:
    for ending in ENDINGS:
        data = TRANSCRIPT + ending
        assert hear(data[i : i + 1] for i in range(len(data))) == hear([data])


@given(transcripts, st.lists(st.integers(0, 400)))
def test_any_cuts_of_anything_read_as_the_whole(data: bytes, cuts: list[int]) -> None:
    places = [0, *sorted({cut for cut in cuts if cut < len(data)}), len(data)]
    chunks = [data[a:b] for a, b in pairwise(places)]

    assert hear(chunks) == hear([data])


@given(st.binary())
def test_no_bytes_are_anything_but_requests_or_a_fault(data: bytes) -> None:
    heard, _ = hear([data])

    assert all(request.size >= 0 for request in heard)
