"""Two of each process on one set of servers are one system, whichever of them is spoken to.

One fleet stands for all tests, which come in any order: each has organisations and addresses of its
own. Which process is spoken to is drawn by chance, from the run's seed.
"""

import asyncio
import json
import random
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from email.message import EmailMessage
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

import fleet as fleets
import services
from fleet import Fleet, Process, asked
from forked import Forked
from live import Told, follow
from lossy import link
from owners import Owner, owning, registered
from people import PASSWORD
from processes import free_ports
from senders import SENDER, Line, Senders, compare, insist, numbered
from served import environment

pytestmark = [pytest.mark.services, pytest.mark.e2e]

MAILS_A_MONTH = 25
PUT_OFF_AT_MOST = 12
"""Of many at once, by a busy machine: no more than ask at a time, once."""
UNKNOWN_FOR = 5.0
"""Seconds for which a door may go on to refuse somebody whom it was asked about before."""
KNOWN_FOR = 60.0
"""Seconds for which a door may go on to take mail for an address that was deleted elsewhere."""
A_MOMENT = 10.0
"""Seconds for what takes a tenth of one on an idle machine."""
KIB = 2**10


@pytest.fixture(scope="module")
def places() -> Iterator[dict[str, str]]:
    with fleets.places() as found:
        yield found


@pytest.fixture(scope="module")
def fleet(
    tmp_path_factory: pytest.TempPathFactory, places: dict[str, str], mailtape: Forked
) -> Iterator[Fleet]:
    counts = {"api": 2, "ingest": 2, "policy": 2, "worker": 2}
    folder = tmp_path_factory.mktemp("fleet")
    with fleets.fleet(folder, places, hardened=True, **counts) as started:
        started.fork_from(mailtape)  # each has started by itself, as an operator starts it
        _set_free_tier(places, emails_per_month=MAILS_A_MONTH)
        yield started


def _set_free_tier(places: dict[str, str], **limits: int) -> None:
    with closing(services.connect_mysql(places)) as rows, rows.cursor() as cursor:
        cursor.execute("UPDATE tiers SET limits = %s WHERE name = 'free'", (json.dumps(limits),))


@pytest.fixture
def local(fleet: Fleet, chance: random.Random) -> Iterator[Owner]:
    """The organisation without limits, at either API."""
    with fleets.local(chance.choice(fleet.of("api"))) as owner:
        yield owner


@pytest.fixture
def small(fleet: Fleet, chance: random.Random) -> Iterator[Owner]:
    """A new organisation on the small tier, at either API."""
    with registered(chance.choice(fleet.of("api")).http) as owner:
        yield owner


@contextmanager
def everywhere(fleet: Fleet, owner: Owner) -> Iterator[list[Owner]]:
    """Speak as the same caller to every API."""
    first, second = (api.http for api in fleet.of("api"))
    with owning(first, owner.token) as one, owning(second, owner.token) as other:
        yield [one, other]


# The doors, each as one that takes a mail for an address and gives the reply that SMTP gives.
# Whoever is put off there comes again, as senders do.

Door = Callable[[bytes, str], str]


def put_off(reply: str) -> bool:
    return reply.startswith("451")


def by_smtp_once(ingest: Process) -> Door:
    def send(raw: bytes, address: str) -> str:
        with Line(ingest.smtp) as line:
            line.hello()
            return line.send(raw, address.encode()).decode()

    return send


def by_smtp(ingest: Process) -> Door:
    """Each time as another mail, because none has a name here: room may be held in vain."""
    once = by_smtp_once(ingest)
    return lambda raw, address: insist(lambda: once(raw, address), put_off)


def by_lmtp(ingest: Process) -> Door:
    def send(raw: bytes, address: str) -> str:
        return handed_over(ingest, raw, address, secrets.token_hex(8))

    return send


def handed_over(ingest: Process, raw: bytes, address: str, queue_id: str) -> str:
    """Hand a mail over as Postfix does; gives the reply to it."""

    def offer() -> str:
        with Line(ingest.lmtp) as line:
            line.reply()
            assert line.say(b"LHLO relay").startswith(b"250")
            assert line.say(b"XFORWARD IDENT=%b" % queue_id.encode()).startswith(b"250")
            return line.send(raw, address.encode()).decode()

    return insist(offer, put_off)


def by_http(api: Process) -> Door:
    def send(raw: bytes, address: str) -> str:
        answer = ingested(api, raw, address, secrets.token_hex(8))
        if answer.status_code == 202:
            return "250"
        if answer.status_code == 503:
            return "451"
        assert answer.status_code in {422, 429}, answer.text
        return str(answer.json()["errors"][0]["detail"])

    return send


