"""Postfix's policy delegation protocol, without sockets, time or logging.

A request is lines of `name=value` and an empty line; the reply is `action=...` and an empty line.
The order of the attributes is free, values may be empty and may contain `=`, and an attribute that
is not sent has its default. Of a repeated one the last counts, as in Postfix's own example; unknown
ones are passed over, because every release of Postfix adds some.

Invalid UTF-8 is tolerated, each wrong part read as U+FFFD: a client may say what it likes in HELO
or MAIL, and Postfix passes it on, so hanging up would put off mail that is fine. Whoever uses a
value must know that U+FFFD in it tells nothing of what was sent.

Everything else that Postfix would not send is a `ProtocolError`. The protocol's own rule for
trouble is to say nothing and hang up; Postfix then asks again, and finally uses its default action.
"""

from mailtape.domain.policy import PolicyRequest

REQUEST_OCTETS = 64 * 1024
"""Of one request, its empty line included. Postfix's own are below 1 KiB; what a client can put
into one (names, addresses, certificate subjects) is bounded by 2 KiB for each attribute."""

_KIND = b"smtpd_access_policy"
_MOST_DIGITS = 18


class ProtocolError(Exception):
    """The peer does not speak the protocol: log it, and hang up without a reply.

    The text repeats nothing of the peer's. `before` are the requests that came whole before the
    fault and are still to be answered.
    """

    def __init__(self, text: str, before: list[PolicyRequest]) -> None:
        super().__init__(text)
        self.before = before


class RequestReader:
    """Turns bytes, however they are cut, into requests."""

    def __init__(self, request_octets: int = REQUEST_OCTETS) -> None:
        self._limit = request_octets
        self._octets = 0
        """Of the lines of the request that is being read."""
        self._given: dict[bytes, bytes] = {}
        self._partial = b""
        """The line that has no end yet."""

    def feed(self, data: bytes) -> list[PolicyRequest]:
        """Take bytes; give the requests that have become whole, in order.

        Raises:
            ProtocolError: nothing that follows can be understood; do not feed this reader again.
        """
        if not self._octets and not self._partial:
            alone = _alone(data, self._limit)
            if alone is not None:
                return [alone]
        lines = (self._partial + data).split(b"\n")
        self._partial = lines.pop()
        has_nul = b"\0" in data
        octets, given = self._octets, self._given
        requests: list[PolicyRequest] = []
        for line in lines:
            octets += len(line) + 1
            if octets > self._limit:
                raise ProtocolError("request too long", requests)
            if line:
                name, equals, value = line.partition(b"=")
                if not equals:
                    raise ProtocolError("line without =", requests)
                if has_nul and b"\0" in line:
                    raise ProtocolError("NUL", requests)
                given[name] = value
            else:
                if not _is_ours(given):
                    raise ProtocolError("another kind of request", requests)
                requests.append(_request(given))
                octets, given = 0, {}
        if octets + len(self._partial) >= self._limit:  # its end could not fit any more
            raise ProtocolError("request too long", requests)
        if has_nul and b"\0" in self._partial:
            raise ProtocolError("NUL", requests)
        self._octets, self._given = octets, given
        return requests


def reply(action: str) -> bytes:
    """Write the reply to one request.

    Raises:
        ValueError: the action could end the reply early, or Postfix would not take it.
    """
    if not action or not action.isascii() or not action.isprintable():
        raise ValueError("an action is a line of printable ASCII")
    return b"action=%b\n\n" % action.encode("ascii")


def _alone(data: bytes, limit: int) -> PolicyRequest | None:
    """Read one request that came whole and with nothing else, as Postfix sends them.

    None for whatever is not quite that: it is read line by line.
    """
    end = len(data) - 2
    if data.find(b"\n\n") != end or len(data) > limit or b"\0" in data:
        return None
    given: dict[bytes, bytes] = {}
    for line in data[:end].split(b"\n"):
        name, equals, value = line.partition(b"=")
        if not equals:
            return None
        given[name] = value
    return _request(given) if _is_ours(given) else None


def _is_ours(given: dict[bytes, bytes]) -> bool:
    return given.get(b"request", _KIND) in {_KIND, b""}


def _request(given: dict[bytes, bytes]) -> PolicyRequest:
    return PolicyRequest(
        protocol_state=_text(given, b"protocol_state"),
        recipient=_text(given, b"recipient"),
        sender=_text(given, b"sender"),
        client_address=_text(given, b"client_address"),
        size=_number(given, b"size"),
        instance=_text(given, b"instance"),
        queue_id=_text(given, b"queue_id"),
        recipient_count=_number(given, b"recipient_count"),
    )


def _text(given: dict[bytes, bytes], name: bytes) -> str:
    value = given.get(name)
    return value.decode("utf-8", "replace") if value else ""


def _number(given: dict[bytes, bytes], name: bytes) -> int:
    """Read a number; 0, the word for unknown, when it is none."""
    digits = given.get(name, b"")
    return int(digits) if digits.isdigit() and len(digits) <= _MOST_DIGITS else 0
