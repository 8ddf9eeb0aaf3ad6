"""What cannot be broken on a running server: clocks, majorities, what a server tells of itself."""

from datetime import UTC, datetime, timedelta

import pytest

from mailtape.rows.diagnosis import Server
from mailtape.services.diagnosis import fault_of_clock, faults_of_server
from mailtape.stores.mongo_diagnosis import fault_of
from mailtape.stores.redis_diagnosis import fault_of_memory

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
ASKED = (NOW, NOW + timedelta(milliseconds=200))
RIGHT = Server("10.11", 1, "STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION", 40, NOW)


@pytest.mark.parametrize("seconds", [-1.0, 0.0, 1.2])
def test_a_clock_may_be_a_second_off_and_the_answer_on_its_way(seconds: float) -> None:
    assert fault_of_clock("REDIS_URL", NOW + timedelta(seconds=seconds), ASKED) is None


@pytest.mark.parametrize(
    ("seconds", "apart"), [(-1.1, "1.1 s"), (1.3, "1.1 s"), (3600.2, "3600.0")]
)
def test_a_clock_that_is_further_off_is_named(seconds: float, apart: str) -> None:
    fault = fault_of_clock("REDIS_URL", NOW + timedelta(seconds=seconds), ASKED)

    assert fault is not None
    assert "REDIS_URL" in fault
    assert apart in fault


def test_a_mysql_that_is_right_has_no_fault() -> None:
    assert faults_of_server(RIGHT, 10, ASKED) == []


@pytest.mark.parametrize(
    ("server", "said"),
    [
        (RIGHT._replace(flush_log_at_commit=0), "innodb_flush_log_at_trx_commit"),
        (RIGHT._replace(sql_mode="NO_ENGINE_SUBSTITUTION"), "sql_mode"),
        (RIGHT._replace(max_connections=39), "DB_CONNECTIONS"),
        (RIGHT._replace(clock=NOW + timedelta(hours=1)), "clock"),
    ],
)
def test_what_is_set_otherwise_at_a_mysql_is_named(server: Server, said: str) -> None:
    (fault,) = faults_of_server(server, 10, ASKED)

    assert said in fault
    assert "DB_HOST" in fault


def test_a_write_that_a_majority_has_is_right() -> None:
    assert fault_of({"ok": 1.0, "n": 1}) is None


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ({"ok": 1.0, "n": 1, "writeConcernError": {"code": 64}}, "majority"),
        ({"ok": 1.0, "n": 1, "writeConcernError": {"code": 100}}, "majority"),
        ({"ok": 1.0, "n": 0, "writeErrors": [{"code": 13}]}, "readWrite"),
        ({"ok": 1.0, "n": 0, "writeErrors": [{"code": 14031}]}, "14031"),
        ({"ok": 1.0, "n": 0}, "did not write"),
        ({"ok": 0.0, "n": 1}, "did not write"),
    ],
)
def test_a_write_that_was_answered_otherwise_is_named(answer: dict[str, object], said: str) -> None:
    fault = fault_of(answer)

    assert fault is not None
    assert said in fault


@pytest.mark.parametrize(
    ("told", "faults"),
    [
        ("maxmemory:0\r\nmaxmemory_policy:allkeys-lru\r\n", 0),
        ("# Memory\r\nmaxmemory:1024\r\nmaxmemory_policy:noeviction\r\n", 0),
        ("maxmemory:1024\r\nmaxmemory_policy:allkeys-lru\r\n", 1),
        ("maxmemory:1024\r\nmaxmemory_policy:volatile-ttl\r\n", 1),
    ],
)
def test_a_redis_may_not_drop_what_is_counted(told: str, faults: int) -> None:
    assert [fault_of_memory(told)].count(None) == 1 - faults
