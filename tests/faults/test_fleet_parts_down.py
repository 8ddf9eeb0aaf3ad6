"""A fleet while one of its parts is down: what senders and readers are told, and what is left.

The servers are this module's own, and are killed or paused as a machine would die or hang. One
fleet stands for all tests, which come in any order, and each leaves every part running. When all
are done it is ended, and everything that is kept is verified.
"""

import json
import random
import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import TypeAlias
from urllib.parse import urlsplit

import httpx
import pytest
import redis

import fleet as fleets
import services
from fleet import Fleet, Process, asked
from forked import Forked
from owners import Owner, owning, registered
from processes import free_ports
from senders import Line, Senders, compare, numbered, stuffed
from services import Instance
from unconfirming import Unconfirming, unconfirming

pytestmark = [pytest.mark.services, pytest.mark.e2e]

Event: TypeAlias = tuple[int, str]
"""Its number, and the subject of the mail that it tells of."""

SEEN_WITHIN = 120.0
"""Seconds after a part is back; what is not visible by then is lost."""
ANSWER_WITHIN = 30.0
"""Seconds in which everybody is told something, whatever is down."""
CONFIRMED_WITHIN = 10.0
"""Seconds that an ingest waits for the broker before the sender is told to come again."""
NOT_NOW = b"451 4.3.0"
FULL = b"452 4.3.1"
QUEUE_MAX_MIB = 2
FILLING = 16_000
"""Bytes of each of many mails; a worker holds 300 of them beside what the queue may hold."""
UNTOLD = 3
"""Questions of one process that Redis does not answer before the process leaves it alone."""
MAILS_A_MONTH = 8
ASKED_PER_MAIL = 4
STORAGE = 10_000
ROOM_WITHIN = 90.0
"""Seconds in which deleting gives room back: 45 until nobody can hold mail unseen, some looks."""
NO_ROOM_FOR = 80.0
"""Seconds; longer than it takes to give room back that there is."""
LARGE = 300 * 2**10
"""Bytes; more than a broker is given."""


@pytest.fixture(scope="module")
def instance() -> Iterator[Instance]:
    with services.running("mysql", "redis", "rabbitmq", "mongodb") as started:
        yield started


@pytest.fixture(scope="module")
def fleet(
    tmp_path_factory: pytest.TempPathFactory, instance: Instance, mailtape: Forked
) -> Iterator[Fleet]:
    folder = tmp_path_factory.mktemp("fleet")
    settings = instance.variables() | {"QUEUE_MAX_BYTES": f"{QUEUE_MAX_MIB}MiB"}
    with fleets.fleet(folder, settings, mailtape, api=1, ingest=1, policy=1, worker=1) as started:
        with closing(services.connect_mysql(settings)) as rows, rows.cursor() as cursor:
            limits = json.dumps({"emails_per_month": MAILS_A_MONTH, "storage_bytes": STORAGE})
            cursor.execute("UPDATE tiers SET limits = %s WHERE name = 'free'", (limits,))
        yield started
        started.close()
        fleets.assert_sound(started)


@pytest.fixture
def local(fleet: Fleet) -> Iterator[Owner]:
    with fleets.local(fleet.of("api")[0]) as owner:
        yield owner


def send(fleet: Fleet, name: str, address: str, *, size: int = 500) -> bytes:
    """Send a mail with this subject; gives the last reply, to its enhanced code."""
    ((_, raw),) = numbered(1, size=size, prefix=name)
    with Line(fleet.of("ingest")[0].smtp, seconds=ANSWER_WITHIN) as line:
        assert line.hello().startswith(b"250")
        return line.send(raw, address.encode())[:9]


def send_to(fleet: Fleet, name: str, addresses: Sequence[str]) -> tuple[list[bytes], bytes]:
    """Send one mail to several; gives what each was told and the last reply, to enhanced codes."""
    ((_, raw),) = numbered(1, size=500, prefix=name)
    with Line(fleet.of("ingest")[0].smtp, seconds=ANSWER_WITHIN) as line:
        line.hello()
        line.say(b"MAIL FROM:<shop@example.org>")
        told = [line.say(b"RCPT TO:<%b>" % address.encode())[:9] for address in addresses]
        assert line.say(b"DATA").startswith(b"354")
        line.socket.sendall(stuffed(raw))
        return told, line.reply()[:9]


