"""The log: one line an event on standard error, JSON or for the eye.

An event is named `area.verb_past` (`message.stored`, `settings.refused`) and carries its facts as
keys. What the libraries log by way of the standard library (uvicorn, asyncio, SQLAlchemy, warnings)
comes out in the same form.

No secret is ever written: values are redacted by the name of their key, at any depth, and what
looks like a credential inside a string is cut out of it. That is a net below the rule, which is
not to log them; nor bodies, subjects or full addresses at `info`. Tracebacks never show the
values of variables.
"""

import logging
import re
import sys
from collections.abc import Mapping
from typing import Any, Final, Literal, TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

REDACTED: Final = "[redacted]"

_SECRET_KEY = re.compile(
    r"(pass(word|wd|phrase)?|secret|token|authori[sz]ation|cookie|credential|salt|api.?key"
    r"|private.?key|signature)(s|_?hash)?$",
    re.IGNORECASE,
)
_REPEATED = frozenset({"color_message"})
"""Keys of libraries that say the event again."""
_QUOTED = re.compile(
    r"(?P<before>\b(?:Duplicate entry|Incorrect [\w ]+ value:|Cannot convert string) ')"
    r".*'(?= (?:for|from) )"
)
"""A value in MySQL's own words."""
_CREDENTIAL = re.compile(
    r"(?P<before>\b(?:bearer|basic)\s+"
    r"|\b(?:amqps?|rediss?|mongodb(?:\+srv)?|mysql(?:\+\w+)?)://"  # addresses of servers
    r"|\b(?:auth (?:plain|login)|[a-z_-]*(?:password|secret|token|api[_-]?key|signature))"
    r"['\"]?\s*[=: ]\s*['\"]?)"
    r"(?P<value>[^\s'\"&,;]{6,})",
    re.IGNORECASE,
)


def configure_log(
    level: Literal["debug", "info", "warning", "error"],
    form: Literal["json", "console"] | None = None,
    stream: TextIO = sys.stderr,
) -> None:
    """Send every log of this process to `stream`; an unset form follows what `stream` is."""
    form = form or ("console" if stream.isatty() else "json")
    structlog.configure(
        processors=[*_facts(), structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelName(level.upper())),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*_facts(), structlog.stdlib.ExtraAdder()],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                *_rendering(form, colours=stream.isatty()),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access", "asyncio"):
        library = logging.getLogger(name)
        library.handlers = []
        library.propagate = True
    logging.getLogger("alembic").setLevel(logging.WARNING)  # what was migrated we say ourselves
    for name in ("aiormq.connection", "aio_pika", "asyncmy", "sqlalchemy.pool"):
        # A server that goes is one line of ours, not a traceback of each connection to it; and
        # MySQL's warnings, which asyncmy passes on, quote the values that they are about.
        logging.getLogger(name).setLevel(logging.CRITICAL)
    logging.getLogger("pymongo").setLevel(logging.WARNING)  # below it are whole commands
    logging.getLogger("aiormq.channel").addFilter(_without_contents)
    logging.captureWarnings(capture=True)


def _without_contents(record: logging.LogRecord) -> bool:
    """Leave the kind of what a line is about: the text of a message is all of the mail in it."""
    if isinstance(record.args, tuple):
        record.args = tuple(type(argument).__name__ for argument in record.args)
    return True


def scrub(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    """Take secrets out of an event; the last processor before it is written."""
    del logger, method
    return {key: _scrubbed(key, value) for key, value in event.items() if key not in _REPEATED}


def _scrubbed(key: object, value: object) -> object:
    if isinstance(key, str) and _SECRET_KEY.search(key) and not isinstance(value, bool | int):
        return REDACTED
    match value:
        case str():
            return _cut(value)
        case Mapping():
            return {inner: _scrubbed(inner, kept) for inner, kept in value.items()}
        case list() | tuple() | set() | frozenset():
            return [_scrubbed(None, kept) for kept in value]
        case None | bool() | int() | float():
            return value
        case _:
            return _cut(str(value))


def _cut(text: str) -> str:
    text = _QUOTED.sub(rf"\g<before>{REDACTED}'", text)
    return _CREDENTIAL.sub(rf"\g<before>{REDACTED}", text)


def _facts() -> list[Processor]:
    return [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.stdlib.PositionalArgumentsFormatter(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]


def _rendering(form: Literal["json", "console"], *, colours: bool) -> list[Processor]:
    # The plain traceback has no local variables: they are where passwords and mail lie about.
    plain: list[Processor] = [structlog.processors.format_exc_info, scrub]
    if form == "json":
        return [*plain, structlog.processors.JSONRenderer()]
    renderer: Any = structlog.dev.ConsoleRenderer(
        colors=colours, exception_formatter=structlog.dev.plain_traceback
    )
    return [*plain, renderer]
