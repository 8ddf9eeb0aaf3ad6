"""Every way in which Mailtape says no, as facts.

    MailtapeError
    ├── Refused             the caller must change something
    │   ├── Invalid             a value breaks a stated rule
    │   ├── NotFound            it does not exist, or belongs to somebody else: never told apart
    │   ├── Conflict            it exists already
    │   ├── Unauthenticated     who are you?
    │   ├── Forbidden           we know who you are
    │   ├── NotSupported        a later step of the product
    │   └── TooMany             slow down; `retry_after` says until when
    └── Unavailable         a part of ours is down or full: the same request may succeed later

Each class has a stable `code` for programs, `temporary` for the rims (API, SMTP, workers each own
one table from class to answer) and a message that is safe to show a stranger. What only we may
know goes to the log.
"""

from typing import ClassVar


class MailtapeError(Exception):
    """Something was refused or could not be done; `code` says what, for programs."""

    temporary: ClassVar[bool] = False
    code: str = "error"

    def __init__(self, message: str, *, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        if code is not None:
            self.code = code


class Refused(MailtapeError):
    """The request, as it stands, will never succeed."""


class Invalid(Refused):
    """A value breaks a rule; `field` names it when one does."""

    code = "invalid"

    def __init__(self, message: str, *, code: str | None = None, field: str | None = None) -> None:
        super().__init__(message, code=code)
        self.field = field


class NotFound(Refused):
    """There is no such thing for this caller."""

    code = "not_found"


class Conflict(Refused):
    """The thing to be made exists already."""

    code = "conflict"


class Unauthenticated(Refused):
    """The credentials are missing, wrong, expired or revoked."""

    code = "unauthenticated"


class Forbidden(Refused):
    """The caller is known and may not do this."""

    code = "forbidden"


class NotSupported(Refused):
    """A documented ability that this installation does not have yet."""

    code = "not_supported"


class TooMany(Refused):
    """A limit is used up; it is free again after `retry_after` seconds. `limit` is its size."""

    temporary = True
    code = "rate_limited"

    def __init__(
        self, message: str, *, retry_after: int, limit: int | None = None, code: str | None = None
    ) -> None:
        super().__init__(message, code=code)
        self.retry_after = retry_after
        self.limit = limit


class Unavailable(MailtapeError):
    """A store is down or full, or cannot be sure; the sender keeps the mail and tries again."""

    temporary = True
    code = "unavailable"


class StoreFull(Unavailable):
    """The disk or the queue has no room; nothing was kept."""

    code = "insufficient_storage"