def hand_over(ingest: Process, name: str, address: str, queue_id: str, *, size: int = 500) -> bytes:
    """Hand a mail over as Postfix does; gives the reply to it."""
    ((_, raw),) = numbered(1, size=size, prefix=name)
    with Line(ingest.lmtp, seconds=ANSWER_WITHIN) as line:
        line.reply()
        assert line.say(b"LHLO relay").startswith(b"250")
        assert line.say(b"XFORWARD IDENT=%b" % queue_id.encode()).startswith(b"250")
        return line.send(raw, address.encode())


def relay(fleet: Fleet, name: str, address: str, *, size: int = 500) -> bytes:
    """Hand a mail over until it is told of; gives the last reply, to its enhanced code.

    A machine that is busy answers late, and whoever cannot be told comes again: under its queue id
    a mail that was held room for in vain does not take it twice.
    """
    queue_id, deadline = secrets.token_hex(8), time.monotonic() + SEEN_WITHIN
    ingest = fleet.of("ingest")[0]
    while (reply := hand_over(ingest, name, address, queue_id, size=size)[:9]) == NOT_NOW:
        assert time.monotonic() < deadline, "nobody can tell"
        time.sleep(0.5)
    return reply


def ask(fleet: Fleet, address: str) -> str:
    return asked(fleet.of("policy")[0].policy, address)


def promised(fleet: Fleet, address: str, name: str = "") -> str:
    """Ask the policy daemon for a mail, again while it cannot tell; gives the action's code."""
    name = name or secrets.token_hex(8)
    for _ in range(UNTOLD + 1):
        action = asked(fleet.of("policy")[0].policy, address, instance=name)[:9]
        if action != NOT_NOW.decode():
            break
    return action


def down(instance: Instance, name: str, how: str) -> None:
    """Take a server away: dead, or hanging."""
    if how == "killed":
        instance.kill(name)
    else:
        instance.pause(name)


def up(instance: Instance, name: str, how: str) -> None:
    """Bring it back with what it had."""
    if how == "killed":
        instance.start(name)
    else:
        instance.resume(name)


def subjects(local: Owner, address: str, expected: Iterable[str]) -> list[str]:
    """Wait until these are among the subjects of an address; gives all that are there."""
    names, deadline = set(expected), time.monotonic() + SEEN_WITHIN
    while True:
        local.wait_for(len(names), SEEN_WITHIN, address=address)
        seen = [item["subject"] for item in local.listed() if item["address"] == address]
        if names <= set(seen) or time.monotonic() > deadline:
            return seen
        time.sleep(0.2)


def until_works(fleet: Fleet, address: str, *, size: int = 500) -> None:
    """Wait until mail is taken again; who was cut off tries again in seconds."""
    deadline = time.monotonic() + SEEN_WITHIN
    while send(fleet, "again", address, size=size)[:3] != b"250":
        assert time.monotonic() < deadline, "it does not come back"
        time.sleep(0.5)


GRANTS_AGAIN = 5.0
"""Seconds after Redis is back: within two all ask it again, and two later they grant."""

WAYS = pytest.mark.parametrize("how", ["killed", "paused"])


