r"""Every dialog in `smtp/*.dialog` and `lmtp/*.dialog`, spoken with the real listener.

    # a comment; `== a sentence` starts a dialog, several stand in one file
    with auth_required any_credentials      rules of the listener that are switched on
    C: EHLO me           sent with CR LF; \r \n \0 \xNN \\ stand for bytes
    C+ raw               sent as it is
    LONG 1000            a line of so many octets is sent
    S: 250 2.1.0         the next line of the server begins so (`S: 250-` only if it goes on)
    TLS                  the client shakes hands
    CLOSED               the server has closed, and said nothing more
    KEPT 1               so many mails stand in the queue
    RAW a\r\n            the bytes of the last of them
    TO a@b c@d           its recipients
    FROM a@b             its reverse path
    CAME 192.0.2.1 mx Q1    client address, helo and queue id in its envelope, - for an empty one

Consecutive `C` lines are sent without waiting.
"""

import re
from pathlib import Path

import pytest

from wire.conftest import LOOPBACK, Client, House, OpenHouse

SWITCHES = {"auth_required", "auth_in_clear", "any_credentials", "no_tls", "trusted", "stranger"}


def dialogs() -> list[pytest.param]:
    found = []
    for path in sorted(Path(__file__).parent.glob("?mtp/*.dialog")):
        protocol = path.parent.name
        for part in re.split(r"(?m)^== ", path.read_text(encoding="utf-8"))[1:]:
            title, _, script = part.partition("\n")
            found.append(pytest.param(protocol, script, id=f"{protocol} {path.stem}: {title}"))
    return found


def unescaped(text: str) -> bytes:
    def byte(found: re.Match[bytes]) -> bytes:
        escape = found[1]
        if escape.startswith(b"x"):
            return bytes.fromhex(escape[1:].decode())
        return {b"r": b"\r", b"n": b"\n", b"0": b"\0", b"t": b"\t", b"\\": b"\\"}[escape]

    return re.sub(rb"\\(x[0-9a-f]{2}|.)", byte, text.encode())


async def speak(line: str, client: Client, house: House) -> None:
    word, _, rest = line.partition(" ")
    match word:
        case "C:":
            await client.send(unescaped(rest) + b"\r\n")
        case "C+":
            await client.send(unescaped(rest))
        case "LONG":
            await client.send(b"x" * int(rest) + b"\r\n")
        case "S:":
            assert (await client.line()).startswith(rest), line
        case "TLS":
            await client.starts_tls()
        case "CLOSED":
            assert await client.is_hung_up_on()
        case _:
            await check_the_queue(word, rest, house)


async def check_the_queue(word: str, rest: str, house: House) -> None:
    kept = await house.kept()
    match word:
        case "KEPT":
            assert len(kept) == int(rest)
        case "RAW":
            assert kept[-1].raw == unescaped(rest)
        case "TO":
            assert [d.recipient for d in kept[-1].envelope.deliveries] == rest.split()
        case "FROM":
            assert kept[-1].envelope.mail_from == rest
        case "CAME":
            envelope = kept[-1].envelope
            came = (envelope.client_address, envelope.helo, envelope.queue_id)
            assert [fact or "-" for fact in came] == rest.split()
        case _:
            pytest.fail(f"no such line in a dialog: {word}")
    # Offer them again to the next check.
    await house.queue.release([mail.receipt for mail in kept])


@pytest.mark.parametrize(("protocol", "script"), dialogs())
async def test_speaks(
    protocol: str, script: str, open_house: OpenHouse, open_lmtp: OpenHouse
) -> None:
    lines = [line.rstrip("\n") for line in script.splitlines()]
    lines = [line for line in lines if line and not line.startswith("#")]
    switches: set[str] = set()
    if lines[0].startswith("with "):
        switches = set(lines.pop(0).split()[1:])
        assert switches <= SWITCHES
    rules: dict[str, object] = dict.fromkeys(switches - {"no_tls", "trusted", "stranger"}, True)
    if "no_tls" in switches:
        rules["tls"] = False
    if "trusted" in switches:
        rules["trusted"] = LOOPBACK
    if "stranger" in switches:
        rules["trusted"] = ()
    house = await (open_house if protocol == "smtp" else open_lmtp)(**rules)
    client = await house.client(greeted="stranger" not in switches)
    for line in lines:
        await speak(line, client, house)
    await client.close()
