import io
import json
import logging
import warnings
from collections.abc import Iterator

import pytest
import structlog
from aiormq.abc import DeliveredMessage
from pamqp import commands as spec
from pamqp.header import ContentHeader

from mailtape.log import REDACTED, configure_log, scrub

SECRETS = {
    "password": "correct-horse-battery",
    "admin_password": "staple-correct-horse",
    "api_token": "mt_0123456789abcdef",
    "token_hash": "9f86d081884c7d65",
    "jwt_secret": "vN3kq0Zt7yXw2LrB9pHs4EdJ",
    "api_token_salt": "Qe5Tz1Rb8WnYk3Vx7MgLs0Pd",
    "Authorization": "Bearer eyJhbGciOiJIUzI1NiJ9",
    "set-cookie": "refresh_token=s3ssion-v4lue",
    "credentials": "plain-credentials",
}


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    root = logging.getLogger()
    before, level = root.handlers, root.level
    configured = structlog.get_config()
    yield
    root.handlers, root.level = before, level
    logging.captureWarnings(capture=False)
    structlog.configure(**configured)


@pytest.mark.parametrize("form", ["json", "console"])
def test_no_secret_reaches_the_log_by_any_way(form: str) -> None:
    written = io.StringIO()
    configure_log("debug", form, written)  # type: ignore[arg-type]
    log = structlog.get_logger("mailtape.test")

    log.info("session.opened", **SECRETS)
    log.info("session.opened", request={"headers": [SECRETS], "who": "qa"})
    log.info("GET %s", f"/reset?token={SECRETS['api_token']}&x=1")
    log.info("failed", error=ValueError(f"password={SECRETS['password']}"))
    log.info("wire.heard", line=f"AUTH PLAIN {SECRETS['token_hash']}")
    logging.getLogger("uvicorn.access").info('"%s"', f"/x?access_token={SECRETS['api_token']}")
    logging.getLogger("a.library").warning("sent %s", SECRETS["Authorization"])
    for scheme in ("amqp", "amqps", "redis", "mongodb", "mongodb+srv", "mysql+asyncmy"):
        log.info("failed", error=f"cannot use {scheme}://mailtape:{SECRETS['password']}@a/b")
    try:
        _fail_with(SECRETS["password"])
    except ValueError:
        log.exception("work.failed")

    text = written.getvalue()
    assert len(text.splitlines()) >= 8
    for secret in SECRETS.values():
        assert secret.removeprefix("Bearer ") not in text
        assert secret.removeprefix("refresh_token=") not in text


def _fail_with(password: str) -> None:
    if password:
        raise ValueError("no reason given")


def test_writes_one_json_object_a_line_with_facts() -> None:
    written = io.StringIO()
    configure_log("info", None, written)

    with structlog.contextvars.bound_contextvars(ingest_id="0199"):
        structlog.get_logger("mailtape.test").info("message.stored", recipients=2)
    logging.getLogger("uvicorn.error").warning("shutting %s", "down")
    structlog.get_logger().debug("never.shown")

    ours, theirs = [json.loads(line) for line in written.getvalue().splitlines()]
    assert ours["timestamp"].endswith("Z")
    assert {k: ours[k] for k in ("event", "level", "logger", "recipients", "ingest_id")} == {
        "event": "message.stored",
        "level": "info",
        "logger": "mailtape.test",
        "recipients": 2,
        "ingest_id": "0199",
    }
    assert (theirs["event"], theirs["level"]) == ("shutting down", "warning")


def test_a_server_that_goes_is_not_told_of_by_the_library_as_well() -> None:
    written = io.StringIO()
    configure_log("info", "json", written)

    logging.getLogger("aiormq.connection").error("error when creating transport")
    logging.getLogger("sqlalchemy.pool.impl.AsyncAdaptedQueuePool").error("Exception during reset")
    logging.getLogger("aiormq.channel").error("This is a fault")

    (line,) = written.getvalue().splitlines()
    assert json.loads(line)["event"] == "This is a fault"


def test_a_library_that_shows_a_mail_names_its_kind() -> None:
    returned = spec.Basic.Return(312, "NO_ROUTE", "", "mailtape")
    message = DeliveredMessage(returned, ContentHeader(), b"your one-time code", None)  # type: ignore[arg-type]
    written = io.StringIO()
    configure_log("debug", "json", written)

    logging.getLogger("aiormq.channel").error("Unhandled message %r returning", message)
    logging.getLogger("asyncmy").warning("Truncated incorrect INTEGER value: 'your one-time code'")
    logging.getLogger("pymongo.command").debug({"insert": "bodies", "data": b"your one-time code"})

    (line,) = written.getvalue().splitlines()
    assert json.loads(line)["event"] == "Unhandled message 'DeliveredMessage' returning"


@pytest.mark.parametrize(
    "words",
    [
        """Duplicate entry 'it's-ann@example.com' for key 'users.email'""",
        r"""Incorrect string value: '\xF0ann@example.com' for column 'subject' at row 1""",
    ],
)
def test_a_value_in_a_servers_words_is_cut_out(words: str) -> None:
    written = io.StringIO()
    configure_log("info", "json", written)

    structlog.get_logger().error("batch.failed", exc_info=ValueError(1062, words))

    assert "ann@example.com" not in written.getvalue()
    assert "ValueError" in written.getvalue()


def test_a_stranger_cannot_make_a_second_line() -> None:
    written = io.StringIO()
    configure_log("info", "json", written)

    structlog.get_logger().info("wire.heard", helo='x\n{"event": "forged"}')

    assert len(written.getvalue().splitlines()) == 1


def test_warnings_of_the_interpreter_are_logged() -> None:
    written = io.StringIO()
    configure_log("info", "json", written)

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(capture=True)
        warnings.warn("this is old", DeprecationWarning, stacklevel=1)
        logging.captureWarnings(capture=False)

    assert "this is old" in json.loads(written.getvalue())["event"]


def test_figures_about_secrets_are_no_secrets() -> None:
    assert scrub(None, "info", {"tokens": 3, "password": True, "token": "abc"}) == {
        "tokens": 3,
        "password": True,
        "token": REDACTED,
    }