@WAYS
def test_without_rabbitmq_senders_keep_their_mail_and_readers_read(
    how: str, fleet: Fleet, instance: Instance, local: Owner, tell: Callable[..., None]
) -> None:
    address, ingest = local.address(), fleet.of("ingest")[0]
    mails = numbered(100_000, prefix=f"rabbit-{how}")
    senders = Senders(ingest.smtp, mails, per_second=50, recipient=address.encode())
    relayed = [(f"relayed-{how}-{number}", secrets.token_hex(8)) for number in range(5)]
    senders.start()
    senders.wait_for(50)
    time.sleep(1)  # a broker writes down that a queue exists half a second after it was declared
    begin = time.monotonic()
    down(instance, "rabbitmq", how)
    try:
        assert send(fleet, "not now", address) == NOT_NOW
        assert time.monotonic() - begin < ANSWER_WITHIN
        for name, queue_id in relayed:
            assert hand_over(ingest, name, address, queue_id)[:9] == NOT_NOW
        assert local.get("/messages", address=address).status_code == 200
        assert local.count(address=address) > 0
        assert promised(fleet, address) == "DUNNO"
    finally:
        up(instance, "rabbitmq", how)
    away = time.monotonic() - begin
    acknowledged = len(senders.account.acknowledged)
    senders.wait_for(acknowledged + 50, SEEN_WITHIN)
    senders.enough()
    account = senders.join(60)
    for name, queue_id in relayed:
        assert hand_over(ingest, name, address, queue_id)[:3] == b"250"
    names = {f"{name}-0" for name, _ in relayed}
    assert send(fleet, "last", address)[:3] == b"250"  # behind whatever is on its way still
    names.add("last-0")

    seen = Counter(subjects(local, address, account.acknowledged | names))
    assert {name: seen[name] for name in names} == dict.fromkeys(names, 1)
    record = compare(account, (name for name in seen.elements() if name not in names))
    in_flight = senders.connections * (1 + int(away / CONFIRMED_WITHIN))
    tell(record, f"{in_flight} in flight", account.refusals)
    # What was on its way to the broker when it fell silent may appear although its sender was told
    # to try again; only what has a name of its own, as a relay's queue id, is recognised.
    assert record.lost == 0, record
    assert record.dup <= in_flight, record
    assert set(seen) - names - account.acknowledged <= {"not now-0"}
    assert {reply[:1] for reply in account.refusals} <= {b"4"}, account.refusals


@pytest.fixture
def unconfirmed(fleet: Fleet, instance: Instance) -> Iterator[tuple[Process, Unconfirming]]:
    """An ingest more, and the link by which it publishes."""
    url = urlsplit(instance.variables()["RABBITMQ_URL"])
    who, _, where = url.netloc.rpartition("@")
    with unconfirming(where) as link:
        url = url._replace(netloc=f"{who}@{link.address}")
        ingest = fleet.add("ingest", RABBITMQ_URL=url.geturl())
        ingest.start()
        yield ingest, link
        assert ingest.stop() == 0


def test_a_mail_whose_confirmation_is_lost_is_refused_and_not_doubled_when_it_comes_again(
    unconfirmed: tuple[Process, Unconfirming], fleet: Fleet, local: Owner
) -> None:
    """The broker lives: the mail is kept and shown while its sender is told to come again."""
    ingest, link = unconfirmed
    with registered(fleet.of("api")[0].http) as owner, ThreadPoolExecutor(2) as pool:
        small, large = owner.address(), local.address()

        def both() -> list[bytes]:
            mails = (("small", small, 500), ("large", large, LARGE))
            handed = [
                pool.submit(hand_over, ingest, name, address, f"queue-id-of-{name}", size=size)
                for name, address, size in mails
            ]
            return [each.result()[:9] for each in handed]

        link.losing.set()
        begin = time.monotonic()
        assert both() == [NOT_NOW] * 2
        assert CONFIRMED_WITHIN <= time.monotonic() - begin < ANSWER_WITHIN
        assert link.lost > 0
        assert owner.wait_for(1, SEEN_WITHIN, address=small) == 1
        assert local.wait_for(1, SEEN_WITHIN, address=large) == 1
        link.losing.clear()

        assert both() == [b"250 2.0.0"] * 2
        names = [f"after-{number}" for number in range(MAILS_A_MONTH)]
        after = [name for name in names if relay(fleet, name, small) == b"250 2.0.0"]
        # Held for its retry and counted as stored, one mail may count for two until both are next
        # compared with the rows; never for none.
        assert MAILS_A_MONTH - 2 <= len(after) <= MAILS_A_MONTH - 1
        assert send(fleet, "last", large)[:3] == b"250"
        expected = ["small-0", *(f"{name}-0" for name in after)]
        assert sorted(subjects(owner, small, expected)) == sorted(expected)
        assert sorted(subjects(local, large, ["large-0", "last-0"])) == ["large-0", "last-0"]
        assert owner.used() == len(expected)


