"""Every process of a fleet, and every server under it, dies or hangs while Postfix brings mail.

Two streams go to one organisation, whose mail is counted: one through Postfix, one straight to a
door. Postfix never dies here, so each of its mails has one queue id and one 250, and its subject is
as good a key as queue id, recipient and bytes together: seen twice, it is doubled. A mail that came
straight and comes again is not recognised: it is surely there once only where it was told no in
words and was not kept.

The servers are this module's own. One fleet stands for all tests, which come in any order, and each
leaves every part running. When all are done it is ended, and everything that is kept is verified.
"""

import itertools
import json
import os
import random
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from threading import Event
from typing import TypeVar

import pytest

import services
from faults.tracing import READS, SYNCS, WRITES, Begin, End, events, tracing
from fleet import Fleet, Process, assert_sound
from fleet import fleet as running_fleet
from fleet import local as without_limits
from forked import Forked
from inbox import Inbox
from owners import Owner, registered
from postfix import Postfix, receiving
from processes import resident_bytes
from senders import Account, Line, Record, Senders, compare, numbered
from services import Instance

pytestmark = [pytest.mark.services, pytest.mark.e2e]

T = TypeVar("T")

SERVERS = ("rabbitmq", "mysql", "mongodb", "redis")
SEEN_WITHIN = 60.0
"""Seconds after the last restart; what is not visible by then is lost."""
READY_WITHIN = 120.0
SENT_WITHIN = 180.0
"""Seconds beyond the time that the mail is spread over; a sender who is refused tries again."""
KILLED_WITHIN = 5.0
"""Seconds that a kill waits for a process to be ready; longer than it takes on a busy machine."""
STARTING_SECONDS = 0.5
"""Every third kill hits a process within so long of its start."""
CANNOT_TELL = "cannot tell at the moment, try again later"
"""What is said when a recipient cannot be judged: Redis was silent for 0.3 s, or the policy daemon
took more than 0.5 s. A busy machine brings that about; what the queue brings about has other words.
"""
RELAYED_PER_SECOND = 50
STRAIGHT_PER_SECOND = 10
LARGE_EACH = 20
"""Of so many mails one is so large that its bytes wait in MongoDB and not in RabbitMQ."""
MANY = 1_000_000
CHECKED_RAW = 30
MIB = 2**20
WORKER_TRIES = 3
"""How often a mail may end a parsing process before nobody reads it any more."""
TRACED = 5
SYNC_MILLISECONDS = 200
"""Much longer than it takes to come from the broker's log to a 250."""
LOG = ".wal"
"""How the broker's log of all quorum queues is called."""
WRITTEN = ["the final dot", "in the log"]


@pytest.fixture(scope="module")
def instance() -> Iterator[Instance]:
    with services.running(*SERVERS) as started:
        yield started


@pytest.fixture(scope="module")
def fleet(
    tmp_path_factory: pytest.TempPathFactory, instance: Instance, mailtape: Forked
) -> Iterator[Fleet]:
    settings = instance.variables()
    with running_fleet(tmp_path_factory.mktemp("fleet"), settings, mailtape) as started:
        with closing(services.connect_mysql(settings)) as rows, rows.cursor() as cursor:
            limits = json.dumps({"emails_per_month": MANY})
            cursor.execute("UPDATE tiers SET limits = %s WHERE name = 'free'", (limits,))
        first = started.add("ingest")
        started.add("ingest", first.listen)
        for _ in range(2):
            started.add("worker", WORKER_RETRY_SECONDS="1")
        for role in ("policy", "api"):
            started.add(role)
        for process in started.processes:
            process.launch()
        wait_until_ready(started)
        yield started
        started.close()
        assert_sound(started)


@pytest.fixture(scope="module")
def postfix(fleet: Fleet) -> Iterator[Postfix]:
    with receiving(policy=fleet.of("policy")[0].policy, lmtp=fleet.of("ingest")[0].lmtp) as started:
        yield started


@pytest.fixture
def owner(fleet: Fleet) -> Iterator[Owner]:
    """A new organisation, whose mail is counted."""
    with registered(fleet.of("api")[0].http) as owner:
        yield owner


@pytest.fixture
def local(fleet: Fleet) -> Iterator[Owner]:
    """The organisation without limits: nobody asks Redis whether its mail is taken."""
    with without_limits(fleet.of("api")[0]) as owner:
        yield owner