def ingested(api: Process, raw: bytes, address: str, key: str) -> httpx.Response:
    """Hand a mail over by HTTP under a key; the answer is the caller's to judge."""

    def offer() -> httpx.Response:
        return httpx.post(
            f"{api.http}/ingest",
            params={"recipient": address, "sender": SENDER.decode()},
            content=raw,
            headers={
                "Authorization": f"Bearer {api.settings['MAILTAPE_API_TOKEN']}",
                "Content-Type": "message/rfc822",
                "Idempotency-Key": key,
            },
            timeout=60,
            trust_env=False,
        )

    return insist(offer, lambda answer: answer.status_code == 503)


def doors(fleet: Fleet) -> list[Door]:
    """List every door of a fleet that takes mail."""
    return [*map(by_smtp, fleet.of("ingest")), *naming_doors(fleet)]


def naming_doors(fleet: Fleet) -> list[Door]:
    """List the doors at which a mail has a name, so that room is held for it once."""
    return [*map(by_lmtp, fleet.of("ingest")), *map(by_http, fleet.of("api"))]


def judged(policy: Process, recipient: str, **more: str) -> str:
    """Ask a policy daemon until it can tell, about one mail; gives the action."""
    instance = more.pop("instance", secrets.token_hex(8))
    return insist(lambda: asked(policy.policy, recipient, instance=instance, **more), put_off)


def tell_queue_id(policy: Process, instance: str, queue_id: str) -> str:
    """Tell a policy daemon at DATA what a mail is called, until it has told Redis.

    It has no objection to the mail in any case; that it could not tell is in its log alone.
    """

    def untold() -> int:
        return policy.log.read_text().count("quota.not_joined")

    def tell() -> str:
        before = untold()
        action = asked(
            policy.policy, "", instance=instance, queue_id=queue_id, protocol_state="DATA"
        )
        return action if untold() == before else "451"

    return insist(tell, put_off)


def a_mail(subject: str, *attachments: bytes, text: str = "Thank you for it.") -> bytes:
    mail = EmailMessage()
    mail["From"], mail["To"], mail["Subject"] = "Shop <shop@example.org>", "qa@example.org", subject
    mail.set_content(text)
    for number, content in enumerate(attachments):
        name = f"{number}.bin"
        mail.add_attachment(content, "application", "octet-stream", filename=name)
    return mail.as_bytes().replace(b"\n", b"\r\n")


def until_stored(owner: Owner, address: str, count: int) -> None:
    """Wait until at least so many mails of an address are visible."""
    there = owner.wait_for(count, 60, address=address)
    assert there >= count, f"{there} of {count} mails are visible"


def settle(fleet: Fleet, owner: Owner) -> None:
    """Wait until a mail that comes after all that were sent is stored too, by each worker."""
    address = owner.address()
    count = 2 * len(fleet.of("worker"))
    for number in range(count):
        assert by_http(fleet.of("api")[0])(a_mail(f"last-{number}"), address) == "250"
    until_stored(owner, address, count)


def test_a_mail_at_any_door_is_one_message_at_every_api(
    fleet: Fleet, local: Owner, small: Owner, chance: random.Random
) -> None:
    owners = {local.address(): local, small.address(): small}
    sent: dict[str, dict[str, bytes]] = {address: {} for address in owners}
    for number in range(MAILS_A_MONTH - 1):
        address = chance.choice(list(owners))
        raw = a_mail(f"mail-{number}", text=chance.randbytes(3_000).hex())
        assert chance.choice(doors(fleet))(raw, address).startswith("250")
        sent[address][f"mail-{number}"] = raw

    for address, owner in owners.items():
        until_stored(owner, address, len(sent[address]))
        with everywhere(fleet, owner) as seen_by:
            for seen in seen_by:
                listed = seen.get("/messages", address=address, limit=200).json()["items"]
                assert sorted(item["subject"] for item in listed) == sorted(sent[address])
                assert seen.count(address=address) == len(sent[address])
                for item in listed:
                    assert seen.raw(item["id"]) == sent[address][item["subject"]]
            usages = [seen.get("/usage").json() for seen in seen_by]
            for what in ("emails", "storage_bytes"):
                assert usages[0][what] == usages[1][what]
    assert small.used() == len(sent[list(owners)[1]])
    assert small.get("/usage").json()["storage_bytes"]["used"] == sum(
        map(len, sent[list(owners)[1]].values())
    )