@WAYS
def test_without_mysql_known_addresses_take_mail_and_nobody_is_called_unknown(
    how: str, fleet: Fleet, instance: Instance, local: Owner
) -> None:
    known, unheard_of = local.address(), local.address()
    assert send(fleet, "before", known)[:3] == b"250"
    assert promised(fleet, known) == "DUNNO"
    down(instance, "mysql", how)
    try:
        for number in range(5):
            assert send(fleet, f"meanwhile-{number}", known)[:3] == b"250"
        assert promised(fleet, known) == "DUNNO"
        for stranger in (unheard_of, f"nobody@{fleets.DOMAIN}"):
            assert send(fleet, "unknown", stranger) == NOT_NOW
            assert ask(fleet, stranger)[:9] == NOT_NOW.decode()
        answer = local.get("/messages")
        assert answer.status_code == 503
        assert int(answer.headers["Retry-After"]) > 0
        assert answer.json()["status"] == 503
    finally:
        up(instance, "mysql", how)

    expected = ["before-0", *(f"meanwhile-{number}-0" for number in range(5))]
    until_works(fleet, unheard_of)
    assert sorted(subjects(local, known, expected)) == expected


@WAYS
def test_without_mysql_known_recipients_take_a_mail_beside_one_whom_nobody_can_tell_of(
    how: str, fleet: Fleet, instance: Instance, local: Owner
) -> None:
    stranger, known = local.address(), local.address()
    with registered(fleet.of("api")[0].http) as owner:
        counted = owner.address()
        for address in (known, counted):
            assert relay(fleet, "before", address) == b"250 2.0.0"
        down(instance, "mysql", how)
        try:
            for _ in range(UNTOLD + 1):
                told, kept = send_to(fleet, "beside", [stranger, known, counted, stranger])
                if told[2] != NOT_NOW:
                    break
        finally:
            up(instance, "mysql", how)
        assert told == [NOT_NOW, b"250 2.1.5", b"250 2.1.5", NOT_NOW]
        assert kept == b"250 2.0.0"
        until_works(fleet, stranger)
        for reader, address in ((local, known), (owner, counted)):
            assert set(subjects(reader, address, ["before-0", "beside-0"])) == {
                "before-0",
                "beside-0",
            }
        assert subjects(local, stranger, ["again-0"]) == ["again-0"]


def test_without_mysql_mail_is_taken_until_the_queue_is_full_and_all_of_it_is_stored(
    fleet: Fleet, instance: Instance, local: Owner, tell: Callable[..., None]
) -> None:
    """Of an organisation without limits and of one whose mail is counted."""
    ingest, address = fleet.of("ingest")[0], local.address()
    mails = numbered(100_000, size=FILLING, prefix="filling")
    senders = Senders(ingest.smtp, mails, recipient=address.encode())
    with registered(fleet.of("api")[0].http) as owner:
        counted = owner.address()
        for known in (address, counted):
            assert relay(fleet, "before", known) == b"250 2.0.0"
            assert promised(fleet, known) == "DUNNO"
        down(instance, "mysql", "killed")
        try:
            assert relay(fleet, "meanwhile", counted) == b"250 2.0.0"
            senders.start()
            deadline = time.monotonic() + SEEN_WITHIN
            while not senders.account.refusals:
                assert time.monotonic() < deadline, "it takes more than it has room for"
                time.sleep(0.01)
            taken = len(senders.account.acknowledged) * FILLING
            assert relay(fleet, "too much", counted) == FULL
            assert promised(fleet, counted) == "DUNNO"
        finally:
            up(instance, "mysql", "killed")
        senders.enough()
        account = senders.join(60)
        assert {reply[:9] for reply in account.refusals} == {FULL}
        assert taken >= QUEUE_MAX_MIB * 2**20

        until_works(fleet, address)
        seen = subjects(local, address, account.acknowledged | {"before-0", "again-0"})
        record = compare(account, (name for name in seen if name.startswith("filling")))
        tell(record)
        assert (record.lost, record.dup, record.unexpected) == (0, 0, 0), record
        kept = subjects(owner, counted, {"before-0", "meanwhile-0"})
        assert sorted(kept) == ["before-0", "meanwhile-0"]
        assert owner.used() == 2


