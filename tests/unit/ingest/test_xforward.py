"""XFORWARD's attributes, as Postfix writes them and as nobody should."""

import pytest

from mailtape_ingest.xforward import Forwarded, read


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        (
            "NAME=mx.example.org ADDR=192.0.2.1 PORT=35123",
            Forwarded(client_address="192.0.2.1"),
        ),
        ("PROTO=ESMTP HELO=mx IDENT=4XyzQ1 SOURCE=REMOTE", Forwarded(helo="mx", queue_id="4XyzQ1")),
        ("addr=IPv6:2001:DB8:0::1", Forwarded(client_address="2001:db8::1")),
        ("ADDR=2001:db8::1", Forwarded(client_address="2001:db8::1")),
        ("HELO=[UNAVAILABLE] ADDR=[TEMPUNAVAIL] NAME=[unavailable]", Forwarded()),
        ("HELO=a+20b+2Bc=d", Forwarded(helo="a b+c=d")),
        ("HELO=m+C3+BCller", Forwarded(helo="m\u00fcller")),
        ("HELO=", Forwarded()),
        ("HELO=a HELO=b", Forwarded(helo="b")),
        ("HELO=" + "x" * 255, Forwarded(helo="x" * 255)),
    ],
)
def test_reads(argument: str, expected: Forwarded) -> None:
    assert read(argument, Forwarded()) == expected


@pytest.mark.parametrize(
    "argument",
    [
        "",
        "  ",
        "HELO",
        "=x",
        "COLOUR=red",
        "ADDR=localhost",
        "ADDR=192.0.2",
        "ADDR=IPV6:x",
        "HELO=a+2",
        "HELO=a+zz",
        "HELO=+",
        "HELO=+FF",
        "HELO=a+0Ab",
        "HELO=a+00",
        "HELO=m\u00fcller",
        "NAME=+0A",
        "HELO=" + "x" * 256,
        "IDENT=a COLOUR=red",
    ],
)
def test_refuses(argument: str) -> None:
    assert read(argument, Forwarded()) is None


def test_a_later_command_adds_to_an_earlier_one() -> None:
    known = read("ADDR=192.0.2.1 HELO=a", Forwarded())
    assert known is not None
    assert read("HELO=b IDENT=Q", known) == Forwarded("192.0.2.1", "b", "Q")