def test_whoever_waits_at_an_api_is_woken_by_a_worker_elsewhere(
    fleet: Fleet, local: Owner, chance: random.Random
) -> None:
    for number in range(6):
        address, api = local.address(), fleet.of("api")[number % 2]
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(_woken, api, address)
            time.sleep(0.5)  # so that it is waiting, and not finding what is there already
            assert chance.choice(doors(fleet))(a_mail(f"wait-{number}"), address).startswith("250")
            sent = time.monotonic()
            moment, subject = waiting.result(40)
        assert subject == f"wait-{number}"
        assert moment - sent < A_MOMENT, "it was woken, and did not look by itself when time was up"


def _woken(api: Process, address: str) -> tuple[float, str]:
    with fleets.local(api) as waiting:
        answer = waiting.get("/messages/wait", address=address, timeout=30)
        return time.monotonic(), answer.json()["subject"]


async def test_a_stream_goes_on_at_the_other_api_without_a_hole(
    fleet: Fleet, small: Owner, chance: random.Random
) -> None:
    address, count = small.address(), MAILS_A_MONTH - 5  # some may be held in vain
    sending = asyncio.create_task(asyncio.to_thread(_send_all, fleet, address, count, chance))
    told: list[Told] = []
    authorization = small.client.headers["Authorization"]
    apis = fleet.of("api")
    async with asyncio.timeout(120):
        while len(_mails(told)) < count:
            apis = apis[::-1]
            headers = {
                "Authorization": authorization,
                "Last-Event-ID": told[-1].id if told else "0",
            }
            enough = len(told) + chance.randint(1, 5)
            async with (
                httpx.AsyncClient(timeout=60, trust_env=False) as client,
                client.stream("GET", f"{apis[0].http}/events", headers=headers) as stream,
            ):
                assert stream.status_code == 200
                async for event in follow(stream):
                    told.append(event)
                    if len(told) == enough or len(_mails(told)) == count:
                        break
        await sending

    assert [int(event.id) for event in told] == list(range(1, len(told) + 1))
    assert sorted(_mails(told)) == sorted(f"event-{number}" for number in range(count))


def _mails(told: Iterable[Told]) -> list[str]:
    """List the subjects of the mails that were told of, beside news of what was put off."""
    return [
        json.loads(event.data)["message"]["subject"]
        for event in told
        if event.event != "message.refused"
    ]


def _send_all(fleet: Fleet, address: str, count: int, chance: random.Random) -> None:
    for number in range(count):
        reply = chance.choice(doors(fleet))(a_mail(f"event-{number}"), address)
        assert reply.startswith("250"), reply
        time.sleep(0.05)


def test_a_new_address_takes_mail_at_every_door_at_once(fleet: Fleet, local: Owner) -> None:
    address = local.address()

    actions = [judged(policy, address) for policy in fleet.of("policy")]
    replies = [send(a_mail("at once"), address)[:3] for send in doors(fleet)]

    assert actions == ["DUNNO"] * 2
    assert replies == ["250"] * 6


def test_doors_that_have_refused_an_address_hear_of_it_within_seconds(
    fleet: Fleet, local: Owner
) -> None:
    name = secrets.token_hex(8)
    address = f"{name}@{fleets.DOMAIN}"
    actions = [judged(policy, address) for policy in fleet.of("policy")]
    assert [action[:9] for action in actions] == ["550 5.1.1"] * 2
    assert [send(a_mail("too soon"), address)[:9] for send in doors(fleet)] == ["550 5.1.1"] * 6

    assert local.client.post("/addresses", json={"local_part": name}).status_code == 201

    time.sleep(UNKNOWN_FOR)
    assert [judged(policy, address) for policy in fleet.of("policy")] == ["DUNNO"] * 2
    assert [send(a_mail("in time"), address)[:3] for send in doors(fleet)] == ["250"] * 6


def test_what_takes_a_minute_a_deleted_address_and_the_news_of_what_was_refused(
    fleet: Fleet, local: Owner
) -> None:
    taken = local.take()
    address = taken["address"]
    unheard_of = fleet.of("policy")[0]
    knowing = [send for send in doors(fleet) if send(a_mail("known"), address)[:3] == "250"]
    assert len(knowing) == 6
    with registered(fleet.of("api")[0].http) as small:
        full = small.address()
        for _ in range(MAILS_A_MONTH):
            assert naming_doors(fleet)[0](a_mail("fill"), full).startswith("250")
        refusals = [send(a_mail("too many"), full)[:9] for send in knowing]
        assert refusals == ["452 4.2.2"] * 6
        with everywhere(fleet, local) as seen_by:
            gone = seen_by[1].client.delete(f"/addresses/{taken['uuid']}")
            assert gone.status_code == 204
        begin = time.monotonic()

        # Whoever has not been asked about it refuses it at once.
        assert judged(unheard_of, address)[:9] == "550 5.1.1"
        until(
            KNOWN_FOR + A_MOMENT,
            lambda: {send(a_mail("gone"), address)[:9] for send in knowing} == {"550 5.1.1"},
            every=2,
        )

        with everywhere(fleet, small) as seen_by:
            for seen in seen_by:
                left = KNOWN_FOR + 15 - (time.monotonic() - begin)
                assert _refusals_told(seen, len(refusals), max(left, A_MOMENT)) == len(refusals)