@WAYS
def test_whoever_writes_says_that_it_cannot_without_mysql(
    how: str, fleet: Fleet, instance: Instance, tmp_path: Path
) -> None:
    address = f"127.0.0.1:{free_ports(1)[0]}"
    worker = Fleet(tmp_path, fleet.settings).add("worker", METRICS_LISTEN=address)
    worker.launch()
    try:
        worker.wait_until_ready(SEEN_WITHIN)
        both = f"http://{address}", fleet.of("api")[0].http
        assert [health(each)[0] for each in both] == [200, 200]
        down(instance, "mysql", how)
        try:
            answers = [health(each) for each in both]
        finally:
            up(instance, "mysql", how)
        assert [status for status, _ in answers] == [503, 503]
        assert ["rows" in text for _, text in answers] == [True, True]
        assert "writing" in answers[1][1]
        deadline = time.monotonic() + SEEN_WITHIN
        while [health(each)[0] for each in both] != [200, 200]:
            assert time.monotonic() < deadline
            time.sleep(0.2)
        assert worker.stop() == 0
    finally:
        worker.close()


def health(http: str) -> tuple[int, str]:
    """Ask a process how it does."""
    answer = httpx.get(f"{http}/health", timeout=ANSWER_WITHIN, trust_env=False)
    return answer.status_code, answer.text


@WAYS
def test_without_mongodb_small_mail_is_taken_and_lists_are_shown(
    how: str, fleet: Fleet, instance: Instance, local: Owner
) -> None:
    address = local.address()
    assert send(fleet, "before", address)[:3] == b"250"
    assert local.wait_for(1, SEEN_WITHIN, address=address) == 1
    (before,) = local.get("/messages", address=address).json()["items"]
    down(instance, "mongodb", how)
    try:
        assert send(fleet, "small", address)[:3] == b"250"
        assert send(fleet, "large", address, size=LARGE) == NOT_NOW
        assert local.get("/messages", address=address).status_code == 200
        for path in ("", "/raw"):
            answer = local.get(f"/messages/{before['id']}{path}")
            assert answer.status_code == 503
            assert int(answer.headers["Retry-After"]) > 0
    finally:
        up(instance, "mongodb", how)

    until_works(fleet, address, size=LARGE)
    expected = ["again-0", "before-0", "small-0"]
    seen = subjects(local, address, expected)
    assert sorted(set(seen) - {"large-0"}) == expected
    assert len(seen) == len(set(seen))
    assert local.raw(before["id"]).startswith(b"From: ")


@WAYS
def test_without_redis_exactly_the_limit_is_taken_and_when_it_is_back(
    how: str, fleet: Fleet, instance: Instance
) -> None:
    """Half of it is stored before, some is promised meanwhile; who is put off comes again."""
    with registered(fleet.of("api")[0].http) as owner:
        address = owner.address()
        before, most = MAILS_A_MONTH // 2, 2 * MAILS_A_MONTH
        names = [f"{how}-{number}" for number in range(2)]
        taken = MAILS_A_MONTH - len(names)
        replies = [relay(fleet, f"redis-{number}", address) for number in range(before)]
        assert replies == [b"250 2.0.0"] * before
        assert owner.wait_for(before, SEEN_WITHIN, address=address) == before
        down(instance, "redis", how)
        try:
            assert [promised(fleet, address, name) for name in names] == ["DUNNO"] * len(names)
            replies += [send(fleet, f"redis-{number}", address) for number in range(before, most)]
            assert promised(fleet, address, f"{how}-more") == "452 4.2.2"
            assert [promised(fleet, address, name) for name in names] == ["DUNNO"] * len(names)
            assert until_told(owner) == 200
        finally:
            up(instance, "redis", how)
        assert replies.count(b"250 2.0.0") == taken
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline:  # first by the rows still, then by Redis again
            replies.append(send(fleet, f"redis-{len(replies)}", address))
            time.sleep(0.2)

        told = Counter(replies)
        assert told[b"250 2.0.0"] == taken
        assert told[NOT_NOW] <= UNTOLD
        assert told.total() == told[b"250 2.0.0"] + told[NOT_NOW] + told[b"452 4.2.2"]
        assert promised(fleet, address, f"{how}-more") == "452 4.2.2"
        assert owner.wait_for(taken, SEEN_WITHIN, address=address) == taken
        assert owner.used() == taken


