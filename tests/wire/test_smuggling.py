"""One transaction is one message or none, whatever stands in it, at both doors.

Ten ends of data that are none (CVE-2023-51764 and its kin), each with a second mail behind it: a
door that takes one for the end lets that mail in under a name nobody checked. And the bytes that
make two programs disagree on where a header ends. What counts is what was kept, not the replies.
"""

from itertools import product

import pytest

from mailtape.domain.envelope import Protocol
from wire.conftest import Client, House, OpenHouse

ENDS = {"CRLF": b"\r\n", "LF": b"\n", "CR": b"\r"}
NO_ENDS = {
    **{
        f"{before} . {after}": ENDS[before] + b"." + ENDS[after]
        for before, after in product(ENDS, ENDS)
        if (before, after) != ("CRLF", "CRLF")
    },
    "CRLF NUL . CRLF": b"\r\n\0.\r\n",
    "CRLF . NUL CRLF": b"\r\n.\0\r\n",
}
ODD_BYTES = {"CR": b"\r", "LF": b"\n", "NUL": b"\0", "VT": b"\x0b", "NEL": b"\x85"}
ODD_PLACES = {
    "a header": b"Subject: a%bX-Injected: b\r\n\r\ntext\r\n",
    "a header's name": b"Sub%bject: a\r\n\r\ntext\r\n",
    "a boundary": b'Content-Type: multipart/mixed; boundary="a%bb"\r\n\r\n--a\r\n',
    "a file's name": b'Content-Disposition: attachment; filename="a%bX-Quota: 0"\r\n\r\n',
}
SMUGGLED = (
    b"MAIL FROM:<smuggled@example.org>\r\nRCPT TO:<qa@mail.example.com>\r\nDATA\r\n"
    b"Subject: smuggled\r\n\r\nsmuggled\r\n.\r\n"
)


@pytest.fixture(params=[Protocol.SMTP, Protocol.LMTP], ids=str)
async def house(
    request: pytest.FixtureRequest, open_house: OpenHouse, open_lmtp: OpenHouse
) -> House:
    return await (open_house if request.param is Protocol.SMTP else open_lmtp)()


async def in_data(house: House) -> Client:
    client = await house.client()
    hello = "EHLO" if house.server.rules.protocol is Protocol.SMTP else "LHLO"
    replies = await client.says(
        f"{hello} a", "MAIL FROM:<shop@example.org>", "RCPT TO:<qa@mail.example.com>", "DATA"
    )
    assert [reply[:3] for reply in replies] == ["250", "250", "250", "354"]
    return client


@pytest.mark.parametrize("no_end", NO_ENDS.values(), ids=NO_ENDS)
async def test_takes_nothing_but_crlf_dot_crlf_for_the_end(house: House, no_end: bytes) -> None:
    client = await in_data(house)
    text = b"Subject: a\r\n\r\ntext" + no_end + SMUGGLED
    await client.send(text + b"QUIT\r\n")
    assert await client.reply() == "250 2.0.0 Message accepted"
    assert (await client.reply()).startswith("221 ")
    assert await client.is_hung_up_on()
    [mail] = await house.kept()
    assert mail.envelope.mail_from == "shop@example.org"
    unstuffed = text.removesuffix(b".\r\n").replace(b"\r\n.", b"\r\n")
    assert mail.raw == unstuffed


@pytest.mark.parametrize("place", ODD_PLACES.values(), ids=ODD_PLACES)
@pytest.mark.parametrize("odd", ODD_BYTES.values(), ids=ODD_BYTES)
async def test_keeps_odd_bytes_as_they_came(house: House, odd: bytes, place: bytes) -> None:
    client = await in_data(house)
    await client.send(place % odd + b".\r\n")
    assert await client.reply() == "250 2.0.0 Message accepted"
    [mail] = await house.kept()
    assert mail.raw == place % odd


@pytest.mark.parametrize("odd", [b"\r", b"\n", b"\0"], ids=["CR", "LF", "NUL"])
@pytest.mark.parametrize(
    "command",
    [
        b"MAIL FROM:<shop@example.org>%bRCPT TO:<qa@mail.example.com>\r\n",
        b"RCPT TO:<qa@mail.example.com>%bDATA\r\n",
        b"DATA%bQUIT\r\n",
        b"NOOP%b\r\n",
    ],
    ids=lambda command: command[:4].decode(),
)
async def test_ends_a_session_whose_commands_hold_them(
    house: House, odd: bytes, command: bytes
) -> None:
    client = await house.client()
    hello = "EHLO" if house.server.rules.protocol is Protocol.SMTP else "LHLO"
    await client.says(f"{hello} a")
    await client.send(command % odd + SMUGGLED)
    assert (await client.reply()).startswith("500 5.5.2 ")
    assert await client.is_hung_up_on()
    assert await house.kept() == []