class Stream:
    """Mail to an address of its own, at a steady pace, until so much is sent or it is enough."""

    def __init__(
        self, door: str, owner: Owner, mails: int, per_second: float = 0, *, large_each: int = 0
    ) -> None:
        self._enough = Event()
        self.large_each = large_each
        self.address = owner.address()
        self.senders = Senders(
            door,
            itertools.takewhile(lambda _: not self._enough.is_set(), self.made(mails)),
            per_second=per_second,
            recipient=self.address.encode(),
        )
        self.senders.start()

    def made(self, mails: int) -> Iterator[tuple[str, bytes]]:
        """Make the first mails of the stream."""
        return numbered(mails, large_each=self.large_each)

    def wait_for_more(self, mails: int) -> None:
        """Wait until so many more were acknowledged: mail flows."""
        self.senders.wait_for(len(self.senders.account.acknowledged) + mails, SENT_WITHIN)

    def end(self) -> None:
        """Begin no other mail; what was begun goes on until it is told yes or nothing."""
        self._enough.set()

    def join(self, seconds: float = SENT_WITHIN) -> Account:
        """Wait until everything that was begun has been told of; only 4xx may come before 250."""
        account = self.senders.join(seconds)
        assert {reply[:1] for reply in account.refusals} <= {b"4"}, account.refusals
        return account

    def record(self, inbox: Inbox) -> Record:
        """Hold what the senders were told against what a reader sees."""
        listed = (item for item in inbox.listed() if item["address"] == self.address)
        return compare(self.senders.account, (item["subject"] for item in listed))


def wait_until_ready(fleet: Fleet) -> None:
    """Wait for all processes; each was launched since it was last waited for."""
    for process in fleet.processes:
        process.wait_until_ready(READY_WITHIN)


def wait_to_kill(process: Process) -> None:
    """Wait for some time until it has said that it is ready; it may be one that cannot be."""
    deadline = time.monotonic() + KILLED_WITHIN
    while not process.has_said_ready and time.monotonic() < deadline:
        time.sleep(0.01)


def killed_and_launched(process: Process) -> bool:
    """Kill it and have it start again; tells whether it was ready."""
    was_ready = process.has_said_ready
    process.kill()
    process.launch()
    return was_ready


def in_turn(chance: random.Random, items: Sequence[T], count: int) -> list[T]:
    """Take each as often as any other, in random order from round to round."""
    rounds = (chance.sample(items, len(items)) for _ in itertools.count())
    return list(itertools.islice(itertools.chain.from_iterable(rounds), count))


def wait_until_drained(instance: Instance, postfix: Postfix) -> None:
    """Wait until neither Postfix nor RabbitMQ, by its own count, has any mail, parked or not."""
    deadline = time.monotonic() + SEEN_WITHIN
    postfix.wait_until_empty(SEEN_WITHIN)
    while waiting := {name: count for name, count in queued(instance).items() if count}:
        assert time.monotonic() < deadline, f"RabbitMQ still holds {waiting}"
        time.sleep(0.2)


def queued(instance: Instance) -> dict[str, int]:
    """Count the mails of each of RabbitMQ's queues: waiting and in somebody's hands."""
    lines = instance.rabbitmqctl("list_queues", "--no-table-headers", "name", "messages")
    counts = {name: int(count) for name, count in map(str.split, lines.splitlines())}
    assert len(counts) >= 3, "mail has queues to wait in, to be tried again in, and to be parked in"
    return counts


def assert_kept_as_sent(chance: random.Random, owner: Owner, relayed: Stream) -> None:
    """Hold the bytes of some mails against what was sent; Postfix put its line above."""
    listed = [item for item in owner.listed() if item["address"] == relayed.address]
    chosen = {item["subject"]: item["id"] for item in chance.sample(listed, CHECKED_RAW)}
    for name, mail in relayed.made(len(relayed.senders.account.attempted)):
        if name in chosen:
            raw = owner.raw(chosen.pop(name))
            assert raw.endswith(mail)
            assert b"(Postfix) with ESMTP id " in raw.removesuffix(mail)
    assert not chosen


def _cannot_tell(words: str) -> bool:
    return words.startswith("451 4.3.0 ") and words.endswith(CANNOT_TELL)