def _refusals_told(seen: Owner, enough: int, seconds: float) -> int:
    """Add up what the events tell of refusals, until that is enough or time is up.

    Who was put off has come again, and was refused then.
    """
    deadline, total, name = time.monotonic() + seconds, 0, ""
    with seen.client.stream("GET", "/events", headers={"Last-Event-ID": "0"}) as stream:
        for line in stream.iter_lines():  # something comes every 15 seconds
            if line.startswith("event: "):
                name = line
            if line.startswith("data: ") and name.endswith("message.refused"):
                refused = json.loads(line.removeprefix("data: "))["refused"]
                if refused["reason"] != "cannot_decide":
                    assert refused["reason"] == "monthly_mails"
                    total += refused["count"]
            if total >= enough or time.monotonic() > deadline:
                break
    return total


def until(seconds: float, holds: Callable[[], bool], *, every: float = 0.1) -> None:
    """Wait until something holds."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"it does not hold after {seconds:.0f} s"
        time.sleep(every)


def test_who_signs_out_at_one_api_is_out_at_the_other(fleet: Fleet, small: Owner) -> None:
    with everywhere(fleet, small) as (here, there):
        assert there.get("/addresses").status_code == 200
        waiting = threading.Thread(target=there.get, args=("/messages/wait",))
        waiting.start()
        time.sleep(0.5)

        assert here.client.post("/auth/logout").status_code == 204

        assert there.get("/addresses").status_code == 401
        assert here.get("/addresses").status_code == 401
        waiting.join(A_MOMENT)
        assert not waiting.is_alive(), "who waits hears of it too"
    body = {"email": small.email, "password": PASSWORD, "cookie": False}
    for api in fleet.of("api"):
        signed_in = httpx.post(f"{api.http}/auth/login", json=body, timeout=60, trust_env=False)
        assert signed_in.status_code == 200


def test_a_refresh_token_used_at_both_apis_ends_its_session_at_both(fleet: Fleet) -> None:
    first, second = (api.http for api in fleet.of("api"))
    body = {
        "email": f"{secrets.token_hex(8)}@example.org",
        "password": PASSWORD,
        "organization": secrets.token_hex(8),
        "cookie": False,
    }
    with httpx.Client(timeout=60, trust_env=False) as client:
        granted = client.post(f"{first}/auth/register", json=body).json()
        newer = client.post(
            f"{second}/auth/refresh", json={"refresh_token": granted["refresh_token"]}
        ).json()
        newest = client.post(
            f"{first}/auth/refresh", json={"refresh_token": newer["refresh_token"]}
        ).json()

        replayed = client.post(
            f"{second}/auth/refresh", json={"refresh_token": granted["refresh_token"]}
        )

        assert replayed.json()["code"] == "refresh_token_reused"
        bearer = {"Authorization": f"Bearer {newest['access_token']}"}
        for http in (first, second):
            assert client.get(f"{http}/addresses", headers=bearer).status_code == 401


def test_a_token_revoked_at_one_api_is_worth_nothing_anywhere(fleet: Fleet, local: Owner) -> None:
    made = local.client.post("/tokens", json={"name": "of a test", "scopes": ["messages:read"]})
    assert made.status_code == 201, made.text
    apis = fleet.of("api")
    with owning(apis[0].http, made.json()["token"]) as here, everywhere(fleet, here) as seen_by:
        assert [seen.get("/messages").status_code for seen in seen_by] == [200, 200]
        gone = local.client.delete(f"/tokens/{made.json()['uuid']}")
        assert gone.status_code == 204
        assert [seen.get("/messages").status_code for seen in seen_by] == [401, 401]


def test_failures_to_sign_in_are_counted_over_both_apis(fleet: Fleet, small: Owner) -> None:
    statuses = []
    for number in range(6):
        api = fleet.of("api")[number % 2]
        body = {"email": small.email, "password": "not the right one", "cookie": False}
        answer = httpx.post(f"{api.http}/auth/login", json=body, timeout=60, trust_env=False)
        statuses.append(answer.status_code)

    assert statuses == [401] * 5 + [429]


def by_policy(policy: Process) -> Door:
    def ask(_raw: bytes, address: str) -> str:
        instance = f"{secrets.token_hex(4)}.{secrets.token_hex(4)}.0"  # as Postfix names them
        return judged(policy, address, instance=instance)

    return ask


def test_a_limit_is_exact_over_all_doors_at_once(
    fleet: Fleet, local: Owner, small: Owner, chance: random.Random
) -> None:
    """Who is put off where his mail has no name leaves the room to others, of whom there are more.

    So much may have been held for him in vain, and no more.
    """
    address, raw = small.address(), a_mail("one of many")
    every_door = [
        *map(by_smtp_once, fleet.of("ingest")),
        *naming_doors(fleet),
        *map(by_policy, fleet.of("policy")),
    ]
    chosen = [chance.choice(every_door) for _ in range(3 * MAILS_A_MONTH)]

    with ThreadPoolExecutor(12) as pool:
        replies = list(pool.map(lambda send: send(raw, address), chosen))

    granted = [reply for reply in replies if reply.startswith(("250", "DUNNO"))]
    in_vain = [reply for reply in replies if put_off(reply)]
    refused = {reply[:9] for reply in replies if reply not in (*granted, *in_vain)}
    assert len(in_vain) <= PUT_OFF_AT_MOST, in_vain
    assert MAILS_A_MONTH - len(in_vain) <= len(granted) <= MAILS_A_MONTH
    assert refused == {"452 4.2.2"}
    mails = sum(reply.startswith("250") for reply in granted)
    until_stored(small, address, mails)
    assert small.used() == mails


def test_postfixs_way_over_different_processes_counts_a_mail_once(
    fleet: Fleet, local: Owner, small: Owner
) -> None:
    policies, ingests = fleet.of("policy"), fleet.of("ingest")
    address = small.address()
    for number in range(MAILS_A_MONTH):
        first, second = policies[number % 2], policies[1 - number % 2]
        instance, queue_id = secrets.token_hex(6), secrets.token_hex(8)
        assert judged(first, address, instance=instance) == "DUNNO"
        assert tell_queue_id(second, instance, queue_id) == "DUNNO"
        ingest = ingests[number // 2 % 2]
        assert handed_over(ingest, a_mail("mail"), address, queue_id).startswith("250")

    assert judged(policies[0], address)[:9] == "452 4.2.2"
    until_stored(small, address, MAILS_A_MONTH)
    assert small.used() == MAILS_A_MONTH


def test_a_mail_handed_over_twice_under_its_queue_id_is_one_message(
    fleet: Fleet, local: Owner, small: Owner
) -> None:
    address, raw = small.address(), a_mail("again")
    queue_id = secrets.token_hex(8)

    for ingest in (*fleet.of("ingest"), *fleet.of("ingest")):
        assert handed_over(ingest, raw, address, queue_id).startswith("250")

    until_stored(small, address, 1)
    settle(fleet, local)
    assert small.used() == small.count(address=address) == 1


def test_a_request_repeated_at_the_other_api_gets_the_same_answer(
    fleet: Fleet, local: Owner, small: Owner
) -> None:
    address, raw, key = small.address(), a_mail("once"), secrets.token_hex(8)

    answers = [ingested(api, raw, address, key) for api in fleet.of("api")]
    other = ingested(fleet.of("api")[1], a_mail("another"), address, key)

    assert [answer.status_code for answer in answers] == [202, 202]
    assert answers[0].json() == answers[1].json()
    assert other.status_code == 409
    until_stored(small, address, 1)
    settle(fleet, local)
    assert small.used() == small.count(address=address) == 1


def test_a_request_sent_to_both_apis_at_once_is_one_message(
    fleet: Fleet, local: Owner, small: Owner
) -> None:
    address, raw, key = small.address(), a_mail("at once"), secrets.token_hex(8)

    with ThreadPoolExecutor(8) as pool:
        apis = fleet.of("api") * 4
        answers = list(pool.map(lambda api: ingested(api, raw, address, key), apis))

    assert {answer.status_code for answer in answers} == {202}
    until_stored(small, address, 1)
    settle(fleet, local)
    assert small.count(address=address) == 1


def test_bodies_are_the_same_bytes_at_every_api(
    fleet: Fleet, local: Owner, chance: random.Random
) -> None:
    """Small, larger than a broker is given, and larger than a document may be."""
    for size in (1 * KIB, 300 * KIB, 9 * KIB * KIB):
        address, parts = local.address(), [chance.randbytes(size), b"small"]
        raw = a_mail(f"{size} bytes", *parts)
        assert chance.choice(doors(fleet))(raw, address).startswith("250")
        until_stored(local, address, 1)
        with everywhere(fleet, local) as seen_by:
            for seen in seen_by:
                message = seen.only_message(address)
                assert seen.raw(message["id"]) == raw
                got = [
                    seen.get(f"/messages/{message['id']}/attachments/{part['id']}").content
                    for part in message["attachments"]
                ]
                assert got == parts


def test_a_view_that_one_api_links_to_opens_at_the_other(fleet: Fleet, local: Owner) -> None:
    address = local.address()
    raw = (
        b"From: shop@example.org\r\nSubject: view\r\nMIME-Version: 1.0\r\n"
        b"Content-Type: text/html; charset=utf-8\r\n\r\n<p>Thank you.</p>\r\n"
    )
    assert by_smtp(fleet.of("ingest")[0])(raw, address).startswith("250")
    until_stored(local, address, 1)
    with everywhere(fleet, local) as seen_by:
        for seen, other in zip(seen_by, reversed(fleet.of("api")), strict=True):
            path = httpx.URL(seen.only_message(address)["view_url"]).raw_path.decode()
            page = httpx.get(other.http + path, timeout=60, trust_env=False)
            assert page.status_code == 200
            assert "Thank you." in page.text


def test_what_is_searched_and_deleted_at_one_api_is_so_at_the_other(
    fleet: Fleet, local: Owner, chance: random.Random
) -> None:
    address, word = local.address(), "w" + secrets.token_hex(6)
    for number in range(10):
        text = f"the word is {word}" if number % 2 else "there is none"
        assert chance.choice(doors(fleet))(a_mail(f"{number}", text=text), address)[:3] == "250"
    until_stored(local, address, 10)
    with everywhere(fleet, local) as (here, there):
        for seen in (here, there):
            found = seen.get("/messages", q=word, limit=200).json()["items"]
            assert sorted(item["subject"] for item in found) == ["1", "3", "5", "7", "9"]

        gone = here.client.delete("/messages", params={"address": address, "q": word})

        assert gone.status_code in {200, 204}, gone.text
        for seen in (here, there):
            left = seen.get("/messages", address=address).json()["items"]
            assert sorted(item["subject"] for item in left) == ["0", "2", "4", "6", "8"]
            assert seen.count(q=word) == 0


def test_each_stops_while_mail_flows_and_nothing_is_lost(
    fleet: Fleet, local: Owner, chance: random.Random, tell: Callable[..., None]
) -> None:
    """And each tells systemd when it is ready, and that it ends."""
    addresses = [local.address() for _ in range(2)]
    senders = [
        Senders(
            ingest.smtp,
            numbered(100_000, prefix=f"of-{ingest.pid}"),
            connections=2,
            per_second=40,
            recipient=address.encode(),
        )
        for ingest, address in zip(fleet.of("ingest"), addresses, strict=True)
    ]
    for each in senders:
        each.start()
    order = chance.sample(fleet.processes, len(fleet.processes))
    for process in order:
        for each in senders:
            each.wait_for(len(each.account.acknowledged) + 5, 90)
        assert process.notices() == ["READY=1"]
        assert process.stop() == 0, process.log
        assert process.notices() == ["STOPPING=1"]
        process.close()
        process.start()
    for each in senders:
        each.enough()
    records = []
    for each, address in zip(senders, addresses, strict=True):
        account = each.join(60)
        until_stored(local, address, len(account.acknowledged))
        record = compare(account, _subjects(local, address))
        records.append(record)
        assert account.ambiguous == set(), "a mail was left between its dot and its reply"
        assert {reply[:3] for reply in account.refusals} <= {b"421"}, account.refusals
        assert (record.lost, record.dup, record.unexpected) == (0, 0, 0), record
    tell(*records)


def _subjects(owner: Owner, address: str) -> Iterable[str]:
    query: dict[str, str | int] = {"address": address, "limit": 200}
    while True:
        page = owner.get("/messages", **query).json()
        yield from (item["subject"] for item in page["items"])
        if page["next_cursor"] is None:
            return
        query["cursor"] = page["next_cursor"]


def test_a_policy_daemon_has_connected_before_it_is_ready(
    fleet: Fleet, small: Owner, places: dict[str, str]
) -> None:
    """Connections take longer here than the time in which Postfix is answered.

    So one that has not connected never tells in time; one that has may be kept from it by a busy
    machine, and is started afresh.
    """
    server = urlsplit(places["REDIS_URL"])
    with (
        link(f"{places['DB_HOST']}:{places['DB_PORT']}", slow_seconds=0.4) as rows,
        link(f"{server.hostname}:{server.port}", slow_seconds=0.15) as counters,
    ):
        policy = fleet.add(
            "policy",
            DB_PORT=rows.address.rpartition(":")[2],
            REDIS_URL=server._replace(netloc=counters.address).geturl(),
        )
        address = small.address()

        def first_answer() -> str:
            policy.start()
            try:
                return asked(policy.policy, address)
            finally:
                policy.close()

        answers: list[str] = []
        try:
            while "DUNNO" not in answers and len(answers) < 3:
                answers.append(first_answer())
        finally:
            fleet.processes.remove(policy)
    assert answers[-1] == "DUNNO", answers


@pytest.mark.parametrize("role", ["api", "ingest", "policy"])
def test_two_of_a_kind_share_an_address(role: str, fleet: Fleet, local: Owner) -> None:
    address = local.address()
    first = fleet.of(role)[0]
    second = fleet.add(role, first.listen)

    def works() -> bool:
        if role == "api":
            return httpx.get(f"{first.http}/health", timeout=60, trust_env=False).is_success
        if role == "policy":
            return judged(first, address) == "DUNNO"
        return {
            by_smtp(first)(a_mail("x"), address)[:3],
            by_lmtp(first)(a_mail("x"), address)[:3],
        } == {"250"}

    second.launch()
    try:
        second.wait_until_ready(180)
        counting = [first, second] if role == "api" else []
        before = sum(map(_healths, counting))
        assert all(works() for _ in range(10))
        assert sum(map(_healths, counting)) - before == 5 * len(counting)
        first.stop()
        assert all(works() for _ in range(5)), "the second serves alone"
        first.close()
        first.start()
        second.stop()
        assert all(works() for _ in range(5)), "and so does the first"
    finally:
        second.close()
        fleet.processes.remove(second)


def _healths(api: Process) -> int:
    """Read from its metrics how often this very process was asked how it does."""
    shown = httpx.get(f"http://{api.metrics}/metrics", timeout=60, trust_env=False).text
    lines = [line for line in shown.splitlines() if line.startswith("mailtape_http_requests_total")]
    return sum(int(float(line.split()[-1])) for line in lines if 'route="/health"' in line)


@pytest.mark.parametrize(
    ("role", "shown"),
    [
        ("ingest", "mailtape_messages_accepted_total{"),
        ("policy", 'mailtape_policy_answers_total{reason="none"}'),
    ],
)
def test_a_door_shows_its_health_and_what_it_has_answered(
    role: str, shown: str, fleet: Fleet, local: Owner
) -> None:
    (port,) = free_ports(1)
    door = fleet.add(role, METRICS_LISTEN=f"127.0.0.1:{port}")
    try:
        door.start()
        if role == "policy":
            assert judged(door, local.address()) == "DUNNO"
        else:
            assert by_smtp(door)(a_mail("seen"), local.address()).startswith("250")
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30, trust_env=False) as at:
            assert at.get("/health").status_code == 200
            lines = at.get("/metrics").text.splitlines()
    finally:
        door.close()
        fleet.processes.remove(door)

    assert [line for line in lines if line.startswith(shown) and line.endswith(" 1.0")]
    for part in ("rows", "counters"):
        assert f'mailtape_part_works{{part="{part}"}} 1.0' in lines


NEEDED = ["DB_HOST", "MONGODB_URL", "RABBITMQ_URL", "JWT_SECRET", "API_TOKEN_SALT"]


@pytest.mark.parametrize("role", ["api", "ingest", "policy", "worker"])
def test_a_process_that_lacks_a_setting_says_which(
    role: str, fleet: Fleet, tmp_path: Path, mailtape: Forked
) -> None:
    ended = mailtape.run(role, "--data", tmp_path / "var", cwd=tmp_path)

    assert ended.returncode == 78
    assert [line.split()[0] for line in ended.stderr.splitlines()] == NEEDED
    with_others = dict(fleet.settings)
    del with_others["RABBITMQ_URL"]
    ended = mailtape.run(role, "--data", tmp_path / "var", cwd=tmp_path, settings=with_others)
    assert ended.returncode == 78
    assert ended.stderr.splitlines() == [
        "RABBITMQ_URL is not set; the processes of a fleet share it."
    ]


def test_a_process_does_not_start_on_rows_of_another_release(
    fleet: Fleet, tmp_path: Path, mailtape: Forked
) -> None:
    with services.own_database() as empty:
        changed = {**fleet.settings, "DB_NAME": empty["DB_NAME"]}
        ended = mailtape.run("policy", "--data", tmp_path / "var", cwd=tmp_path, settings=changed)
        assert ended.returncode == 78
        assert "run `mailtape migrate`" in ended.stderr

        migrated = mailtape.run(
            "migrate", "--data", tmp_path / "first", cwd=tmp_path, settings=changed
        )
        assert migrated.returncode == 0, migrated.stderr
        with closing(services.connect_mysql(empty)) as rows, rows.cursor() as cursor:
            cursor.execute("UPDATE alembic_version SET version_num = '0001'")
        for role in ("api", "worker"):
            ended = mailtape.run(role, "--data", tmp_path / "var", cwd=tmp_path, settings=changed)
            assert ended.returncode == 78, ended.stderr
            assert "has the schema of an older release; run `mailtape migrate`." in ended.stderr


def test_processes_go_on_and_none_starts_on_the_rows_of_a_newer_release(
    tmp_path: Path, mailtape: Forked
) -> None:
    """As while a fleet is upgraded: the rows first, then the processes in turn."""
    counts = {"api": 1, "ingest": 1, "worker": 1}
    with (
        fleets.places() as own,
        fleets.fleet(tmp_path, own, mailtape, **counts) as older,
        fleets.local(older.of("api")[0]) as owner,
    ):
        address = owner.address()
        with closing(services.connect_mysql(own)) as rows, rows.cursor() as cursor:
            cursor.execute("ALTER TABLE messages ADD COLUMN of_a_newer_release INTEGER NULL")
            cursor.execute("UPDATE alembic_version SET version_num = '9999'")

        assert by_smtp(older.of("ingest")[0])(a_mail("late"), address).startswith("250")
        until_stored(owner, address, 1)
        for role in ("api", "worker"):
            ended = older.run(role)
            assert ended.returncode == 78, ended.stderr
            assert "is newer than this release of Mailtape." in ended.stderr


@pytest.mark.parametrize("role", ["api", "worker"])
def test_a_process_whose_database_is_away_ends_with_69(
    role: str, fleet: Fleet, tmp_path: Path, mailtape: Forked
) -> None:
    nowhere = {**fleet.settings, "DB_PORT": str(fleets.free_ports(1)[0])}

    ended = mailtape.run(role, "--data", tmp_path / "var", cwd=tmp_path, settings=nowhere)

    assert ended.returncode == 69
    *logged, said = ended.stderr.splitlines()
    assert "database" in said
    assert [json.loads(line)["event"] for line in logged] == ["mysql.unusable"]


def test_the_workers_take_turns_at_upkeep(fleet: Fleet, places: dict[str, str]) -> None:
    with closing(services.connect_mysql(places)) as rows, rows.cursor() as cursor:
        cursor.execute("SELECT job FROM rounds ORDER BY job")
        taken = [job for (job,) in cursor.fetchall()]

    assert taken == ["retention.sweep", "retention.trim"]


def test_an_asgi_server_of_ones_own_serves_the_api(
    fleet: Fleet, local: Owner, tmp_path: Path
) -> None:
    (port,) = fleets.free_ports(1)
    own = [sys.executable, "-m", "uvicorn", "--port", str(port), "mailtape.api.main:app"]
    lacking = dict(fleet.settings)
    del lacking["MONGODB_URL"]
    for settings, starts in ((lacking, False), (dict(fleet.settings), True)):
        log = tmp_path / f"{starts}.log"
        with log.open("wb") as errors:
            server = subprocess.Popen(
                own,
                cwd=tmp_path,
                env=environment(**settings, DATA_DIR=str(tmp_path / "var")),
                stderr=errors,
            )
        try:
            if starts:
                with owning(f"http://127.0.0.1:{port}", local.token) as owner:
                    assert _answered(owner.client, "/usage").is_success
                server.terminate()
            server.wait(60)
        finally:
            server.kill()
            server.wait()
        told = log.read_text()
        assert ("MONGODB_URL is not set" in told) is not starts
        assert "shutdown complete" in told if starts else "startup failed" in told


def _answered(client: httpx.Client, path: str) -> httpx.Response:
    """Ask until somebody listens."""
    deadline = time.monotonic() + 120
    while True:
        try:
            return client.get(path)
        except httpx.ConnectError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