def test_exactly_the_limit_is_granted_though_redis_is_emptied_while_two_daemons_are_asked(
    fleet: Fleet, instance: Instance, chance: random.Random, *, soak: bool
) -> None:
    """Each asker comes again with the same question until it is told, as Postfix does."""
    second = fleet.add("policy")
    second.launch()
    try:
        second.wait_until_ready(SEEN_WITHIN)
        daemons = [fleet.of("policy")[0].policy, second.policy]
        for _ in range(50 if soak else 4):
            with registered(fleet.of("api")[0].http) as owner:
                _grants_the_limit(instance, owner.address(), daemons, chance)
    finally:
        second.close()
        fleet.processes.remove(second)
    time.sleep(GRANTS_AGAIN)  # all may have been told before Redis was emptied
    with registered(fleet.of("api")[0].http) as owner:
        assert relay(fleet, "granted", owner.address()) == b"250 2.0.0"


def _grants_the_limit(
    instance: Instance, address: str, daemons: Sequence[str], chance: random.Random
) -> None:
    def insist(daemon: str) -> str:
        name, deadline = secrets.token_hex(8), time.monotonic() + SEEN_WITHIN
        while True:
            action = asked(daemon, address, instance=name)[:9]
            if action != NOT_NOW.decode():
                return action
            assert time.monotonic() < deadline, "nobody can tell"
            time.sleep(0.05)

    chosen = [chance.choice(daemons) for _ in range(ASKED_PER_MAIL * MAILS_A_MONTH)]
    with (
        ThreadPoolExecutor(len(chosen)) as pool,
        redis.Redis.from_url(instance.variables()["REDIS_URL"], socket_timeout=5) as server,
    ):
        told = [pool.submit(insist, daemon) for daemon in chosen]
        for _ in range(2):
            time.sleep(chance.random() * 0.1)
            server.flushall()
        actions = Counter(each.result() for each in told)

    assert actions["DUNNO"] == MAILS_A_MONTH
    assert actions.total() == actions["DUNNO"] + actions["452 4.2.2"]


def _start_again(processes: Sequence[Process]) -> None:
    for process in processes:
        process.kill()
        process.launch()
    for process in processes:
        process.wait_until_ready(SEEN_WITHIN)


def test_processes_start_while_redis_is_down(fleet: Fleet, instance: Instance) -> None:
    """They ask it before their doors are open, and must not wait for it."""
    processes = [fleet.of(role)[0] for role in ("api", "ingest", "policy")]
    down(instance, "redis", "killed")
    try:
        _start_again(processes)
        api = processes[0]
        until_shown(api, counters=0)
        assert health(f"http://{api.metrics}")[0] == 200
    finally:
        up(instance, "redis", "killed")
    until_shown(api, counters=1)
    time.sleep(GRANTS_AGAIN)


def until_shown(process: Process, *, counters: int) -> None:
    """Wait until the metrics of a process say that Redis works, or that it does not."""
    line = f'mailtape_part_works{{part="counters"}} {counters}.0'
    deadline = time.monotonic() + SEEN_WITHIN
    while line not in metrics(process):
        assert time.monotonic() < deadline, line
        time.sleep(0.1)


def metrics(process: Process) -> list[str]:
    """Ask a process for its metrics, a line each."""
    url = f"http://{process.metrics}/metrics"
    return httpx.get(url, timeout=ANSWER_WITHIN, trust_env=False).text.splitlines()


@pytest.mark.parametrize("name", ["rabbitmq", "mongodb"])
def test_processes_start_while_what_they_need_later_is_down(
    name: str, fleet: Fleet, instance: Instance, local: Owner
) -> None:
    address = local.address()
    processes = [fleet.of(role)[0] for role in ("api", "ingest", "policy", "worker")]
    down(instance, name, "killed")
    try:
        _start_again(processes)
        assert promised(fleet, address) == "DUNNO"
    finally:
        up(instance, name, "killed")
    until_works(fleet, address)
    assert set(subjects(local, address, ["again-0"])) == {"again-0"}


