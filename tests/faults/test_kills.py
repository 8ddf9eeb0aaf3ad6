"""Server and workers are killed at random moments while mail arrives, and nothing is lost."""

import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from forked import Forked
from inbox import Inbox, assert_sound, reading
from processes import is_running
from senders import Senders, compare, numbered
from served import Served, serving

pytestmark = pytest.mark.e2e

SEEN_WITHIN = 60.0
"""Seconds after the last restart; what is not visible by then is lost."""
WORKER_BACK_WITHIN = 30.0
"""Seconds: a worker that was killed is started again with the next batch."""
CHECKED_RAW = 50


def test_nothing_acknowledged_is_lost_or_doubled_when_processes_are_killed(
    tmp_path: Path,
    mailtape: Forked,
    chance: random.Random,
    tell: Callable[..., None],
    *,
    soak: bool,
) -> None:
    mails, kills = (5_000, 30) if soak else (2_500, 11)
    # One after the other, so that both kinds are killed whatever the chance: server, worker, …
    moments = sorted(chance.sample(range(1, mails), kills - 1))
    with (
        serving(tmp_path / "var", tmp_path / "log", mailtape) as served,
        reading(served) as inbox,
    ):
        senders = Senders(served.smtp, numbered(mails))
        senders.start()
        for number, moment in enumerate(moments):
            senders.wait_for(moment)
            if number % 2:
                _kill_a_worker(served, chance)
            else:
                served.kill()
                served.start()
        account = senders.join(120)
        served.kill()  # with whatever the workers have not got through yet
        served.start()
        inbox.wait_until_stored(SEEN_WITHIN)

        record = compare(account, inbox.subjects())
        tell(record)
        assert record.attempt == mails
        assert (record.lost, record.dup, record.unexpected) == (0, 0, 0), record
        assert record.acked + record.ambiguous == mails, account.refusals
        assert {reply[:1] for reply in account.refusals} <= {b"4"}, account.refusals
        _assert_raw_is_what_was_sent(inbox, mails, chance)
        assert served.stop() == 0
    assert_sound(tmp_path / "var")


def test_a_start_that_is_killed_at_any_moment_can_be_made_again(
    tmp_path: Path, mailtape: Forked, chance: random.Random, *, soak: bool
) -> None:
    with serving(tmp_path / "first", tmp_path / "log", mailtape) as served:
        begin = time.monotonic()
        served.kill()
        served.start()
        a_start = time.monotonic() - begin
    served = Served(tmp_path / "var", tmp_path / "log", {}, mailtape)
    tokens = set()
    for _ in range(40 if soak else 6):
        served.launch()
        time.sleep(chance.uniform(0.3, 1.0) * a_start)  # the moment is what is tried out
        served.kill()
        if (served.folder / "token").exists():
            tokens.add(served.token)

    with serving(tmp_path / "var", tmp_path / "log") as started, reading(started) as inbox:
        assert inbox.count() == 0, "the token is good"
        assert tokens <= {started.token}
        assert started.stop() == 0
    assert_sound(tmp_path / "var")


def _kill_a_worker(served: Served, chance: random.Random) -> None:
    """Kill a worker that is there; one that is between death and restart is waited for."""
    deadline = time.monotonic() + WORKER_BACK_WITHIN
    while not _killed_one_of(served.children, chance):
        assert time.monotonic() < deadline, "there was no worker to kill"
        time.sleep(0.01)


def _killed_one_of(children: list[int], chance: random.Random) -> bool:
    """Tell whether one was running and got the signal."""
    running = [child for child in children if is_running(child)]
    if not running:
        return False
    try:
        os.kill(chance.choice(running), signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


def _assert_raw_is_what_was_sent(inbox: Inbox, mails: int, chance: random.Random) -> None:
    sent = dict(numbered(mails))
    for message in chance.sample(list(inbox.listed()), CHECKED_RAW):
        assert inbox.raw(message["id"]) == sent[message["subject"]]
