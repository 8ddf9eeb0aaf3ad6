"""Parsing processes: real children, really killed."""

import asyncio
import contextlib
import os
import resource
import signal
import subprocess
import threading
from pathlib import Path

import pytest

from mailtape.domain.errors import Unavailable
from mailtape.mime.pack import unpack_bytes, unpack_content
from mailtape_workers.parsers import Parser, ParserDied, ParserSettings

RAW = b"Subject: hello\r\nFrom: a@example.org\r\n\r\ntext\r\n"


async def test_understands_mails_in_order() -> None:
    parser = Parser(ParserSettings())
    raws = [RAW.replace(b"hello", str(n).encode()) for n in range(20)]

    packed = await parser.understand(raws)

    await parser.close()
    assert [each.summary.subject for each in packed] == [str(n) for n in range(20)]
    assert [unpack_bytes(each.raw.zstd) for each in packed] == raws
    assert unpack_content(packed[0].content.zstd).text == "text\n"


async def test_starts_a_new_child_after_one_was_killed() -> None:
    parser = Parser(ParserSettings())
    await parser.start()
    first = parser.pid
    assert first is not None

    os.kill(first, signal.SIGKILL)
    with contextlib.suppress(ParserDied):  # or it is seen to be dead before it is asked
        await parser.understand([RAW])

    [packed] = await parser.understand([RAW])
    await parser.close()
    assert packed.summary.subject == "hello"
    assert parser.pid != first


async def test_kills_a_child_that_misses_its_deadline() -> None:
    parser = Parser(ParserSettings())
    await parser.start()
    parser._settings = ParserSettings(deadline_seconds=0.5)
    assert parser.pid is not None
    os.kill(parser.pid, signal.SIGSTOP)

    async with asyncio.timeout(10):
        with pytest.raises(ParserDied):
            await parser.understand([RAW])

    await parser.close()


async def test_a_child_ends_when_its_parent_hangs_up() -> None:
    parser = Parser(ParserSettings())
    await parser.start()
    pid = parser.pid

    await parser.close()

    assert not Path(f"/proc/{pid}").exists()


async def test_a_child_dies_of_too_much_memory_and_only_the_child() -> None:
    parser = Parser(ParserSettings(memory_bytes=300 * 2**20))
    await parser.start()

    with pytest.raises(ParserDied):
        await parser.understand([RAW + b"x" * (200 * 2**20)])

    [packed] = await parser.understand([RAW])
    await parser.close()
    assert packed.summary.subject == "hello"


async def test_a_child_that_cannot_be_started_is_no_fault_of_the_mail() -> None:
    parser = Parser(ParserSettings())
    most, hardest = resource.getrlimit(resource.RLIMIT_NOFILE)
    open_now = len(list(Path("/proc/self/fd").iterdir()))
    resource.setrlimit(resource.RLIMIT_NOFILE, (open_now, hardest))
    try:
        with pytest.raises(Unavailable):
            await parser.understand([RAW])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hardest))

    [packed] = await parser.understand([RAW])
    await parser.close()
    assert packed.summary.subject == "hello"


async def test_a_child_that_ends_before_it_is_ready_is_no_fault_of_the_mail() -> None:
    parser = Parser(ParserSettings(memory_bytes="no number"))  # type: ignore[arg-type]

    with pytest.raises(Unavailable):
        await parser.understand([RAW])

    await parser.close()


async def test_hung_children_are_ended_together_and_the_loop_goes_on() -> None:
    parsers = [Parser(ParserSettings()) for _ in range(4)]
    await asyncio.gather(*(parser.start() for parser in parsers))
    for parser in parsers:
        assert parser.pid is not None
        os.kill(parser.pid, signal.SIGSTOP)

    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(0.05)
            ticks += 1

    ticking = asyncio.create_task(tick())
    async with asyncio.timeout(3):
        await asyncio.gather(*(parser.close() for parser in parsers))
    ticking.cancel()

    assert ticks > 5
    assert not any(Path(f"/proc/{parser.pid}").exists() for parser in parsers)


async def test_a_child_that_the_system_is_slow_to_end_does_not_stop_the_loop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As one that waits for a disk that has gone away."""
    wait = subprocess.Popen.wait
    waits, may_end = threading.Event(), threading.Event()
    let_go: list[bool] = []

    def late(child: subprocess.Popen[bytes], timeout: float | None = None) -> int:
        waits.set()
        let_go.append(may_end.wait(10))
        return wait(child, timeout)

    parser = Parser(ParserSettings())
    await parser.start()
    parser._settings = ParserSettings(deadline_seconds=0.1)
    monkeypatch.setattr(subprocess.Popen, "wait", late)
    assert parser.pid is not None
    os.kill(parser.pid, signal.SIGSTOP)
    understanding = asyncio.create_task(parser.understand([RAW]))
    async with asyncio.timeout(20):
        while not waits.is_set():
            await asyncio.sleep(0.01)
    may_end.set()

    with pytest.raises(ParserDied):
        await understanding
    assert let_go == [True], "by the loop, which went on meanwhile"
    monkeypatch.undo()
    await parser.close()