def send_until_told(line: Line, raw: bytes, recipient: str) -> bytes:
    """Send a mail, again for as long as nobody can tell whether it is taken; gives the reply."""
    deadline = time.monotonic() + SENT_WITHIN
    while _cannot_tell((reply := line.send(raw, recipient.encode())).decode().strip()):
        assert time.monotonic() < deadline, "nobody can tell"
        line.say(b"RSET")
        time.sleep(0.2)
    return reply


@contextmanager
def out_of_memory(workers: Sequence[Process], most_bytes: int) -> Iterator[list[int]]:
    """Kill parsing processes that grow beyond this, as the kernel does; gives who was killed."""
    killed: list[int] = []
    enough = Event()

    def watch() -> None:
        while not enough.wait(0.005):
            for parser in itertools.chain.from_iterable(worker.children for worker in workers):
                if resident_bytes(parser) > most_bytes:
                    with suppress(ProcessLookupError):
                        os.kill(parser, signal.SIGKILL)
                        killed.append(parser)

    with ThreadPoolExecutor(1) as pool:
        watching = pool.submit(watch)
        try:
            yield killed
        finally:
            enough.set()
        watching.result()


def told(**records: Record) -> str:
    """Write down what a run came to."""
    return json.dumps({name: asdict(record) for name, record in records.items()})