def test_a_month_stays_full_for_as_long_as_its_mail_waits(fleet: Fleet, instance: Instance) -> None:
    """First in the queue, then where no queue shows it: in a worker that cannot keep it."""
    (worker,) = fleet.of("worker")
    with registered(fleet.of("api")[0].http) as owner:
        address = owner.address()
        assert worker.stop() == 0
        worker.close()
        down(instance, "mongodb", "killed")
        try:
            replies = [relay(fleet, f"waits-{n}", address) for n in range(MAILS_A_MONTH)]
            assert replies == [b"250 2.0.0"] * MAILS_A_MONTH
            time.sleep(12)  # counters and rows have been compared twice
            assert relay(fleet, "too many", address) == b"452 4.2.2"
            worker.launch()
            time.sleep(NO_ROOM_FOR)
            assert relay(fleet, "too many", address) == b"452 4.2.2"
        finally:
            up(instance, "mongodb", "killed")
        worker.wait_until_ready(SEEN_WITHIN)
        assert owner.wait_for(MAILS_A_MONTH, SEEN_WITHIN, address=address) == MAILS_A_MONTH
        assert relay(fleet, "too many", address) == b"452 4.2.2"
        assert owner.used() == MAILS_A_MONTH


def test_deleting_gives_room_back(fleet: Fleet) -> None:
    with registered(fleet.of("api")[0].http) as owner:
        address = owner.address()
        size = int(STORAGE * 0.4)
        replies = [relay(fleet, f"kept-{n}", address, size=size) for n in range(2)]
        assert replies == [b"250 2.0.0"] * 2
        assert owner.wait_for(2, SEEN_WITHIN, address=address) == 2
        assert relay(fleet, "too much", address, size=size)[:5] == b"452 4"
        oldest = owner.messages(address)[-1]["id"]
        assert owner.client.delete(f"/messages/{oldest}").status_code == 204
        begin = time.monotonic()
        while (reply := relay(fleet, "room", address, size=size))[:3] != b"250":
            assert reply[:5] == b"452 4"
            assert time.monotonic() - begin < ROOM_WITHIN
            time.sleep(2)


def until_told(owner: Owner) -> int:
    """Ask what is used, again while that cannot be told; gives the last status."""
    for _ in range(UNTOLD):
        status = owner.get("/usage").status_code
        if status != 503:
            break
    return status


@pytest.fixture(scope="module")
def credulous(fleet: Fleet) -> Process:
    """A policy daemon whose operator chose to let through what it cannot decide."""
    policy = fleet.add("policy", POLICY_WHEN_BLIND="accept")
    policy.start()
    return policy


@WAYS
def test_without_redis_and_mysql_nothing_is_decided(
    how: str, fleet: Fleet, instance: Instance, credulous: Process
) -> None:
    """Nor is it where the operator chose to let it through: the door behind decides."""
    with registered(fleet.of("api")[0].http) as owner:
        address, queue_id = owner.address(), secrets.token_hex(8)
        ingest = fleet.of("ingest")[0]
        assert relay(fleet, "before", address) == b"250 2.0.0"
        assert promised(fleet, address) == "DUNNO"
        nobody = f"nobody@{fleets.DOMAIN}"
        told = {asked(credulous.policy, nobody)[:9] for _ in range(UNTOLD)}
        assert "550 5.1.1" in told  # what it cannot tell in time it lets through
        down(instance, "redis", how)
        try:
            down(instance, "mysql", how)
            try:
                assert send(fleet, "not now", address) == NOT_NOW
                assert ask(fleet, address)[:9] == NOT_NOW.decode()
                assert asked(credulous.policy, address) == "DUNNO"
                assert (
                    hand_over(fleet.of("ingest")[0], "let through", address, queue_id)[:9]
                    == NOT_NOW
                )
                assert owner.get("/usage").status_code == 503
            finally:
                up(instance, "mysql", how)
        finally:
            up(instance, "redis", how)

        until_works(fleet, address)
        time.sleep(GRANTS_AGAIN)
        assert hand_over(ingest, "let through", address, queue_id)[:3] == b"250"
        expected = ["again-0", "before-0", "let through-0"]
        assert sorted(subjects(owner, address, expected)) == expected


