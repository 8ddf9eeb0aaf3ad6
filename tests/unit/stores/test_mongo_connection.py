"""What the driver's errors become; those that need a replica set or a full disk are made here."""

import traceback

import pytest
from pymongo import errors
from structlog.testing import capture_logs

from mailtape.domain.errors import StoreFull, Unavailable
from mailtape.stores.mongo_connection import DocumentRefused, driver_errors


def _bulk(*write_errors: dict[str, object], unconfirmed: bool = False) -> errors.BulkWriteError:
    concern = [{"code": 64, "errmsg": "waiting for replication timed out"}] if unconfirmed else []
    return errors.BulkWriteError(
        {"writeErrors": list(write_errors), "writeConcernErrors": concern, "nInserted": 0}
    )


THERE = {"index": 0, "code": 11000, "errmsg": "E11000 duplicate key"}
BAD = {"index": 0, "code": 2, "errmsg": "bad value", "op": {"_id": "x", "data": b"a one-time code"}}


@pytest.mark.parametrize(
    "error",
    [
        errors.ServerSelectionTimeoutError("no servers"),
        errors.AutoReconnect("closed"),
        errors.NetworkTimeout("timed out"),
        errors.NotPrimaryError("not primary"),
        errors.WaitQueueTimeoutError("no connection is free"),
        errors.ExecutionTimeout("exceeded time limit", 50),
        errors.WTimeoutError("no majority", 64),
        errors.WriteConcernError("no majority", 100),
        errors.OperationFailure("going down", 91),
        errors.OperationFailure("authentication failed", 18),
        errors.OperationFailure("no such command", 59),
        errors.OperationFailure("cannot use 'w' > 1 when a host is not replicated", 2),
        errors.CursorNotFound("no such cursor", 43),
        errors.InvalidOperation("after close"),
        errors.ConfigurationError("an option that is none"),
        errors.WriteError("an error of tomorrow", 99999),
        _bulk(unconfirmed=True),
        _bulk(THERE, unconfirmed=True),
        _bulk(THERE, {"index": 1, "code": 11600, "errmsg": "interrupted at shutdown"}),
        _bulk({"index": 0, "code": 99999, "errmsg": "an error of tomorrow"}),
        _bulk(BAD, {"index": 1, "code": 11600, "errmsg": "interrupted at shutdown"}),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_passes_is_unavailable(error: errors.PyMongoError) -> None:
    with pytest.raises(Unavailable) as caught, driver_errors():
        raise error

    assert not isinstance(caught.value, StoreFull)


@pytest.mark.parametrize(
    "error",
    [
        errors.OperationFailure("not enough room", 14031),
        errors.OperationFailure("insert: database or disk is full (13)", 1),
        errors.WriteError("No space left on device", 8),
        _bulk(THERE, {"index": 1, "code": 14031, "errmsg": "out of disk space"}),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_full_disk_is_told_as_such(error: errors.PyMongoError) -> None:
    with pytest.raises(StoreFull), driver_errors():
        raise error


@pytest.mark.parametrize(
    "error",
    [_bulk(BAD), _bulk(THERE, BAD), errors.WriteError("too large", 10334)],
    ids=lambda error: type(error).__name__,
)
def test_what_is_said_of_a_document_is_not_the_servers_and_does_not_show_it(
    error: errors.PyMongoError,
) -> None:
    with pytest.raises(DocumentRefused) as caught, driver_errors():
        raise error

    assert "one-time code" not in "".join(traceback.format_exception(caught.value))


def test_the_log_has_the_servers_code_once_for_all_who_ask() -> None:
    with capture_logs() as logs:
        for code in (77777, 77777, 77778):
            with pytest.raises(Unavailable), driver_errors():
                raise errors.OperationFailure("an error of tomorrow", code)

    assert [(line["event"], line["error"]) for line in logs] == [
        ("mongodb.unusable", 77777),
        ("mongodb.unusable", 77778),
    ]
