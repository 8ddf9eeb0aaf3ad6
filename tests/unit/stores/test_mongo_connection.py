"""What the driver's errors become; those that need a replica set or a full disk are made here."""

import pytest
from pymongo import errors

from mailtape.domain.errors import StoreFull, Unavailable
from mailtape.stores.mongo_connection import driver_errors


def _bulk(*write_errors: dict[str, object], unconfirmed: bool = False) -> errors.BulkWriteError:
    concern = [{"code": 64, "errmsg": "waiting for replication timed out"}] if unconfirmed else []
    return errors.BulkWriteError(
        {"writeErrors": list(write_errors), "writeConcernErrors": concern, "nInserted": 0}
    )


THERE = {"index": 0, "code": 11000, "errmsg": "E11000 duplicate key"}


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
        _bulk(unconfirmed=True),
        _bulk(THERE, unconfirmed=True),
        _bulk(THERE, {"index": 1, "code": 11600, "errmsg": "interrupted at shutdown"}),
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
    [
        errors.OperationFailure("no such command", 59),
        errors.InvalidOperation("after close"),
        errors.DocumentTooLarge("more than 16 MB"),
        errors.ConfigurationError("an option that is none"),
        _bulk({"index": 0, "code": 2, "errmsg": "bad value"}),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_fault_of_ours_stays_one(error: errors.PyMongoError) -> None:
    with pytest.raises(type(error)), driver_errors():
        raise error