def test_a_worker_that_is_killed_again_and_again_stores_each_mail_once(
    fleet: Fleet, local: Owner, chance: random.Random, tell: Callable[..., None], *, soak: bool
) -> None:
    address, (worker,) = local.address(), fleet.of("worker")
    mails, kills = 600, 30 if soak else 5
    senders = Senders(
        fleet.of("ingest")[0].smtp,
        numbered(mails, prefix="worker"),
        recipient=address.encode(),
    )
    senders.start()
    for number in range(kills):
        senders.wait_for((number + 1) * mails // (kills + 1))
        time.sleep(chance.uniform(0, 0.3))
        worker.kill()
        worker.launch()
        worker.wait_until_ready(120)
    account = senders.join(120)

    record = compare(account, subjects(local, address, account.acknowledged))
    tell(record)
    assert record.acked == mails
    assert (record.lost, record.dup, record.unexpected) == (0, 0, 0), record


def test_thirty_workers_killed_with_mail_in_hand_dead_letter_none_of_it(
    fleet: Fleet, instance: Instance, local: Owner
) -> None:
    """The broker holds each death against all mail that the worker had; none can be kept yet."""
    address, (worker,) = local.address(), fleet.of("worker")
    names = [f"in-hand-{number}" for number in range(20)]
    assert worker.stop() == 0
    worker.close()
    down(instance, "mongodb", "killed")
    try:
        assert [send(fleet, name, address) for name in names] == [b"250 2.0.0"] * len(names)
        for _ in range(30):
            until_waiting(fleet, len(names))
            worker.launch()
            until_waiting(fleet, 0)
            worker.kill()
        until_waiting(fleet, len(names))
    finally:
        worker.close()
        up(instance, "mongodb", "killed")
        worker.launch()
    worker.wait_until_ready(SEEN_WITHIN)
    assert sorted(subjects(local, address, [f"{name}-0" for name in names])) == sorted(
        f"{name}-0" for name in names
    )
    assert 'mailtape_queue_depth{state="parked"} 0.0' in metrics(fleet.of("api")[0])


def until_waiting(fleet: Fleet, mails: int) -> None:
    """Wait until so many mails are in the queue and with no worker."""
    line = f'mailtape_queue_depth{{state="waiting"}} {mails}.0'
    deadline = time.monotonic() + SEEN_WITHIN
    while line not in metrics(fleet.of("api")[0]):
        assert time.monotonic() < deadline, line
        time.sleep(0.05)


def test_who_follows_an_api_that_is_killed_goes_on_where_it_was(fleet: Fleet) -> None:
    """At its sibling with the stream cut off under way, and at itself when it is back."""
    api, sibling = fleet.of("api")[0], fleet.add("api")
    sibling.start()
    seen: list[Event] = []
    with (
        registered(api.http) as owner,
        owning(sibling.http, owner.token) as elsewhere,
        ThreadPoolExecutor(1) as pool,
    ):
        address = owner.address()
        following = pool.submit(_follow, [owner, elsewhere], seen, 6)
        try:
            for number in range(6):
                assert relay(fleet, f"api-{number}", address) == b"250 2.0.0"
                if number == 2:
                    _wait_until_seen(seen, 1)
                    api.kill()
            broken = following.result()
        finally:
            api.close()
            api.launch()
            api.wait_until_ready(SEEN_WITHIN)
        assert sibling.stop() == 0
        again: list[Event] = []
        _follow([owner], again, 6)

    assert broken == 1
    assert [number for number, _ in seen] == list(range(1, 7))
    assert sorted(subject for _, subject in seen) == [f"api-{number}-0" for number in range(6)]
    assert again == seen


def _follow(apis: Iterable[Owner], seen: list[Event], count: int) -> int:
    """Read events to so many, at the next API when a stream breaks; tells how many broke."""
    deadline = time.monotonic() + SEEN_WITHIN
    for broken, api in enumerate(apis):
        headers = {"Last-Event-ID": str(seen[-1][0] if seen else 0)}
        try:
            with api.client.stream("GET", "/events", headers=headers) as stream:
                assert stream.status_code == 200
                for line in stream.iter_lines():  # a silent stream says now and then that it lives
                    assert time.monotonic() < deadline, f"nothing more comes; seen: {seen}"
                    if line.startswith("data: "):
                        data = json.loads(line.removeprefix("data: "))
                        seen.append((data["sequence"], data["message"]["subject"]))
                    if len(seen) == count:
                        return broken
        except httpx.TransportError:
            continue
    raise AssertionError(f"every stream broke; seen: {seen}")


def _wait_until_seen(seen: Sequence[Event], count: int) -> None:
    deadline = time.monotonic() + SEEN_WITHIN
    while len(seen) < count:
        assert time.monotonic() < deadline
        time.sleep(0.01)