def test_nothing_is_lost_or_doubled_when_our_processes_are_killed(
    fleet: Fleet,
    instance: Instance,
    postfix: Postfix,
    owner: Owner,
    chance: random.Random,
    tell: Callable[..., None],
    *,
    soak: bool,
) -> None:
    mails, kills = (5_000, 30) if soak else (600, 5 * len(fleet.processes))
    relayed = Stream(postfix.smtp, owner, MANY, RELAYED_PER_SECOND)
    straight = Stream(fleet.of("ingest")[0].smtp, owner, MANY, STRAIGHT_PER_SECOND)
    were_ready: list[bool] = []
    victims = in_turn(chance, fleet.processes, kills * 2 // 3)
    for number, process in enumerate(victims):
        wait_to_kill(process)
        relayed.wait_for_more(chance.randint(1, 2 * mails // len(victims) - 1))
        were_ready.append(killed_and_launched(process))
        if number % 2:
            time.sleep(chance.uniform(0, STARTING_SECONDS))
            were_ready.append(killed_and_launched(process))
    for stream, least in ((relayed, mails), (straight, mails // 4)):
        stream.senders.wait_for(least, mails / RELAYED_PER_SECOND + SENT_WITHIN)
        stream.end()
    for stream in (relayed, straight):
        stream.join()
    wait_until_ready(fleet)
    wait_until_drained(instance, postfix)

    behind, direct = relayed.record(owner), straight.record(owner)
    ready = were_ready.count(True)
    tell(kills, "kills,", ready, "of ready processes,", told(relayed=behind, straight=direct))
    assert len(were_ready) == kills
    assert ready >= kills / 2, "who is starting holds nothing"
    assert behind.acked == behind.attempt == behind.visible >= mails
    for record in (behind, direct):
        assert (record.lost, record.dup, record.unexpected) == (0, 0, 0), record
        assert record.acked + record.ambiguous == record.attempt
    assert "status=bounced" not in postfix.log
    assert owner.used() == behind.visible + direct.visible
    assert_kept_as_sent(chance, owner, relayed)


def test_nothing_is_lost_or_doubled_when_servers_are_killed_or_hang(
    fleet: Fleet,
    instance: Instance,
    postfix: Postfix,
    owner: Owner,
    chance: random.Random,
    tell: Callable[..., None],
    *,
    soak: bool,
) -> None:
    rounds, hanging_seconds, least = (10, 15, 5_000) if soak else (2, 2, 400)
    share = least // ((rounds + 1) * len(SERVERS))
    relayed = Stream(postfix.smtp, owner, MANY, RELAYED_PER_SECOND, large_each=LARGE_EACH)
    straight = Stream(
        fleet.of("ingest")[0].smtp, owner, MANY, STRAIGHT_PER_SECOND, large_each=LARGE_EACH
    )
    for name in in_turn(chance, SERVERS, rounds * len(SERVERS)):
        relayed.wait_for_more(chance.randint(share // 2, share * 3 // 2))
        instance.kill(name)
        time.sleep(chance.uniform(0.1, 0.6))
        instance.start(name)
    for name in in_turn(chance, SERVERS, len(SERVERS)):
        relayed.wait_for_more(chance.randint(share // 2, share * 3 // 2))
        instance.pause(name)
        time.sleep(hanging_seconds)
        instance.resume(name)
    relayed.wait_for_more(20)
    relayed.senders.wait_for(least, least / RELAYED_PER_SECOND + SENT_WITHIN)
    for stream in (relayed, straight):
        stream.end()
    refusals = straight.join().refusals.total() + relayed.join().refusals.total()
    wait_until_drained(instance, postfix)

    behind, direct = relayed.record(owner), straight.record(owner)
    tell(
        rounds * len(SERVERS), "kills", refusals, "refusals", told(relayed=behind, straight=direct)
    )
    assert behind.acked == behind.attempt == behind.visible >= least
    assert (behind.lost, behind.dup, behind.unexpected) == (0, 0, 0), behind
    # What was on its way to a broker that died or hung may be kept although its sender was told no.
    assert (direct.lost, direct.unexpected) == (0, 0), direct
    assert direct.dup <= straight.senders.connections * (rounds + 1), direct
    assert "status=bounced" not in postfix.log
    assert owner.used() == behind.visible + direct.visible
    assert_kept_as_sent(chance, owner, relayed)


def test_mail_is_taken_while_no_worker_runs_and_nothing_of_it_is_lost(
    fleet: Fleet,
    instance: Instance,
    postfix: Postfix,
    local: Owner,
    tell: Callable[..., None],
    *,
    soak: bool,
) -> None:
    mails, workers = 20_000 if soak else 1_000, fleet.of("worker")
    said_before, used_before = len(postfix.log), local.used()
    for worker in workers:
        worker.ask_to_stop()
    for worker in workers:
        assert worker.stop() == 0
        worker.close()
    try:
        begin = time.monotonic()
        relayed = Stream(postfix.smtp, local, mails)
        account = relayed.join(mails / RELAYED_PER_SECOND + SENT_WITHIN)
        postfix.wait_until_empty(mails / RELAYED_PER_SECOND + SEEN_WITHIN)
        arriving = mails / (time.monotonic() - begin)
        assert account.refusals.total() == 0
        assert postfix.log.count("status=sent", said_before) == mails
        assert "status=deferred" not in postfix.log[said_before:]
        assert local.count(address=relayed.address) == 0
    finally:
        for worker in workers:
            worker.launch()
    for worker in workers:
        worker.wait_until_ready(READY_WITHIN)

    begin = time.monotonic()
    local.wait_for(mails, mails / RELAYED_PER_SECOND + SEEN_WITHIN, address=relayed.address)
    draining = mails / (time.monotonic() - begin)
    wait_until_drained(instance, postfix)
    record = relayed.record(local)
    tell(f"{arriving:.0f} mails a second in, {draining:.0f} stored", told(relayed=record))
    assert (record.acked, record.visible) == (mails, mails)
    assert (record.lost, record.dup, record.unexpected) == (0, 0, 0), record
    assert local.used() == used_before + mails


def test_processes_are_asked_to_end_one_after_the_other_and_no_mail_is_lost_or_doubled(
    fleet: Fleet,
    instance: Instance,
    postfix: Postfix,
    local: Owner,
    tell: Callable[..., None],
    *,
    soak: bool,
) -> None:
    said_before, used_before = len(postfix.log), local.used()
    relayed = Stream(postfix.smtp, local, MANY, RELAYED_PER_SECOND)
    for _ in range(10 if soak else 1):
        for pair in zip(fleet.of("ingest"), fleet.of("worker"), strict=True):
            relayed.wait_for_more(RELAYED_PER_SECOND)
            for process in pair:
                process.ask_to_stop()
            for process in pair:
                assert process.stop() == 0
                process.close()
                process.launch()
            for process in pair:
                process.wait_until_ready(READY_WITHIN)
    relayed.wait_for_more(RELAYED_PER_SECOND)
    relayed.end()
    account = relayed.join()
    wait_until_drained(instance, postfix)

    record, said = relayed.record(local), postfix.log[said_before:]
    tell(said.count("status=deferred"), "times put off", told(relayed=record))
    assert account.refusals.total() == 0
    assert record.acked == record.attempt == record.visible
    assert (record.lost, record.dup, record.unexpected) == (0, 0, 0), record
    assert "status=bounced" not in said
    assert "while sending message body" not in said
    assert "while sending end of data" not in said
    assert local.used() == used_before + record.visible


def test_a_mail_that_ends_whoever_reads_it_is_kept_raw_and_all_others_are_stored(
    fleet: Fleet, owner: Owner, tell: Callable[..., None], *, soak: bool
) -> None:
    good, workers = 1_000 if soak else 200, fleet.of("worker")
    ((name, raw),) = numbered(1, size=24 * MIB, prefix="poison")
    most = 24 * MIB + max(resident_bytes(child) for worker in workers for child in worker.children)
    with (
        out_of_memory(workers, most) as killed,
        Line(fleet.of("ingest")[0].smtp, seconds=SENT_WITHIN) as line,
    ):
        stream = Stream(fleet.of("ingest")[0].smtp, owner, good)
        line.hello()
        stream.senders.wait_for(good // 2)
        assert send_until_told(line, raw, stream.address).startswith(b"250")
        account = stream.join()
        there = owner.wait_for(good + 1, SEEN_WITHIN, address=stream.address)
    tell(len(killed), "parsing processes were killed")

    assert there == good + 1
    listed = list(owner.listed())
    assert {item["subject"] for item in listed} == account.acknowledged | {name}
    (kept,) = (item for item in listed if item["unparsed"])
    assert kept["subject"] == name
    assert owner.raw(kept["id"]) == raw
    assert len(killed) >= WORKER_TRIES


def test_250_comes_after_the_broker_has_synced_the_mail(
    fleet: Fleet, instance: Instance, local: Owner, tmp_path: Path
) -> None:
    """What a kill cannot show; every sync takes long, so that none is in time by luck."""
    slow = f"delay_enter={SYNC_MILLISECONDS * 1000}"
    names = trace_mails(fleet, instance, local, tmp_path / "trace", slow)

    orders = {name: order(name, events(tmp_path / "trace")) for name in names}

    assert list(orders.values()) == [[*WRITTEN, "synced", "250"]] * TRACED


def test_the_check_of_the_broker_fails_when_nothing_is_synced(
    fleet: Fleet, instance: Instance, local: Owner, tmp_path: Path
) -> None:
    names = trace_mails(fleet, instance, local, tmp_path / "trace", "retval=0")

    orders = {name: order(name, events(tmp_path / "trace")) for name in names}

    assert list(orders.values()) == [[*WRITTEN, "250"]] * TRACED


def trace_mails(
    fleet: Fleet, instance: Instance, owner: Owner, trace: Path, syncs: str
) -> list[str]:
    """Send mails one by one while door and broker are traced; gives names."""
    doors, address, names = fleet.of("ingest"), owner.address(), []
    pids = [instance.pid("rabbitmq"), *(door.pid for door in doors)]
    with tracing(trace, *pids, syncs=syncs), Line(doors[0].smtp) as line:
        line.hello()
        for name, raw in numbered(TRACED, size=500, prefix="traced"):
            assert line.send(raw, address.encode()).startswith(b"250")
            names.append(name)
    owner.wait_for(len(names), SEEN_WITHIN, address=address)  # others tell what is counted anew
    return names


def order(name: str, trace: Iterable[Begin | End]) -> list[str]:
    """Tell in what order a mail came to us and to the broker's log, was synced and acknowledged.

    A sync counts that began when the mail had been written, and when it is over; not one that
    strace has only pretended.
    """
    done: list[str] = []
    began = False
    for event in trace:
        in_log, has_mail = event.file.endswith(LOG), f"Subject: {name}\\r" in event.text
        match event:
            case End() if event.call in READS and has_mail and not done:
                done.append(WRITTEN[0])
            case End() if event.call in WRITES and has_mail and in_log:
                done.append(WRITTEN[1])
            case Begin() if event.call in SYNCS and in_log and done == WRITTEN:
                began = True
            case End() if event.call in SYNCS and in_log and began:
                began = False
                if "INJECTED" not in event.text:
                    done.append("synced")
            case Begin() if event.call in WRITES and done and '"250 2.0.0 Message' in event.text:
                return [*done, "250"]
    return done
