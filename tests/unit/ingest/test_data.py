"""The DATA phase byte by byte: where it ends, what it keeps, when it gives up."""

import time
import tracemalloc

import pytest

from mailtape_ingest.data import PATIENCE, Budget, DataReader, Progress


def read(wire: bytes, limit: int = 1000) -> DataReader:
    reader = DataReader(limit, Budget(2**30))
    assert reader.feed(wire) is Progress.ENDED
    return reader


@pytest.mark.parametrize(
    ("wire", "message"),
    [
        (b".\r\n", b""),
        (b"\r\n.\r\n", b"\r\n"),
        (b"a\r\n.\r\n", b"a\r\n"),
        (b"..\r\n.\r\n", b".\r\n"),
        (b"...\r\n.\r\n", b"..\r\n"),
        (b".a\r\n.\r\n", b"a\r\n"),
        (b"a\r\n..\r\n..b\r\n.c\r\n.\r\n", b"a\r\n.\r\n.b\r\nc\r\n"),
        (b"a.\r\n.\r\n", b"a.\r\n"),
        (b"\x00\xff\r\n.\r\n", b"\x00\xff\r\n"),
    ],
)
def test_takes_the_stuffed_dots_out_and_nothing_else(wire: bytes, message: bytes) -> None:
    assert read(wire).message == message


@pytest.mark.parametrize(
    "lookalike",
    [
        b"\n.\n",
        b"\n.\r\n",
        b"\n.\r",
        b"\r.\r",
        b"\r.\n",
        b"\r.\r\n",
        b"\r\n.\n",
        b"\r\n.\r",
        b"\r\n\x00.\r\n",
        b"\r\n.\x00\r\n",
        b"\r\n.\r\r\n",
        b"\r\n. \r\n",
    ],
)
def test_ends_at_no_dot_but_the_one_between_two_whole_line_ends(lookalike: bytes) -> None:
    reader = read(b"a" + lookalike + b"MAIL FROM:<smuggled@x>\r\n.\r\nNOOP\r\n")
    assert reader.message is not None
    assert b"smuggled" in reader.message
    assert reader.remainder == b"NOOP\r\n"


def test_gives_back_what_came_behind_the_dot() -> None:
    assert read(b"a\r\n.\r\nQUIT\r\n.\r\n").remainder == b"QUIT\r\n.\r\n"


@pytest.mark.parametrize("cut", range(1, 9))
def test_finds_an_end_that_is_cut_in_two(cut: int) -> None:
    wire = b"ab\r\n.\r\nQ"
    reader = DataReader(1000, Budget(2**30))
    first = reader.feed(wire[:cut])
    if first is Progress.READING:
        assert reader.feed(wire[cut:]) is Progress.ENDED
    assert reader.message == b"ab\r\n"


def test_counts_the_message_without_its_stuffing() -> None:
    lines = b"..\r\n" * 250  # 750 octets of message in 1,000 on the wire
    assert read(lines + b".\r\n", limit=750).message == b".\r\n" * 250
    assert read(lines + b".\r\n", limit=749).message is None


def test_reads_an_oversized_message_to_its_end_and_keeps_nothing_of_it() -> None:
    limit = 100_000
    reader = DataReader(limit, Budget(2**30))
    tracemalloc.start()
    try:
        for _ in range(35):
            assert reader.feed(b"x" * 10_000) is Progress.READING
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert reader.feed(b"\r\n.\r\nNOOP\r\n") is Progress.ENDED
    assert reader.message is None
    assert reader.remainder == b"NOOP\r\n"
    assert peak < limit + 64 * 1024


def test_gives_up_past_four_times_the_limit() -> None:
    reader = DataReader(1000, Budget(2**30))
    assert reader.feed(b"x" * 1000 * PATIENCE) is Progress.READING
    assert reader.feed(b"x") is Progress.GIVEN_UP


def test_takes_a_line_as_long_as_a_message() -> None:
    line = b"x" * 10_000_000
    assert read(line + b"\r\n.\r\n", limit=10_000_002).message == line + b"\r\n"


@pytest.mark.parametrize("unit", [b"\r\n.", b"\r\n..", b"\r", b"\n", b".", b"\r\n.\r", b"x"])
@pytest.mark.parametrize("size", [1, 5, 4096])
def test_needs_time_in_step_with_the_bytes(unit: bytes, size: int) -> None:
    wire = b"x" + unit * (300_000 // len(unit))
    reader = DataReader(10_000_000, Budget(2**30))
    start = time.process_time()
    for position in range(0, len(wire), size):
        reader.feed(wire[position : position + size])
        if reader.remainder:
            break
    assert time.process_time() - start < 3  # measured: 0.3 byte by byte; quadratic takes minutes


def test_gives_back_what_it_let_go_of_and_says_why() -> None:
    budget = Budget(1000)
    crowded, too_large = DataReader(1000, budget), DataReader(300, budget)

    crowded.feed(b"x" * 600)
    too_large.feed(b"y" * 300)
    assert budget.taken == 904  # each with the CRLF in front
    crowded.feed(b"x" * 200)
    assert budget.taken == 302
    too_large.feed(b"y")

    assert budget.taken == 0
    assert crowded.feed(b"\r\n.\r\n") is too_large.feed(b"\r\n.\r\n") is Progress.ENDED
    assert (crowded.message, crowded.crowded_out) == (None, True)
    assert (too_large.message, too_large.crowded_out) == (None, False)
